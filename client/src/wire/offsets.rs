//! Offsets, as a commit carries them.

use std::collections::BTreeMap;

use millstream_protocol::{
    Str,
    messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
};

use crate::consumer::TopicPartition;

/// The offsets of each topic together.
pub(crate) fn topics_to_commit(offsets: &BTreeMap<TopicPartition, i64>) -> Vec<OffsetCommitRequestTopic> {
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    for (partition, offset) in offsets {
        let entry = OffsetCommitRequestPartition {
            partition_index: partition.partition,
            committed_offset: *offset,
            ..Default::default()
        };
        match topics.last_mut().filter(|topic| *topic.name == *partition.topic) {
            Some(topic) => topic.partitions.push(entry),
            None => topics.push(OffsetCommitRequestTopic {
                name: Str::from(partition.topic.to_string()),
                partitions: vec![entry],
                ..Default::default()
            }),
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_one_topic_travel_together() {
        let at = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
        let offsets = BTreeMap::from([(at("a", 0), 5), (at("a", 1), 6), (at("b", 0), 7)]);
        let topics = topics_to_commit(&offsets);
        let grouped: Vec<(&str, Vec<i64>)> = topics
            .iter()
            .map(|t| (t.name.as_str(), t.partitions.iter().map(|p| p.committed_offset).collect()))
            .collect();
        assert_eq!(grouped, [("a", vec![5, 6]), ("b", vec![7])]);
    }
}
