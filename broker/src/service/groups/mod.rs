//! Consumer groups. Each is coordinated by the leader of the shard that its name hashes to.
//!
//! The decisions are made in `millstream_state::group`: each shard has a
//! [`Coordinator`](millstream_state::group::Coordinator) under a lock that is never held across an await. This module
//! holds its write queue, the requests that wait for it, and the one task that watches all deadlines of the node.
//!
//! Invariants:
//! 1. An assignment, a static member's new id and a committed offset are acknowledged only when durable and applied.
//! 2. A shard has at most one group write in flight: decisions are applied in the order in which they were made, and those
//!    made while a write is in flight form the next entry.
//! 3. Groups and members have no task and no timer of their own.
//! 4. A change does not depend on the future that an operation returns: it is decided and queued before that.

mod expiry;
mod group_shard;
mod offsets;
mod usage;

use std::{collections::HashMap, sync::Arc};

use millstream_model::RaftGroupId;
pub use millstream_state::group::{
    CommittedOffset, GroupError, GroupView, JoinRefusal, JoinRequest, Joined, JoinedMember, MemberRef,
    MemberView, OffsetEntry, SyncRequest, Synced,
};
use millstream_state::group::{GroupConfig, Phase};
use tokio::sync::{Notify, oneshot};

pub use expiry::GroupExpiry;
use group_shard::{Decision, GroupShard};
pub use offsets::TopicOffsets;
use usage::Usage;

use crate::{clock, partition::Shard};

/// Every group that is coordinated by a shard of this node.
pub struct Groups {
    /// Sorted by shard.
    shards: Vec<Arc<GroupShard>>,
    /// Wakes the expiry task when the next deadline has moved closer.
    wake: Arc<Notify>,
    usage: Arc<Usage>,
}

/// A group as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedGroup {
    pub name: Arc<str>,
    /// The state's Kafka name.
    pub state: &'static str,
    /// Empty when only offsets were committed.
    pub protocol_type: String,
}

impl Groups {
    /// The groups of the given shards; they are loaded at their first use or by the expiry task.
    pub fn new(shards: &HashMap<RaftGroupId, Arc<Shard>>, config: GroupConfig) -> Groups {
        let (wake, usage) = (Arc::new(Notify::new()), Arc::new(Usage::new(config.bytes_max)));
        let started = clock::monotonic();
        let mut shards: Vec<&Arc<Shard>> = shards.values().collect();
        shards.sort_by_key(|shard| shard.id());
        let group_shard = |shard: &Arc<Shard>| {
            GroupShard::new(shard.clone(), config.clone(), started, wake.clone(), usage.clone())
        };
        Groups { shards: shards.into_iter().map(group_shard).collect(), wake, usage }
    }

    /// The shard that a group's name hashes to, the same on every node.
    fn shard_of(&self, group: &str) -> Result<&Arc<GroupShard>, GroupError> {
        let at = stable_hash(group.as_bytes()) % self.shards.len().max(1) as u64;
        self.shards.get(at as usize).ok_or(GroupError::NotCoordinator)
    }

    /// Approximate memory of all groups of this node.
    pub fn bytes(&self) -> usize {
        self.usage.bytes()
    }

    /// Joins, assignments and commits that were refused because groups reached their memory limit.
    pub fn refused_for_bytes(&self) -> u64 {
        self.usage.refused()
    }

    /// Whether this node coordinates a group of that name, which need not exist.
    pub fn coordinates(&self, group: &str) -> bool {
        self.shard_of(group).is_ok_and(|shard| shard.leads())
    }

    /// Joins a group; the future resolves when the member's generation begins.
    pub fn join(
        &self,
        mut request: JoinRequest,
    ) -> impl Future<Output = Result<Joined, JoinRefusal>> + Send + use<> {
        let id = request.member_id.clone();
        let refused = move |error| JoinRefusal { error, member_id: id.clone() };
        request.fresh_id = uuid_text(clock::random_uuid()).into();
        let joining = self.shard_of(&request.group).and_then(|shard| shard.join(request));
        let usage = self.usage.clone();
        async move {
            let joined = match joining {
                Ok(joining) => joining.await.unwrap_or_else(|_| Err(refused(GroupError::NotCoordinator))),
                Err(error) => Err(refused(error)),
            };
            count_refusal(&usage, joined.as_ref().err().map(|refusal| refusal.error));
            joined
        }
    }

