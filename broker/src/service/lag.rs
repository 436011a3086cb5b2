//! Consumer group lag, in records and in time.
//!
//! The time lag is the age of the oldest unread record: now minus that record's timestamp. It grows while the group does
//! not read, with or without new records, and is zero when nothing is left to read. Computing it takes one batch read,
//! and only where unread records exist; the timestamp of an offset is cached until the group has moved on.
//!
//! Where a group has committed nothing, its start position is unknown, and so is its lag, unless the partition is empty.
//! Such partitions are excluded from the sums and counted separately: a lag of 0 without that count would claim that
//! everything is read.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_model::PartitionId;

use super::{FetchError, GroupError, PartitionView, Service, TopicOffsets};
use crate::partition::first_record;

/// Timestamp that stands for "compaction has left no record"; later than any time.
const NOTHING_LEFT_MS: i64 = i64::MAX;

/// Lag of a group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    pub partition: i32,
    /// The committed offset.
    pub committed: i64,
    /// First offset that exists.
    pub log_start: i64,
    /// Offset after the last record.
    pub end: i64,
    /// Unread offsets, without those that retention has removed.
    pub records: i64,
    /// Age of the oldest unread record in milliseconds; `None` when it has no timestamp or cannot be read.
    pub age_ms: Option<i64>,
}

#[cfg(test)]
impl PartitionLag {
    /// The lag of a group that has read none of `records` records.
    pub(crate) fn of(records: i64, age_ms: Option<i64>) -> PartitionLag {
        PartitionLag { partition: 0, committed: 0, log_start: 0, end: records, records, age_ms }
    }
}

/// Lag of a group in a topic that it reads: one with committed offsets, or one that a member subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLag {
    pub topic: Arc<str>,
    /// Partitions whose lag is known, sorted.
    pub partitions: Vec<PartitionLag>,
    /// Other partitions with records: the group has committed nothing there, or another node leads them.
    pub uncounted: usize,
}

impl TopicLag {
    /// Unread records in all partitions.
    pub fn records(&self) -> i64 {
        self.partitions.iter().map(|lag| lag.records).sum()
    }

    /// The greatest age; `None` unless it is known for every counted partition.
    pub fn age_ms(&self) -> Option<i64> {
        let ages: Option<Vec<i64>> = self.partitions.iter().map(|lag| lag.age_ms).collect();
        ages?.into_iter().max()
    }
}

/// Cache of the timestamps of the records that groups read next. Entries that were not used between two calls of
/// [`forget_unused`](RecordTimes::forget_unused) are evicted.
#[derive(Debug)]
pub struct RecordTimes {
    known: HashMap<(PartitionId, i64), KnownTime>,
    /// Batches that may still be read before the next call.
    reads_left: usize,
}

#[derive(Clone, Copy, Debug)]
struct KnownTime {
    timestamp_ms: Option<i64>,
    used: bool,
}

impl RecordTimes {
    /// An empty cache that may read `reads_max` batches.
    pub fn new(reads_max: usize) -> RecordTimes {
        RecordTimes { known: HashMap::new(), reads_left: reads_max }
    }

    /// Evicts unused entries and starts a new round of at most `reads_max` batch reads.
    pub fn forget_unused(&mut self, reads_max: usize) {
        self.known.retain(|_, known| std::mem::take(&mut known.used));
        self.reads_left = reads_max;
    }

    /// The timestamp of the record at an offset, read with `find` when it is not cached; `None` when the record has none,
    /// or when no more batches may be read.
    fn of(
        &mut self,
        at: (PartitionId, i64),
        find: impl FnOnce() -> Result<Option<i64>, FetchError>,
    ) -> Option<i64> {
        if let Some(known) = self.known.get_mut(&at) {
            known.used = true;
            return known.timestamp_ms;
        }
        self.reads_left = self.reads_left.checked_sub(1)?;
        // A failed read is not cached, so that it is retried.
        let timestamp_ms = find().ok()?;
        self.known.insert(at, KnownTime { timestamp_ms, used: true });
        timestamp_ms
    }
}

impl Service {
    /// The lag of a group in every topic that it reads, sorted. Deleted topics are left out. May block on disk reads.
    pub fn group_lag(
        &self,
        group: &str,
        now_ms: i64,
        times: &mut RecordTimes,
    ) -> Result<Vec<TopicLag>, GroupError> {
        let offsets = self.groups().all_offsets(group)?;
        let subscribed = self.groups().subscribed_topics(group)?;
        Ok(read_topics(offsets, subscribed)
            .into_iter()
            .filter_map(|(topic, committed)| self.topic_lag(topic, &committed, now_ms, times))
            .collect())
    }

