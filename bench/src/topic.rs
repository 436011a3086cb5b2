//! The topics of a measurement, and where it finds its cluster.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_client::{
    ClientError, Cluster, ErrorCode,
    admin::{Admin, NewTopic, OffsetAt},
    consumer::TopicPartition,
};

use super::{case::TopicChoice, clock, error::BenchError, live::Live};

/// How often it is looked whether partitions have their leaders.
const LEADERS_EVERY: Duration = Duration::from_millis(20);
/// How long partitions may take to have their leaders.
const LEADERS_WAIT_MAX: Duration = Duration::from_secs(120);

/// What every case needs.
pub struct Bench {
    pub(super) admin: Admin,
    pub(super) pid: Option<u32>,
    pub(super) live: Arc<Live>,
}

/// The first and the next offset of a partition.
pub(super) type Range = (i64, i64);

impl Bench {
    /// A measurement of this cluster; `pid` is the broker's process, whose processor time is measured too.
    pub fn new(cluster: Cluster, pid: Option<u32>, live: Arc<Live>) -> Bench {
        Bench { admin: Admin::new(cluster), pid, live }
    }

    /// The topic that was named, or a new one.
    pub(super) async fn topic(&self, choice: &TopicChoice) -> Result<Topic, BenchError> {
        if let Some(name) = &choice.name {
            self.admin.cluster().topic(name, false).await?;
            return Ok(Topic { name: name.clone(), is_new: false });
        }
        let topic = Topic::named(&format!("bench-{:016x}", clock::random_u64()));
        self.make(&topic, choice.partitions).await?;
        let led = self.wait_for_leaders(&topic).await;
        self.or_remove(topic, led).await
    }

    /// Removes what was made when something went wrong afterwards.
    async fn or_remove(&self, topic: Topic, so_far: Result<(), BenchError>) -> Result<Topic, BenchError> {
        match so_far {
            Ok(()) => Ok(topic),
            Err(error) => {
                self.remove(std::slice::from_ref(&topic)).await?;
                Err(error)
            }
        }
    }

    pub(super) async fn make(&self, topic: &Topic, partitions: i32) -> Result<(), BenchError> {
        let new = NewTopic { name: topic.name.clone(), partitions: Some(partitions), ..NewTopic::default() };
        self.live.made(&topic.name);
        self.admin.create_topic(&new, false).await?;
        Ok(())
    }

    /// Waits until every partition can be written.
    pub(super) async fn wait_for_leaders(&self, topic: &Topic) -> Result<(), BenchError> {
        let deadline = clock::deadline(LEADERS_WAIT_MAX);
        loop {
            let asked = self.admin.cluster().topic(&topic.name, false).await;
            let partitions = match &asked {
                Ok(known) => known.partitions.iter().filter(|p| p.leader.is_none()).count(),
                Err(error) if error.is_retriable() => 1,
                Err(_) => 0,
            };
            if partitions == 0 {
                return Ok(asked.map(drop)?);
            }
            if clock::monotonic() > deadline {
                return Err(BenchError::Leaderless { partitions });
            }
            tokio::time::sleep(LEADERS_EVERY).await;
        }
    }

    /// Removes the topics that were made here.
    pub(super) async fn remove(&self, topics: &[Topic]) -> Result<(), BenchError> {
        for topic in topics.iter().filter(|topic| topic.is_new) {
            self.remove_one(&topic.name).await?;
        }
        Ok(())
    }

    /// Removes what was made and is there still.
    pub async fn remove_left(&self) -> Result<(), BenchError> {
        for topic in self.live.left() {
            self.remove_one(&topic).await?;
        }
        Ok(())
    }

    async fn remove_one(&self, topic: &str) -> Result<(), BenchError> {
        match self.admin.delete_topic(topic).await {
            Err(error) if error.code() != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Err(error.into()),
            _ => {
                self.live.removed(topic);
                Ok(())
            }
        }
    }

    /// What there is to read in each partition. A leader that was just chosen may not know of it yet: it is asked again.
    pub(super) async fn ranges(&self, topic: &Topic) -> Result<BTreeMap<TopicPartition, Range>, ClientError> {
        let deadline = clock::deadline(LEADERS_WAIT_MAX);
        loop {
            match self.ranges_now(topic).await {
                Err(error) if error.is_retriable() && clock::monotonic() < deadline => {
                    tokio::time::sleep(LEADERS_EVERY).await;
                }
                found => return found,
            }
        }
    }

    async fn ranges_now(&self, topic: &Topic) -> Result<BTreeMap<TopicPartition, Range>, ClientError> {
        let known = self.admin.cluster().topic(&topic.name, false).await?;
        let name: Arc<str> = topic.name.as_str().into();
        let places =
            known.partitions.iter().map(|p| TopicPartition { topic: name.clone(), partition: p.index });
        let places: Vec<TopicPartition> = places.collect();
        let ends = self.admin.offsets(places.clone(), OffsetAt::Latest).await;
        let begins = self.admin.offsets(places, OffsetAt::Earliest).await;
        let mut ranges = BTreeMap::new();
        for ((place, begin), (_, end)) in begins.into_iter().zip(ends) {
            let range = (begin?.map_or(0, |found| found.offset), end?.map_or(0, |found| found.offset));
            ranges.insert(place, range);
        }
        Ok(ranges)
    }
}

/// A topic that is measured.
pub(super) struct Topic {
    pub(super) name: String,
    /// Made for the measurement, and removed after it.
    is_new: bool,
}

impl Topic {
    /// A topic that will be made.
    pub(super) fn named(name: &str) -> Topic {
        Topic { name: name.to_string(), is_new: true }
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }
}

/// The moment at which the record with this number is due.
pub(super) fn due(began: Instant, number: u64, rate: u64) -> Instant {
    let (seconds, rest) = (number / rate, number % rate);
    began + Duration::from_secs(seconds) + Duration::from_nanos(rest * 1_000_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_at_even_distances_however_many_there_were() {
        let began = clock::monotonic();
        assert_eq!(due(began, 0, 7), began);
        assert_eq!(due(began, 3, 1000) - began, Duration::from_millis(3));
        let far = 86_400 * 1_000_000;
        assert_eq!(due(began, far, 1_000_000) - began, Duration::from_secs(86_400));
    }
}
