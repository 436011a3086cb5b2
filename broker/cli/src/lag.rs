//! How far a group is behind, asked over the Kafka protocol: in records, and as the age of the oldest record that it has
//! not read. For that one batch is fetched of each partition that has something left.
//!
//! Where the group has committed nothing its start is not known, so what is left there is not known, unless the
//! partition is empty.

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

/// Enough of a partition for its first batch, which comes whole in any case.
const FETCH_BYTES: i32 = 16 << 10;
/// Ages that take longer to find are not shown.
const AGES_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a record for so long, none will come: what is left was compacted away.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// How far a group has read one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) partition: TopicPartition,
    /// What the group has committed.
    pub(super) committed: Option<i64>,
    /// First offset that there is.
    pub(super) begin: Option<i64>,
    /// Offset behind the last record.
    pub(super) end: Option<i64>,
    /// Who reads it.
    pub(super) member: Option<String>,
    /// Timestamp of the oldest record that is left.
    pub(super) oldest_ms: Option<i64>,
}

impl Reading {
    /// The offset that is read next: what retention has removed is not.
    pub(super) fn next(&self) -> Option<i64> {
        Some(self.committed?.max(self.begin?))
    }

    /// Records that are left.
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

/// How far a group has read: every partition of the topics that it has committed something of or that a member reads.
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

/// Also the other partitions of their topics.
async fn with_siblings(admin: &Admin, mut partitions: BTreeSet<TopicPartition>) -> BTreeSet<TopicPartition> {
    let topics: BTreeSet<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
    for topic in topics {
        // A topic that is gone has none; what the group has committed of it is still shown.
        if let Ok(known) = admin.cluster().topic(&topic, false).await {
            let all = known.partitions.iter().map(|p| p.index);
            partitions.extend(all.map(|partition| TopicPartition { topic: topic.clone(), partition }));
        }
    }
    partitions
}

/// A topic that is gone has no such offset; what the group has committed of it is still shown.
async fn found(
    admin: &Admin,
    partitions: &BTreeSet<TopicPartition>,
    at: OffsetAt,
) -> BTreeMap<TopicPartition, i64> {
    let answers = admin.offsets(partitions.iter().cloned().collect(), at).await.into_iter();
    answers.filter_map(|(partition, answer)| Some((partition, answer.ok().flatten()?.offset))).collect()
}

/// Times of the oldest records that are left.
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
            // Those that are known are not fetched any further.
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
                // What came along is taken; then the rest is asked for.
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
