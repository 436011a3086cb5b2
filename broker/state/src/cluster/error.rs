//! Why the metadata group did nothing.

use millstream_model::{NodeId, PartitionId, RaftGroupId, TopicId};

use super::names::TopicNameError;

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The cluster has no id and no shards yet.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// A cluster needs shards, and not too many.
    #[error("a cluster has 1 to {shards_max} shards, not {shards}")]
    InvalidShards {
        /// Shards that were asked for.
        shards: u32,
        /// The most that there may be.
        shards_max: u32,
    },
    /// Not a name for a topic.
    #[error(transparent)]
    InvalidTopicName(#[from] TopicNameError),
    /// The name is taken.
    #[error("topic '{name}' already exists")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// Another topic's name differs only in `.` and `_`.
    #[error(
        "topic '{name}' collides with existing topic '{existing}': their names differ only in '.' and '_'"
    )]
    TopicNameCollides {
        /// The name.
        name: String,
        /// The other topic's name.
        existing: String,
    },
    /// The id is zero or another topic's.
    #[error("topic id {id:?} cannot be given")]
    TopicIdTaken {
        /// The id.
        id: TopicId,
    },
    /// There is no such topic.
    #[error("topic '{name}' does not exist")]
    UnknownTopic {
        /// The name.
        name: String,
    },
    /// The cluster takes no more topics.
    #[error("the cluster has {topics_max} topics, and takes no more")]
    TooManyTopics {
        /// The most that it takes.
        topics_max: usize,
    },
    /// The cluster does not take so many partitions more.
    #[error("the cluster has {have} partitions and takes {partitions_max}, not {more} more")]
    TooManyPartitions {
        /// Partitions that there are.
        have: usize,
        /// Partitions that were asked for.
        more: usize,
        /// The most that it takes.
        partitions_max: usize,
    },
    /// A topic has at least one partition, and their number only grows.
    #[error("the number of partitions is {have}, which cannot become {wanted}")]
    InvalidPartitions {
        /// Partitions that there are.
        have: usize,
        /// Partitions that were asked for.
        wanted: usize,
    },
    /// Only a partition whose id was never given, in a shard of this cluster, can be adopted.
    #[error("{partition} in {shard} cannot be adopted")]
    NotAnOrphan {
        /// The partition.
        partition: PartitionId,
        /// The shard.
        shard: RaftGroupId,
    },
    /// There is no such broker.
    #[error("broker {node} is not registered")]
    UnknownBroker {
        /// Its id.
        node: NodeId,
    },
    /// No producer ids are left.
    #[error("all producer ids are given out")]
    NoProducerIds,
}
