//! Identifiers. None of them is ever used twice, and none becomes part of a path.

use std::fmt;

/// A Raft group on this cluster: 0 is the metadata group, 1.. are the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RaftGroupId(pub u32);

impl RaftGroupId {
    /// The group that holds brokers, topics, configs and extents.
    pub const METADATA: RaftGroupId = RaftGroupId(0);

    /// Whether this is a shard, that is, any group but the metadata group.
    pub fn is_shard(self) -> bool {
        self != Self::METADATA
    }
}

impl fmt::Display for RaftGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shard() { write!(f, "shard-{}", self.0) } else { f.write_str("metadata") }
    }
}

/// A broker process, named by its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The internal name of a partition, given by the metadata group and never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u64);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// A topic's id as Kafka clients see it: 16 bytes, all zero meaning "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// Whether this is Kafka's "no id".
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }
}