    fn topic_lag(
        &self,
        topic: Arc<str>,
        committed: &BTreeMap<i32, i64>,
        now_ms: i64,
        times: &mut RecordTimes,
    ) -> Option<TopicLag> {
        let view = self.topic(&topic)?;
        // Compaction may remove the record at an offset, which makes its cached timestamp wrong.
        let cacheable = !view.config.compact;
        let (mut partitions, mut uncounted) = (Vec::new(), 0);
        for partition in &view.partitions {
            let committed = committed.get(&partition.index).copied();
            match self.partition_lag(partition, committed, now_ms, cacheable, times) {
                Some(Known::Lag(lag)) => partitions.push(lag),
                Some(Known::Empty) => {}
                None => uncounted += 1,
            }
        }
        (!partitions.is_empty() || uncounted > 0).then_some(TopicLag { topic, partitions, uncounted })
    }

    fn partition_lag(
        &self,
        partition: &PartitionView,
        committed: Option<i64>,
        now_ms: i64,
        cacheable: bool,
        times: &mut RecordTimes,
    ) -> Option<Known> {
        let host = &self.inner.shards.get(&partition.group)?.host;
        let (log_start, end) =
            host.partition(partition.id, |state| (state.log_start(), state.next_offset()))?;
        let Some(committed) = committed else {
            return (log_start >= end).then_some(Known::Empty);
        };
        let next = committed.max(log_start);
        let records = (end - next).max(0);
        let age_ms = if records == 0 {
            Some(0)
        } else {
            let at = (partition.id, next);
            if !cacheable {
                times.known.remove(&at);
            }
            let find = || {
                let found = first_record(host, partition.id, next)?;
                let time = found.map_or(NOTHING_LEFT_MS, |record| record.timestamp_ms);
                Ok(Some(time).filter(|time| *time >= 0))
            };
            times.of(at, find).map(|time| now_ms.saturating_sub(time).max(0))
        };
        Some(Known::Lag(PartitionLag {
            partition: partition.index,
            committed,
            log_start,
            end,
            records,
            age_ms,
        }))
    }
}

/// A partition's lag, where it is known.
enum Known {
    Lag(PartitionLag),
    /// There is nothing to read, whatever the start position.
    Empty,
}

/// The topics that a group reads, with its committed offsets.
fn read_topics(
    offsets: Vec<TopicOffsets>,
    subscribed: Vec<Arc<str>>,
) -> BTreeMap<Arc<str>, BTreeMap<i32, i64>> {
    let mut topics: BTreeMap<Arc<str>, BTreeMap<i32, i64>> =
        subscribed.into_iter().map(|topic| (topic, BTreeMap::new())).collect();
    for of_topic in offsets {
        let committed = of_topic.partitions.into_iter().filter_map(|(at, offset)| Some((at, offset?.offset)));
        topics.entry(of_topic.topic).or_default().extend(committed);
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::{super::CommittedOffset, *};

    const AT: (PartitionId, i64) = (PartitionId(1), 5);

    #[test]
    fn a_timestamp_is_read_once_and_evicted_when_unused() {
        let mut times = RecordTimes::new(10);
        assert_eq!(times.of(AT, || Ok(Some(7))), Some(7));
        times.forget_unused(10);
        assert_eq!(times.of(AT, || panic!("it is cached")), Some(7));
        times.forget_unused(10);
        times.forget_unused(10);
        assert_eq!(times.of(AT, || Ok(None)), None);
        assert_eq!(times.of(AT, || panic!("its absence is cached")), None);
    }

    #[test]
    fn reads_are_bounded_and_failed_reads_are_retried() {
        let mut times = RecordTimes::new(2);
        assert_eq!(times.of(AT, || Err(FetchError::Unavailable)), None);
        assert_eq!(times.of(AT, || Ok(Some(7))), Some(7));
        assert_eq!(times.of((AT.0, 6), || panic!("no more may be read")), None);
        times.forget_unused(1);
        assert_eq!(times.of((AT.0, 6), || Ok(Some(8))), Some(8));
    }

    #[test]
    fn a_group_reads_topics_with_committed_offsets_and_subscribed_topics() {
        let offset = CommittedOffset {
            offset: 7,
            leader_epoch: -1,
            metadata: String::new(),
            commit_ms: 0,
            expire_ms: None,
        };
        let committed = TopicOffsets { topic: "a".into(), partitions: vec![(2, Some(offset)), (3, None)] };
        let read = read_topics(vec![committed], vec!["b".into(), "a".into()]);
        let expected = [("a".into(), BTreeMap::from([(2, 7)])), ("b".into(), BTreeMap::new())];
        assert_eq!(read, BTreeMap::from(expected));
    }

    #[test]
    fn a_topic_without_counted_partitions_has_no_age() {
        let topic = TopicLag { topic: "t".into(), partitions: Vec::new(), uncounted: 2 };
        assert_eq!((topic.records(), topic.age_ms()), (0, None));
    }

    #[test]
    fn the_age_of_a_topic_is_that_of_its_most_delayed_partition_if_all_are_known() {
        let lag = PartitionLag::of;
        let topic = |partitions| TopicLag { topic: "t".into(), partitions, uncounted: 0 };
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, Some(50)), lag(0, Some(0))]).age_ms(), Some(50));
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, None)]).age_ms(), None);
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, None)]).records(), 3);
    }
}
