//! The replicated state of a shard: its partitions, and the groups that it coordinates.
//!
//! The machine does not store batches: they are sliced out of their command without a copy and passed on as
//! effects.

mod ahead;
mod command;
mod epochs;
mod machine;
mod partition_state;
mod producers;
mod snapshot;

pub use ahead::PartitionAhead;
pub use command::{
    AppendCommand, NewPartition, ShardCommand, append_command_len, decode, encode_create_partitions,
    encode_drop_partitions, encode_expire_producers, encode_extend, encode_set_log_start, write_append_head,
};
pub use epochs::EPOCHS_MAX;
pub use machine::{AppendOutcome, Effect, ShardMachine, ShardReply, ShardRestoreError, ShardStats};
pub use partition_state::{PartitionState, ProduceRefusal, ProducerView, Verdict};
pub use producers::{BATCHES_KEPT, PRODUCERS_MAX};
pub use snapshot::ShardSnapshot;

#[cfg(test)]
mod tests;
