//! Who belongs to a group and how far each replica is, as its leader knows it.

use millstream_model::NodeId;
use openraft::async_runtime::watch::WatchReceiver;

use crate::group::Group;

/// A group as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The leader, which is this node.
    pub leader: NodeId,
    /// The term in which it leads.
    pub term: u64,
    /// Index behind the last committed entry.
    pub committed_end: u64,
    /// Replicas whose votes count.
    pub voters: Vec<QuorumReplica>,
    /// Replicas that only follow.
    pub learners: Vec<QuorumReplica>,
}

/// A replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumReplica {
    /// Its node.
    pub node: NodeId,
    /// Index behind the last entry that it is known to have; `None` when nothing is known of it.
    pub log_end: Option<u64>,
}

impl Group {
    /// The group's members and their progress; `None` when this node does not lead it.
    pub fn quorum(&self) -> Option<Quorum> {
        let term = self.led_term()?;
        let metrics = self.raft().metrics().borrow_watched().clone();
        let replica = |id: u64| QuorumReplica {
            node: NodeId(id),
            log_end: match id == metrics.id {
                true => metrics.last_log_index.map(|index| index + 1),
                false => {
                    let known = metrics.replication.as_ref().and_then(|all| all.get(&id)?.as_ref());
                    known.map(|log_id| log_id.index + 1)
                }
            },
        };
        let membership = metrics.membership_config.membership();
        Some(Quorum {
            leader: NodeId(metrics.id),
            term,
            committed_end: metrics.cluster_committed.as_ref().map_or(0, |log_id| log_id.index + 1),
            voters: membership.voter_ids().map(replica).collect(),
            learners: membership.learner_ids().map(replica).collect(),
        })
    }
}
