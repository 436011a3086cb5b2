//! Who reads what: Kafka's range assignor, and how subscriptions and assignments travel.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_protocol::{
    DecodeError, EncodeError, Str, decode_data, encode_data,
    messages::consumer_protocol::{
        AssignmentTopicPartition, ConsumerProtocolAssignment, ConsumerProtocolSubscription,
    },
};

use crate::consumer::TopicPartition;

/// The assignor's name, as groups agree on it.
pub(super) const RANGE: &str = "range";
/// The version in which subscriptions and assignments are written: the oldest, which every member reads.
const DATA_VERSION: i16 = 0;

/// A member as the group's leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) topics: BTreeSet<String>,
}

/// Gives each member a run of each topic's partitions that it subscribed to: as equal as possible, the first members by id
/// get one more.
pub(super) fn assign(
    members: &[Member],
    partitions: &BTreeMap<String, i32>,
) -> BTreeMap<String, Vec<TopicPartition>> {
    let mut assignment: BTreeMap<String, Vec<TopicPartition>> =
        members.iter().map(|member| (member.id.clone(), Vec::new())).collect();
    for (topic, count) in partitions {
        let mut readers: Vec<&str> =
            members.iter().filter(|m| m.topics.contains(topic)).map(|m| m.id.as_str()).collect();
        readers.sort_unstable();
        let Ok(n) = i32::try_from(readers.len()) else { continue };
        if n == 0 {
            continue;
        }
        let (each, more) = (count / n, count % n);
        let mut next = 0;
        for (at, reader) in (0..).zip(readers) {
            let end = next + each + i32::from(at < more);
            let run = (next..end).map(|partition| TopicPartition { topic: topic.as_str().into(), partition });
            assignment.entry(reader.to_string()).or_default().extend(run);
            next = end;
        }
    }
    assignment
}

/// What a member says that it wants to read.
pub(super) fn write_subscription(topics: &BTreeSet<String>) -> Result<Bytes, EncodeError> {
    let topics = topics.iter().map(Str::from).collect();
    encode_data(&ConsumerProtocolSubscription { topics, ..Default::default() }, DATA_VERSION)
}

/// What a member wants to read.
pub(super) fn read_subscription(bytes: Bytes) -> Result<BTreeSet<String>, DecodeError> {
    let (_, subscription) = decode_data::<ConsumerProtocolSubscription>(bytes)?;
    Ok(subscription.topics.iter().map(|topic| topic.to_string()).collect())
}

/// What a member is to read.
pub(super) fn write_assignment(partitions: &[TopicPartition]) -> Result<Bytes, EncodeError> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    partitions.iter().for_each(|p| topics.entry(&p.topic).or_default().push(p.partition));
    let assigned = topics.into_iter().map(|(topic, partitions)| AssignmentTopicPartition {
        topic: Str::from(topic.to_string()),
        partitions,
    });
    let assigned_partitions = assigned.collect();
    encode_data(&ConsumerProtocolAssignment { assigned_partitions, ..Default::default() }, DATA_VERSION)
}

/// What a member is to read; no bytes are nothing.
pub(crate) fn read_assignment(bytes: Bytes) -> Result<Vec<TopicPartition>, DecodeError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let (_, assignment) = decode_data::<ConsumerProtocolAssignment>(bytes)?;
    let mut partitions = Vec::new();
    for topic in assignment.assigned_partitions {
        let name: std::sync::Arc<str> = topic.topic.as_str().into();
        partitions
            .extend(topic.partitions.iter().map(|p| TopicPartition { topic: name.clone(), partition: *p }));
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, topics: &[&str]) -> Member {
        Member { id: id.into(), topics: topics.iter().map(|t| t.to_string()).collect() }
    }

    fn numbers(assignment: &BTreeMap<String, Vec<TopicPartition>>, member: &str) -> Vec<String> {
        assignment[member].iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn the_first_members_get_one_more_of_each_topic() {
        let members = [member("b", &["t", "u"]), member("a", &["t", "u"])];
        let partitions = BTreeMap::from([("t".to_string(), 3), ("u".to_string(), 3)]);
        let assignment = assign(&members, &partitions);
        assert_eq!(numbers(&assignment, "a"), ["t-0", "t-1", "u-0", "u-1"]);
        assert_eq!(numbers(&assignment, "b"), ["t-2", "u-2"]);
    }

    #[test]
    fn every_partition_has_one_reader_that_wants_it() {
        let members = [member("a", &["t"]), member("b", &["u"]), member("c", &["t", "u"]), member("d", &[])];
        let partitions =
            BTreeMap::from([("t".to_string(), 5), ("u".to_string(), 1), ("nobody".to_string(), 2)]);
        let assignment = assign(&members, &partitions);
        let mut all: Vec<String> = assignment.values().flatten().map(|p| p.to_string()).collect();
        all.sort();
        assert_eq!(all, ["t-0", "t-1", "t-2", "t-3", "t-4", "u-0"]);
        assert!(numbers(&assignment, "a").iter().all(|p| p.starts_with("t-")));
        assert!(numbers(&assignment, "d").is_empty());
    }

    #[test]
    fn what_is_written_reads_back() {
        let topics: BTreeSet<String> = ["a".to_string(), "b".to_string()].into();
        let bytes = write_subscription(&topics).expect("written");
        assert_eq!(read_subscription(bytes), Ok(topics));
        let place = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
        let partitions = vec![place("a", 1), place("a", 3), place("b", 0)];
        let bytes = write_assignment(&partitions).expect("written");
        assert_eq!(read_assignment(bytes), Ok(partitions));
        assert_eq!(read_assignment(Bytes::new()), Ok(Vec::new()));
    }
}
