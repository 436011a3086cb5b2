//! Consumer groups: their replicated state, and the coordinator that decides.
//!
//! [`GroupMachine`] holds what must survive a failover: each group's last complete generation and its
//! committed offsets. The leader of a shard runs a [`Coordinator`] on top: joins, syncs, heartbeats and their
//! deadlines. It is rebuilt from the machine whenever a node starts to lead, and every member then gets a
//! full session timeout.
//!
//! Group commands have the kinds 64 to 127. Kind 64 carries any number of operations, so that all operations
//! pending for a shard share one log entry.

mod classic;
mod command;
mod coordinator;
mod deadlines;
mod machine;
mod rebalance;
mod record;
mod requests;
mod subscription;
#[cfg(test)]
mod tests;
mod types;

pub use command::{GROUP_COMMAND_KIND, GroupOp, OffsetEntry, decode, encode};
pub use coordinator::Coordinator;
pub use machine::{GroupMachine, GroupOutcome, GroupReply, GroupRestoreError, GroupSnapshot, GroupState};
pub use record::{CommittedOffset, GroupRecord, MemberRecord};
pub use types::{
    GroupConfig, GroupEffect, GroupError, GroupView, JoinRefusal, JoinRequest, Joined, JoinedMember,
    MemberRef, MemberView, Now, Phase, SyncRequest, Synced, Ticket, WriteId,
};
