//! The placement of a partition.

use millstream_model::{PartitionId, RaftGroupId};

/// A partition's placement, as recorded by the metadata group. Its leader is that of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Kafka's partition number.
    pub index: i32,
    /// The internal id.
    pub id: PartitionId,
    /// The shard that takes its appends.
    pub group: RaftGroupId,
    /// Leader epoch = term of the shard's Raft group + this.
    pub epoch_base: i32,
}
