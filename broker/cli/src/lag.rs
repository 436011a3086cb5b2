//! A group's lag over the Kafka protocol: in records, and as the age of the oldest unread record. For the age
//! one batch is fetched from each partition with unread records.
//!
//! Without a committed offset the group's position is unknown, and so is its lag, unless the partition is
//! empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use millstream_client::{
    ClientError,
    admin::{Admin, GroupDescription, OffsetAt},
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
};

/// Enough of a partition for its first batch, which is always returned whole.
const FETCH_BYTES: i32 = 16 << 10;
/// Ages that take longer to find are not shown.
const AGES_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without a record none will come: compaction has removed the rest.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// A group's position in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) partition: TopicPartition,
    /// The committed offset.
    pub(super) committed: Option<i64>,
    /// First offset.
    pub(super) begin: Option<i64>,
    /// Offset after the last record.
    pub(super) end: Option<i64>,
    /// The member that reads it.
    pub(super) member: Option<String>,
    /// Timestamp of the oldest unread record.
    pub(super) oldest_ms: Option<i64>,
}

impl Reading {
    /// The next offset to read, which retention cannot have removed.
    pub(super) fn next(&self) -> Option<i64> {
        Some(self.committed?.max(self.begin?))
    }

    /// Number of unread records.
    pub(super) fn records(&self) -> Option<i64> {
        match (self.begin?, self.end?) {
            (begin, end) if begin >= end => Some(0),
            (_, end) => Some((end - self.next()?).max(0)),
        }
    }

    /// Age of the oldest of them in milliseconds.
    pub(super) fn age_ms(&self, now_ms: i64) -> Option<i64> {
        match self.records()? {
            0 => Some(0),
            _ => Some((now_ms - self.oldest_ms?).max(0)),
        }
    }
}

/// A group's positions: every partition of the topics with committed offsets or that a member reads.
pub(super) async fn readings(admin: &Admin, group: &GroupDescription) -> Result<Vec<Reading>, ClientError> {
    let committed = admin.group_offsets(&group.name).await?;
    let mut members: BTreeMap<TopicPartition, String> = BTreeMap::new();
    for member in &group.members {
        members.extend(member.assignment.iter().map(|partition| (partition.clone(), member.id.clone())));
    }
    let partitions = with_siblings(admin, committed.keys().chain(members.keys()).cloned().collect()).await;
    let begins = found(admin, &partitions, OffsetAt::Earliest).await;
    let ends = found(admin, &partitions, OffsetAt::Latest).await;
    let reading = |partition: TopicPartition| Reading {
        committed: committed.get(&partition).copied(),
        begin: begins.get(&partition).copied(),
        end: ends.get(&partition).copied(),
        member: members.get(&partition).cloned(),
        oldest_ms: None,
        partition,
    };
    let mut readings: Vec<Reading> = partitions.into_iter().map(reading).collect();
    let oldest = oldest(admin, &readings).await?;
    for reading in &mut readings {
        reading.oldest_ms = oldest.get(&reading.partition).copied();
    }
    Ok(readings)
}

/// Adds the other partitions of their topics.
async fn with_siblings(admin: &Admin, mut partitions: BTreeSet<TopicPartition>) -> BTreeSet<TopicPartition> {
    let topics: BTreeSet<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
    for topic in topics {
        // A deleted topic has none; the group's committed offsets for it are still shown.
        if let Ok(known) = admin.cluster().topic(&topic, false).await {
            let all = known.partitions.iter().map(|p| p.index);
            partitions.extend(all.map(|partition| TopicPartition { topic: topic.clone(), partition }));
        }
    }
    partitions
}

/// A deleted topic has no such offset; the group's committed offsets for it are still shown.
async fn found(
    admin: &Admin,
    partitions: &BTreeSet<TopicPartition>,
    at: OffsetAt,
) -> BTreeMap<TopicPartition, i64> {
    let answers = admin.offsets(partitions.iter().cloned().collect(), at).await.into_iter();
    answers.filter_map(|(partition, answer)| Some((partition, answer.ok().flatten()?.offset))).collect()
}

/// Timestamps of the oldest unread records.
async fn oldest(admin: &Admin, readings: &[Reading]) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
    let behind = readings.iter().filter(|reading| reading.records().is_some_and(|records| records > 0));
    let mut wanted: BTreeMap<TopicPartition, i64> =
        behind.filter_map(|reading| Some((reading.partition.clone(), reading.next()?))).collect();
    let mut times = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(times);
    }
    let config = ConsumerConfig { partition_bytes_max: FETCH_BYTES, ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(admin.cluster().clone(), config);
    let looking = async {
        while !wanted.is_empty() {
            // Partitions with a result are not fetched again.
            consumer.assign(wanted.iter().map(|(partition, at)| (partition.clone(), Start::Offset(*at))));
            let mut patience = QUIET_MAX;
            while let Ok(chunk) = tokio::time::timeout(patience, consumer.next()).await {
                let chunk = chunk?;
                match chunk.records.first() {
                    Some(first) if wanted.remove(&chunk.partition).is_some() => {
                        times.insert(chunk.partition, first.timestamp_ms);
                    }
                    _ => {}
                }
                // Uses the records of other partitions in the response; then the rest is requested.
                patience = Duration::ZERO;
            }
            if patience == QUIET_MAX {
                break;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(AGES_TIMEOUT, looking).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => {
            times.retain(|_, time| *time >= 0);
            Ok(times)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_when_both_ends_are() {
        let reading = |committed, begin, end| Reading {
            partition: TopicPartition { topic: "t".into(), partition: 0 },
            committed,
            begin,
            end,
            member: None,
            oldest_ms: Some(1_000),
        };
        let behind = reading(Some(3), Some(0), Some(10));
        assert_eq!((behind.records(), behind.age_ms(5_000)), (Some(7), Some(4_000)));
        let done = reading(Some(12), Some(0), Some(10));
        assert_eq!((done.records(), done.age_ms(5_000)), (Some(0), Some(0)));
        assert_eq!(reading(Some(3), Some(8), Some(10)).records(), Some(2), "the rest is gone");
        let unknown = reading(None, Some(0), Some(10));
        assert_eq!((unknown.records(), unknown.age_ms(5_000)), (None, None));
        let empty = reading(None, Some(10), Some(10));
        assert_eq!((empty.records(), empty.age_ms(5_000)), (Some(0), Some(0)), "wherever it would begin");
    }
}
