//! Millstream's Raft groups: the only crate that names openraft.
//!
//! Invariants, each said as an absence:
//! 1. No proposal is applied in another term than the one that it was made in.
//! 2. No node says that it leads before its own first entry of the term is applied, and so everything before it.
//! 3. No outcome is told twice, and none is left untold.
//! 4. No log entry is purged that the newest checkpoint does not cover.
//! 5. No group that had members is given others than its log and its checkpoint name.

mod command;
mod config;
mod group;
mod log_store;
mod machine;
mod membership;
mod quorum;
mod recreate_membership;
mod transport;

pub use command::Command;
pub use config::{Reply, Timing};
pub use group::{Group, Outcome, ProposeError, StartError};
pub use log_store::LogStore;
pub use machine::{Machine, RestoreError, Snapshot};
pub use quorum::{Quorum, QuorumReplica};
pub use recreate_membership::{REPLICAS, identity};
pub use transport::{NoPeers, PeerRequest, PeerResponse, PeerUnreachable, Transport};

#[cfg(test)]
mod tests;
