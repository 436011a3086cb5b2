//! Millstream's Raft groups: the only crate that names openraft.
//!
//! Invariants:
//! 1. No proposal is applied in another term than the one that it was made in.
//! 2. No node reports that it leads before its own first entry of the term, and so everything before it, is
//!    applied.
//! 3. Every outcome is reported exactly once.
//! 4. No log entry is purged that the newest checkpoint does not cover.
//! 5. No group that had members gets others than its log and its checkpoint name.

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
