//! How far groups are behind: in records, and in time.
//!
//! The lag in time is the age of the oldest record that the group has not read: now, less that record's timestamp. It
//! grows while nobody reads, whether or not anyone writes, and is zero where nothing is left to read. Finding it takes
//! one batch, and only where something is left; what was found for an offset is remembered until the group has
//! moved on.

use std::{collections::HashMap, sync::Arc};

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

/// The same in all partitions of a topic of which the group has committed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLag {
    /// The topic's name.
    pub topic: Arc<str>,
    /// By partition.
    pub partitions: Vec<PartitionLag>,
}

impl TopicLag {
    /// Records that are left in all partitions.
    pub fn records(&self) -> i64 {
        self.partitions.iter().map(|lag| lag.records).sum()
    }

    /// The greatest age; none when it is not known of every partition.
    pub fn age_ms(&self) -> Option<i64> {
        let ages: Option<Vec<i64>> = self.partitions.iter().map(|lag| lag.age_ms).collect();
        ages?.into_iter().max()
    }
}

/// Times of the records that groups read next. What was not asked for between two calls of
/// [`forget_unused`](RecordTimes::forget_unused) is forgotten.
#[derive(Debug)]
pub struct RecordTimes {
    known: HashMap<(PartitionId, i64), Known>,
    /// Batches that may still be read before the next call.
    reads_left: usize,
}

#[derive(Clone, Copy, Debug)]
struct Known {
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
        self.known.insert(at, Known { timestamp_ms, used: true });
        timestamp_ms
    }
}

impl Service {
    /// How far a group is behind in every partition that it has committed something of, sorted. Topics and partitions
    /// that are gone, or that this node does not lead, are left out. May wait for the disk.
    pub fn group_lag(
        &self,
        group: &str,
        now_ms: i64,
        times: &mut RecordTimes,
    ) -> Result<Vec<TopicLag>, GroupError> {
        let offsets = self.groups().all_offsets(group)?;
        Ok(offsets.into_iter().filter_map(|of_topic| self.topic_lag(of_topic, now_ms, times)).collect())
    }

    fn topic_lag(&self, offsets: TopicOffsets, now_ms: i64, times: &mut RecordTimes) -> Option<TopicLag> {
        let view = self.topic(&offsets.topic)?;
        let lag = |(index, committed): (i32, Option<super::CommittedOffset>)| {
            let partition = view.partitions.get(usize::try_from(index).ok()?)?;
            // A compacted record's place is taken by the next one: what was known of it is not true any more.
            let lasting = !view.config.compact;
            self.partition_lag(partition, committed?.offset, now_ms, lasting, times)
        };
        let partitions: Vec<_> = offsets.partitions.into_iter().filter_map(lag).collect();
        (!partitions.is_empty()).then_some(TopicLag { topic: offsets.topic, partitions })
    }

    fn partition_lag(
        &self,
        partition: &PartitionView,
        committed: i64,
        now_ms: i64,
        lasting: bool,
        times: &mut RecordTimes,
    ) -> Option<PartitionLag> {
        let host = &self.inner.shards.get(&partition.group)?.host;
        let (log_start, end) =
            host.partition(partition.id, |state| (state.log_start(), state.next_offset()))?;
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
        Some(PartitionLag { partition: partition.index, committed, log_start, end, records, age_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_topic_is_as_late_as_its_latest_partition_if_all_are_known() {
        let lag = PartitionLag::of;
        let topic = |partitions| TopicLag { topic: "t".into(), partitions };
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, Some(50)), lag(0, Some(0))]).age_ms(), Some(50));
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, None)]).age_ms(), None);
        assert_eq!(topic(vec![lag(1, Some(30)), lag(2, None)]).records(), 3);
    }
}
