//! Consumer groups: each is coordinated by the leader of the shard that its name hashes to.
//!
//! What decides is `millstream_state::group`: a [`Coordinator`](millstream_state::group::Coordinator) for each shard,
//! behind one lock that is never held across an await. Here are its queue of writes, the requests that wait for it
//! and the one task that watches every deadline of the node.
//!
//! Invariants, each said as an absence:
//! 1. No assignment, static member's new id or committed offset is acknowledged before it is durable and applied.
//! 2. No two writes of one shard are in flight: what is decided first is applied first, and whatever is decided
//!    meanwhile leaves as one entry.
//! 3. No group and no member has a task or a timer of its own.
//! 4. No change depends on the future that a verb returns: it is decided and queued before the verb returns.

mod expiry;
mod offsets;
mod slot;
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
pub use offsets::TopicOffsets;
use slot::{Decision, Slot};
use usage::Usage;

use crate::{clock, partition::Shard};

/// Every group that is coordinated by a shard of this node.
pub struct Groups {
    /// Sorted by shard.
    slots: Vec<Arc<Slot>>,
    /// Tells the keeper that a deadline has come closer.
    wake: Arc<Notify>,
    usage: Arc<Usage>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedGroup {
    /// Its name.
    pub name: Arc<str>,
    /// Kafka's name of its state.
    pub state: &'static str,
    /// What its members speak; empty when only offsets were committed.
    pub protocol_type: String,
}

impl Groups {
    /// The groups of the given shards; nothing is loaded before it is asked for or the keeper runs.
    pub fn new(shards: &HashMap<RaftGroupId, Arc<Shard>>, config: GroupConfig) -> Groups {
        let (wake, usage) = (Arc::new(Notify::new()), Arc::new(Usage::new(config.bytes_max)));
        let started = clock::monotonic();
        let mut shards: Vec<&Arc<Shard>> = shards.values().collect();
        shards.sort_by_key(|shard| shard.id());
        let slot = |shard: &Arc<Shard>| {
            Slot::new(shard.clone(), config.clone(), started, wake.clone(), usage.clone())
        };
        Groups { slots: shards.into_iter().map(slot).collect(), wake, usage }
    }

    /// The slot that a group's name hashes to: always the same one, whatever node asks.
    fn slot(&self, group: &str) -> Result<&Arc<Slot>, GroupError> {
        let at = stable_hash(group.as_bytes()) % self.slots.len().max(1) as u64;
        self.slots.get(at as usize).ok_or(GroupError::NotCoordinator)
    }

    /// Memory that all groups of this node hold, about.
    pub fn bytes(&self) -> usize {
        self.usage.bytes()
    }

    /// Joins, assignments and commits that were refused because groups hold as much as they may.
    pub fn refused_for_bytes(&self) -> u64 {
        self.usage.refused()
    }

    /// Whether this node coordinates a group of that name, which need not exist.
    pub fn coordinates(&self, group: &str) -> bool {
        self.slot(group).is_ok_and(|slot| slot.leads())
    }

    /// A member joins; the future resolves when its generation begins.
    pub fn join(
        &self,
        mut request: JoinRequest,
    ) -> impl Future<Output = Result<Joined, JoinRefusal>> + Send + use<> {
        let id = request.member_id.clone();
        let refused = move |error| JoinRefusal { error, member_id: id.clone() };
        request.fresh_id = uuid_text(clock::random_uuid()).into();
        let joining = self.slot(&request.group).and_then(|slot| slot.join(request));
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

    /// A member asks for its assignment; the future resolves when the leader's assignments are durable.
    pub fn sync(
        &self,
        request: SyncRequest,
    ) -> impl Future<Output = Result<Synced, GroupError>> + Send + use<> {
        let syncing = self.slot(&request.group).and_then(|slot| slot.sync(request));
        let usage = self.usage.clone();
        async move {
            let synced = syncing?.await.unwrap_or(Err(GroupError::NotCoordinator));
            count_refusal(&usage, synced.as_ref().err().copied());
            synced
        }
    }

    /// A member is alive.
    pub fn heartbeat(&self, group: &str, member: &MemberRef) -> Result<(), GroupError> {
        self.slot(group)?.decide(Some(group), |d| d.state.coordinator.heartbeat(d.now, group, member))?
    }

    /// Members leave; each has its own answer.
    pub fn leave(
        &self,
        group: &str,
        members: &[MemberRef],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.slot(group)?.decide(Some(group), |d| d.state.coordinator.leave(d.now, group, members))?
    }

    /// One group, or `None` if there is none of that name.
    pub fn describe(&self, group: &str) -> Result<Option<GroupView>, GroupError> {
        self.slot(group)?.decide(Some(group), |d| d.state.coordinator.view(group))
    }

    /// Topics that the group's members subscribe to.
    pub(super) fn subscribed_topics(&self, group: &str) -> Result<Vec<Arc<str>>, GroupError> {
        let topics =
            |d: &mut Decision<'_>| d.state.coordinator.subscribed_topics(group).map(Arc::from).collect();
        self.slot(group)?.decide(Some(group), topics)
    }

    /// Every group that this node coordinates, sorted by name.
    pub fn list(&self) -> Vec<ListedGroup> {
        let mut all = Vec::new();
        for slot in &self.slots {
            let list = |d: &mut Decision<'_>| {
                let listed = |(name, phase, kind): (&Arc<str>, Phase, Option<&str>)| ListedGroup {
                    name: name.clone(),
                    state: phase.name(),
                    protocol_type: kind.unwrap_or_default().to_string(),
                };
                d.state.coordinator.list().map(listed).collect::<Vec<_>>()
            };
            // A shard that another node leads is that node's to list.
            all.extend(slot.decide(None, list).unwrap_or_default());
        }
        all.sort();
        all
    }

    /// Answers every parked join and sync, so that a node that stops need not wait for rebalances to end.
    pub fn dismiss(&self) {
        self.slots.iter().for_each(|slot| slot.dismiss());
    }

    /// Deletes an empty group with its offsets; the future resolves when that is durable.
    pub fn delete(&self, group: &str) -> impl Future<Output = Result<(), GroupError>> + Send + use<> {
        let deleting = self.slot(group).and_then(|slot| slot.delete(group));
        async move { ended(deleting?).await }
    }
}

/// The end of a write that somebody waits for.
async fn ended(told: oneshot::Receiver<Result<(), GroupError>>) -> Result<(), GroupError> {
    told.await.unwrap_or(Err(GroupError::NotCoordinator))
}

/// FNV-1a with a final mix, because its low bits alone are not even. Part of where groups are: it never changes.
fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// A UUID as text, in Java's form.
fn uuid_text(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Counts a request that was refused because groups hold as much as they may.
fn count_refusal(usage: &Usage, error: Option<GroupError>) {
    if error == Some(GroupError::OutOfBytes) {
        usage.refuse(clock::monotonic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_to_the_same_place_for_ever_and_spread_evenly() {
        assert_eq!(stable_hash(b""), 0x8570_e250_fe4c_2473);
        let mut counts = [0; 16];
        for n in 0..16_000 {
            counts[(stable_hash(format!("group-{n}").as_bytes()) % 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_uuid_reads_as_java_writes_it() {
        let uuid = std::array::from_fn(|at| at as u8 * 0x11);
        assert_eq!(uuid_text(uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