    /// Syncs a member; the future resolves to its assignment when the leader's assignments are durable.
    pub fn sync(
        &self,
        request: SyncRequest,
    ) -> impl Future<Output = Result<Synced, GroupError>> + Send + use<> {
        let syncing = self.shard_of(&request.group).and_then(|shard| shard.sync(request));
        let usage = self.usage.clone();
        async move {
            let synced = syncing?.await.unwrap_or(Err(GroupError::NotCoordinator));
            count_refusal(&usage, synced.as_ref().err().copied());
            synced
        }
    }

    /// Extends a member's session.
    pub fn heartbeat(&self, group: &str, member: &MemberRef) -> Result<(), GroupError> {
        self.shard_of(group)?.decide(Some(group), |d| d.state.coordinator.heartbeat(d.now, group, member))?
    }

    /// Removes members; each has its own result.
    pub fn leave(
        &self,
        group: &str,
        members: &[MemberRef],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.shard_of(group)?.decide(Some(group), |d| d.state.coordinator.leave(d.now, group, members))?
    }

    /// Describes a group; `None` if it does not exist.
    pub fn describe(&self, group: &str) -> Result<Option<GroupView>, GroupError> {
        self.shard_of(group)?.decide(Some(group), |d| d.state.coordinator.view(group))
    }

    /// Topics that the group's members subscribe to.
    pub(super) fn subscribed_topics(&self, group: &str) -> Result<Vec<Arc<str>>, GroupError> {
        let topics =
            |d: &mut Decision<'_>| d.state.coordinator.subscribed_topics(group).map(Arc::from).collect();
        self.shard_of(group)?.decide(Some(group), topics)
    }

    /// Every group that this node coordinates, sorted by name.
    pub fn list(&self) -> Vec<ListedGroup> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let list = |d: &mut Decision<'_>| {
                let listed = |(name, phase, kind): (&Arc<str>, Phase, Option<&str>)| ListedGroup {
                    name: name.clone(),
                    state: phase.name(),
                    protocol_type: kind.unwrap_or_default().to_string(),
                };
                d.state.coordinator.list().map(listed).collect::<Vec<_>>()
            };
            // The groups of a shard that another node leads are listed by that node.
            all.extend(shard.decide(None, list).unwrap_or_default());
        }
        all.sort();
        all
    }

    /// Fails every parked join and sync, so that a shutdown does not wait for rebalances to end.
    pub fn dismiss(&self) {
        self.shards.iter().for_each(|shard| shard.dismiss());
    }

    /// Deletes an empty group with its offsets; the future resolves when that is durable.
    pub fn delete(&self, group: &str) -> impl Future<Output = Result<(), GroupError>> + Send + use<> {
        let deleting = self.shard_of(group).and_then(|shard| shard.delete(group));
        async move { write_result(deleting?).await }
    }
}

/// Waits for the result of a write.
async fn write_result(rx: oneshot::Receiver<Result<(), GroupError>>) -> Result<(), GroupError> {
    rx.await.unwrap_or(Err(GroupError::NotCoordinator))
}

/// FNV-1a with a final mix, because its low bits alone are unevenly distributed. It determines the placement of groups and
/// must never change.
fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// A UUID as text, as Java prints it.
fn uuid_text(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Counts a request that was refused because groups reached their memory limit.
fn count_refusal(usage: &Usage, error: Option<GroupError>) {
    if error == Some(GroupError::OutOfBytes) {
        usage.refuse(clock::monotonic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_hashes_are_stable_and_evenly_distributed() {
        assert_eq!(stable_hash(b""), 0x8570_e250_fe4c_2473);
        let mut counts = [0; 16];
        for n in 0..16_000 {
            counts[(stable_hash(format!("group-{n}").as_bytes()) % 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_uuid_is_formatted_as_in_java() {
        let uuid = std::array::from_fn(|at| at as u8 * 0x11);
        assert_eq!(uuid_text(uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
