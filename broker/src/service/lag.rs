//! How far groups are behind: in records, and in time.
//!
//! The lag in time is the age of the oldest record that the group has not read: now, less that record's timestamp. It
//! grows while nobody reads, whether or not anyone writes, and is zero where nothing is left to read. Finding it takes
//! one batch, and only where something is left; what was found for an offset is remembered until the group has
//! moved on.
//!
//! Where a group has committed nothing nobody knows where it would begin, so its lag there is not known, unless there is
//! nothing to read. Such partitions are not in the sums, and are counted beside them: a lag of 0 without that number
//! would say that everything is read.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_model::PartitionId;

use super::{FetchError, GroupError, PartitionView, Service, TopicOffsets};
use crate::partition::first_record;

/// Later than any time: that of a record where compaction has left none.
const NOTHING_LEFT_MS: i64 = i64::MAX;

/// How far a group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition's number.
    pub partition: i32,
    /// What the group has committed.
    pub committed: i64,
    /// First offset that there is.
    pub log_start: i64,
    /// Offset behind the last record.
    pub end: i64,
    /// Offsets that are left to read; those that retention has removed are not.
    pub records: i64,
    /// Age of the oldest of them in milliseconds; none when it has no time or cannot be read.
    pub age_ms: Option<i64>,
}

#[cfg(test)]
impl PartitionLag {
    /// A group that has read nothing of so many records.
    pub(crate) fn of(records: i64, age_ms: Option<i64>) -> PartitionLag {
        PartitionLag { partition: 0, committed: 0, log_start: 0, end: records, records, age_ms }
    }
}

/// The same in a topic that the group reads: of which it has committed something, or to which a member subscribes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLag {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Those whose lag is known, by partition.
    pub partitions: Vec<PartitionLag>,
    /// Other partitions with records: of these the group has committed nothing, or another node leads them.
    pub uncounted: usize,
}

impl TopicLag {
    /// Records that are left in all partitions.
    pub fn records(&self) -> i64 {
        self.partitions.iter().map(|lag| lag.records).sum()
    }

    /// The greatest age; none when it is not known of every partition that is counted.
    pub fn age_ms(&self) -> Option<i64> {
        let ages: Option<Vec<i64>> = self.partitions.iter().map(|lag| lag.age_ms).collect();
        ages?.into_iter().max()
    }
}

/// Times of the records that groups read next. What was not asked for between two calls of
/// [`forget_unused`](RecordTimes::forget_unused) is forgotten.
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
    /// Nothing is known yet, and so many batches may be read.
    pub fn new(reads_max: usize) -> RecordTimes {
        RecordTimes { known: HashMap::new(), reads_left: reads_max }
    }

    /// Begins a new round of so many readings.
    pub fn forget_unused(&mut self, reads_max: usize) {
        self.known.retain(|_, known| std::mem::take(&mut known.used));
        self.reads_left = reads_max;
    }

    /// The time of the record at an offset, found by `find` when it is not known; none when it has none, or when no
    /// more may be read.
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
        // What cannot be read now is tried again.
        let timestamp_ms = find().ok()?;
        self.known.insert(at, KnownTime { timestamp_ms, used: true });
        timestamp_ms
    }
}

impl Service {
    /// How far a group is behind in every topic that it reads, sorted. Topics that are gone are left out. May wait for
    /// the disk.
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
        // A compacted record's place is taken by the next one: what was known of it is not true any more.
        let lasting = !view.config.compact;
        let (mut partitions, mut uncounted) = (Vec::new(), 0);
        for partition in &view.partitions {
            let committed = committed.get(&partition.index).copied();
            match self.partition_lag(partition, committed, now_ms, lasting, times) {
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
        lasting: bool,
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
            if !lasting {
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

/// What is known of a partition's lag.
enum Known {
    Lag(PartitionLag),
    /// There is nothing to read, wherever the group would begin.
    Empty,
}

/// The topics that a group reads, with what it has committed of each.
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
    fn a_time_is_looked_for_once_until_it_is_not_asked_for_any_more() {
        let mut times = RecordTimes::new(10);
        assert_eq!(times.of(AT, || Ok(Some(7))), Some(7));
        times.forget_unused(10);
        assert_eq!(times.of(AT, || panic!("it is known")), Some(7));
        times.forget_unused(10);
        times.forget_unused(10);
        assert_eq!(times.of(AT, || Ok(None)), None);
        assert_eq!(times.of(AT, || panic!("it is known that there is none")), None);
    }

    #[test]
    fn no_more_is_read_than_is_allowed_and_what_failed_is_tried_again() {
        let mut times = RecordTimes::new(2);
        assert_eq!(times.of(AT, || Err(FetchError::Unavailable)), None);
        assert_eq!(times.of(AT, || Ok(Some(7))), Some(7));
        assert_eq!(times.of((AT.0, 6), || panic!("no more may be read")), None);
        times.forget_unused(1);
        assert_eq!(times.of((AT.0, 6), || Ok(Some(8))), Some(8));
    }

    #[test]
    fn a_group_reads_what_it_has_committed_of_and_what_it_subscribes_to() {
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
    fn a_topic_of_which_nothing_is_counted_has_no_age() {
        let topic = TopicLag { topic: "t".into(), partitions: Vec::new(), uncounted: 2 };
        assert_eq!((topic.records(), topic.age_ms()), (0, None));
    }

    #[test]
    fn a_topic_is_as_late_as_its_latest_partition_if_all_are_known() {
        let lag = PartitionLag::of;
        let topic = |partitions| TopicLag { topic: "t".into(), partitions, uncounted: 0 };
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, Some(50)), lag(0, Some(0))]).age_ms(), Some(50));
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, None)]).age_ms(), None);
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, None)]).records(), 3);
    }
}
