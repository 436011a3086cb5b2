//! The membership of a group and the progress of each replica, in the view of its leader.

use millstream_model::NodeId;
use openraft::async_runtime::watch::WatchReceiver;

use crate::group::Group;

/// A group in the view of its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The leader, which is this node.
    pub leader: NodeId,
    /// The term in which it leads.
    pub term: u64,
    /// Index after the last committed entry.
    pub committed_end: u64,
    /// Voters.
    pub voters: Vec<QuorumReplica>,
    /// Learners.
    pub learners: Vec<QuorumReplica>,
}

/// A replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumReplica {
    /// Its node.
    pub node: NodeId,
    /// Index after its last known entry; `None` if nothing is known.
    pub log_end: Option<u64>,
}

impl Group {
    /// The group's members and their progress; `None` if this node does not lead it.
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
