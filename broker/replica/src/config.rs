//! openraft's type configuration and timing.

use std::sync::Arc;

use millstream_model::LogId;
use openraft::{
    Config, ConfigError, OptionalSend, RaftTypeConfig, SnapshotPolicy, impls::leader_id_std,
    raft::responder::Responder, vote::leader_id_std::CommittedLeaderId,
};
use openraft_rt_tokio::TokioRuntime;

use crate::command::Command;

/// The reply of an entry that was applied.
#[derive(Debug, Default)]
pub enum Reply {
    /// A blank or membership entry, which has no reply.
    #[default]
    None,
    /// From a shard's machine.
    Shard(millstream_state::partition::ShardReply),
    /// From the metadata group's machine.
    Cluster(Result<millstream_state::cluster::ClusterReply, millstream_state::cluster::ClusterError>),
}

/// openraft's type parameters for every Millstream group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Reply;
    type NodeId = u64;
    // A member is only a node id: its address can change, and the transport knows it.
    type Node = ();
    type Term = u64;
    // At most one leader per term, so that the term can serve as Kafka's leader epoch.
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, ()>;
    type Entry = openraft::Entry<CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type RaftLogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, ()>;

/// Calls a function with the result of a proposal; called from the task that applies.
pub(crate) struct Callback<T>(pub(crate) Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId { leader_id: CommittedLeaderId { term: id.term }, index: id.index }
}

pub(crate) fn from_raft(id: &RaftLogId) -> LogId {
    LogId::new(id.leader_id.term, id.index)
}

/// Heartbeat and election times of every group, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// A follower that receives nothing for at least this long starts an election.
    pub election_min_ms: u64,
    /// Upper end of the random election timeout.
    pub election_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { heartbeat_ms: 500, election_min_ms: 1500, election_max_ms: 3000 }
    }
}

impl Timing {
    /// openraft's configuration, with every setting explicit that Millstream's design depends on.
    pub(crate) fn raft_config(self) -> Result<Arc<Config>, ConfigError> {
        let config = Config {
            cluster_name: "millstream".to_string(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            // The store triggers checkpoints and purges, because it knows what is flushed.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_pre_vote: Some(true),
            // A restarted leader stands for election again: once its new term's first entry is applied,
            // everything before it is.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config.validate().map(Arc::new)
    }
}
