//! Where a partition is.

use millstream_model::{PartitionId, RaftGroupId};

/// A partition's place, as the metadata group recorded it. Who leads it now is its shard's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Kafka's partition number.
    pub index: i32,
    /// The internal id.
    pub id: PartitionId,
    /// The shard that holds its end.
    pub group: RaftGroupId,
    /// Added to a term of the shard it gives the leader epoch.
    pub epoch_base: i32,
}
