//! Why a metadata command was refused.

use millstream_model::{NodeId, PartitionId, RaftGroupId, TopicId};

use super::names::TopicNameError;

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The cluster is not bootstrapped: it has no id and no shards yet.
    #[error("the cluster is not bootstrapped yet")]
    NotBootstrapped,
    /// The number of shards is out of range.
    #[error("a cluster has 1 to {shards_max} shards, not {shards}")]
    InvalidShards {
        /// The requested number of shards.
        shards: u32,
        /// The limit.
        shards_max: u32,
    },
    /// The topic name is invalid.
    #[error(transparent)]
    InvalidTopicName(#[from] TopicNameError),
    /// The topic exists.
    #[error("topic '{name}' already exists")]
    TopicExists {
        /// The topic name.
        name: String,
    },
    /// Another topic's name differs only in `.` and `_`.
    #[error(
        "topic '{name}' collides with existing topic '{existing}': their names differ only in '.' and '_'"
    )]
    TopicNameCollides {
        /// The topic name.
        name: String,
        /// The other topic's name.
        existing: String,
    },
    /// The id is zero or in use.
    #[error("topic id {id:?} is zero or in use")]
    TopicIdTaken {
        /// The topic id.
        id: TopicId,
    },
    /// The topic does not exist.
    #[error("topic '{name}' does not exist")]
    UnknownTopic {
        /// The topic name.
        name: String,
    },
    /// The limit of topics is reached.
    #[error("the cluster has reached its limit of {topics_max} topics")]
    TooManyTopics {
        /// The limit.
        topics_max: usize,
    },
    /// The limit of partitions would be exceeded.
    #[error("{more} more partitions exceed the limit of {partitions_max}: the cluster has {have}")]
    TooManyPartitions {
        /// Current number of partitions.
        have: usize,
        /// Requested number of additional partitions.
        more: usize,
        /// The limit.
        partitions_max: usize,
    },
    /// A topic has at least one partition, and their number only grows.
    #[error("the number of partitions cannot change from {have} to {wanted}")]
    InvalidPartitions {
        /// Current number of partitions.
        have: usize,
        /// Requested number of partitions.
        wanted: usize,
    },
    /// Only a partition whose id was never allocated, in a shard of this cluster, can be adopted.
    #[error("{partition} in {shard} cannot be adopted")]
    NotAnOrphan {
        /// The partition.
        partition: PartitionId,
        /// Its shard.
        shard: RaftGroupId,
    },
    /// The broker is not registered.
    #[error("broker {node} is not registered")]
    UnknownBroker {
        /// Broker id.
        node: NodeId,
    },
    /// The range of producer ids is exhausted.
    #[error("all producer ids are allocated")]
    NoProducerIds,
}
