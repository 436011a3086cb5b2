//! The coordinator of one shard's groups: the leader runs it on top of the replicated state.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    GroupMachine, GroupRecord,
    classic::{ClassicGroup, refuse},
    rebalance::{CoordinatorState, Turn},
    record::GROUP_BYTES,
    types::{
        GroupConfig, GroupEffect, GroupError, GroupView, JoinRequest, MEMBER_BYTES_MAX, MemberRef, Now,
        Phase, SyncRequest, Ticket, WriteId,
    },
};

/// Smallest size of the deadline heap at which stale entries are removed.
const DEADLINES_MIN: usize = 1024;

/// The groups of one shard, in their coordinator.
///
/// Every method takes the current time and leaves effects, which the caller carries out in order; it reports
/// the result of each write with [`written`](Coordinator::written). A parked join or sync is answered exactly
/// once, at the latest by [`resign`](Coordinator::resign).
#[derive(Debug, Default)]
pub struct Coordinator {
    groups: HashMap<Arc<str>, ClassicGroup>,
    shared: CoordinatorState,
    /// Approximate memory of the groups.
    bytes: usize,
    /// Size of the heap at which stale entries are removed.
    deadlines_max: usize,
}

impl Coordinator {
    /// A coordinator without groups.
    pub fn new(config: GroupConfig) -> Coordinator {
        let shared = CoordinatorState { config, bytes_left: usize::MAX, ..CoordinatorState::default() };
        Coordinator { groups: HashMap::new(), shared, bytes: 0, deadlines_max: DEADLINES_MIN }
    }

    /// Loads every group of the replicated state; all members get a full session from now on.
    pub fn load(&mut self, now: Now, machine: &GroupMachine) {
        for (name, state) in machine.groups() {
            self.load_one(now, name.clone(), state.record());
        }
    }

    /// Loads one group of the replicated state that it does not have.
    pub fn load_one(&mut self, now: Now, name: Arc<str>, record: Option<&GroupRecord>) {
        if let Entry::Vacant(place) = self.groups.entry(name) {
            let mut turn = Turn { now, shared: &mut self.shared };
            let name = place.key().clone();
            let group = place.insert(ClassicGroup::load(name, record, &mut turn));
            if group.members.len() > turn.shared.config.members_max {
                group.prepare(&mut turn);
            }
            self.bytes += group.bytes();
        }
    }

    /// Approximate memory of its groups, without the replicated state.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets by how many bytes groups may grow from now on; requests that need more are refused.
    pub fn set_bytes_left(&mut self, bytes: usize) {
        self.shared.bytes_left = bytes;
    }

    /// Whether it has the group.
    pub fn knows(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Takes the effects since the last call.
    pub fn take_effects(&mut self) -> Vec<GroupEffect> {
        std::mem::take(&mut self.shared.effects)
    }

    /// Answers every parked request, because this node no longer leads.
    pub fn resign(&mut self) {
        let effects = &mut self.shared.effects;
        for (_, mut group) in self.groups.drain() {
            let ids: Vec<Arc<str>> = group.members.keys().cloned().collect();
            for id in ids {
                group.take_out(&id, GroupError::NotCoordinator, effects);
            }
        }
        self.bytes = 0;
        self.shared.writes.clear();
        self.shared.deadlines.retain(|_| false);
    }

    fn on<R>(
        &mut self,
        now: Now,
        group: &str,
        act: impl FnOnce(&mut ClassicGroup, &mut Turn<'_>) -> R,
    ) -> Option<R> {
        let known = self.groups.get_mut(group)?;
        let before = known.bytes();
        let result = act(known, &mut Turn { now, shared: &mut self.shared });
        self.bytes = self.bytes + known.bytes() - before;
        if known.is_void() {
            self.remove(group);
        }
        Some(result)
    }

    fn insert(&mut self, name: &Arc<str>, wall_ms: i64) {
        let group = ClassicGroup::new(name.clone(), wall_ms);
        self.bytes += group.bytes();
        let old = self.groups.insert(name.clone(), group);
        self.bytes -= old.map_or(0, |old| old.bytes());
    }

    fn remove(&mut self, group: &str) {
        self.bytes -= self.groups.remove(group).map_or(0, |known| known.bytes());
    }

    /// Handles a join; the answer comes as [`GroupEffect::Joined`].
    pub fn join(&mut self, now: Now, mut request: JoinRequest, ticket: Ticket) {
        if let Err(error) = self.check_join(&mut request) {
            return self.shared.effects.push(refuse(ticket, error, &request.member_id));
        }
        // Only a new member creates a group.
        if request.member_id.is_empty() && !self.knows(&request.group) {
            self.insert(&request.group, now.wall_ms);
        }
        let joined = self.on(now, &request.group, |group, turn| group.join(&request, ticket, turn));
        if joined.is_none() {
            self.shared.effects.push(refuse(ticket, GroupError::UnknownMember, &request.member_id));
        }
    }

    fn check_join(&self, request: &mut JoinRequest) -> Result<(), GroupError> {
        let config = &self.shared.config;
        if request.group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let sessions = config.session_timeout_min_ms..=config.session_timeout_max_ms;
        if !sessions.contains(&request.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        // Duplicate protocols count once.
        let mut names: Vec<Arc<str>> = Vec::with_capacity(request.protocols.len());
        request.protocols.retain(|(name, _)| {
            let first = !names.contains(name);
            names.push(name.clone());
            first
        });
        let bytes: usize = request.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        if bytes > MEMBER_BYTES_MAX {
            return Err(GroupError::TooLarge);
        }
        let growth = match self.groups.get(&request.group) {
            Some(group) => group.growth(request),
            None => ClassicGroup::new(request.group.clone(), 0).growth(request) + GROUP_BYTES,
        };
        if growth > self.shared.bytes_left {
            return Err(GroupError::OutOfBytes);
        }
        let too_many = self.groups.len() >= config.groups_max && !self.knows(&request.group);
        if too_many { Err(GroupError::Full) } else { Ok(()) }
    }

    /// Handles a sync; the answer comes as [`GroupEffect::Synced`].
    pub fn sync(&mut self, now: Now, request: SyncRequest, ticket: Ticket) {
        let refused = if request.group.is_empty() {
            Some(GroupError::InvalidGroupId)
        } else {
            let done = self.on(now, &request.group, |group, turn| group.sync(&request, ticket, turn));
            if done.is_none() { Some(GroupError::UnknownMember) } else { None }
        };
        if let Some(error) = refused {
            self.shared.effects.push(GroupEffect::Synced(ticket, Err(error)));
        }
    }

    /// Handles a heartbeat; an error says what the member must do.
    pub fn heartbeat(&mut self, now: Now, group: &str, member: &MemberRef) -> Result<(), GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.on(now, group, |group, turn| group.heartbeat(member, turn))
            .unwrap_or(Err(GroupError::UnknownMember))
    }

    /// Removes members; returns one result per member.
    pub fn leave(
        &mut self,
        now: Now,
        group: &str,
        members: &[MemberRef],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let unknown = || members.iter().map(|_| Err(GroupError::UnknownMember)).collect();
        Ok(self.on(now, group, |group, turn| group.leave(members, turn)).unwrap_or_else(unknown))
    }

    /// Checks that offsets may be committed; if so, the group exists from now on.
    pub fn commit(&mut self, now: Now, group: &Arc<str>, member: &MemberRef) -> Result<(), GroupError> {
        if !self.knows(group) {
            if member.generation >= 0 {
                return Err(GroupError::IllegalGeneration);
            }
            if self.groups.len() >= self.shared.config.groups_max {
                return Err(GroupError::Full);
            }
            self.insert(group, now.wall_ms);
        }
        let commit = |group: &mut ClassicGroup, turn: &mut Turn<'_>| {
            let allowed = group.commit(member, turn);
            group.stored |= allowed.is_ok();
            allowed
        };
        self.on(now, group, commit).unwrap_or(Err(GroupError::UnknownMember))
    }

    /// Drops an empty group that a tool deletes; the caller removes it from the replicated state.
    pub fn delete(&mut self, group: &str) -> Result<(), GroupError> {
        match self.groups.get(group).map(|known| known.phase) {
            None => Err(GroupError::GroupNotFound),
            Some(Phase::Empty) => {
                self.remove(group);
                Ok(())
            }
            Some(_) => Err(GroupError::NotEmpty),
        }
    }

    /// For each topic, whether a tool may delete the group's offsets of it.
    pub fn may_delete_offsets(&self, group: &str, topics: &[Arc<str>]) -> Result<Vec<bool>, GroupError> {
        let known = self.groups.get(group).ok_or(GroupError::GroupNotFound)?;
        if known.phase != Phase::Empty && !known.uses_consumer_protocol() {
            return Err(GroupError::NotEmpty);
        }
        let free = |topic: &Arc<str>| known.phase == Phase::Empty || !known.is_subscribed(topic);
        Ok(topics.iter().map(free).collect())
    }

    /// Topics that the group's members subscribe to, if they are consumers and send them.
    pub fn subscribed_topics(&self, group: &str) -> impl Iterator<Item = &str> {
        let known = self.groups.get(group).and_then(|known| known.subscribed.as_ref());
        known.into_iter().flatten().map(String::as_str)
    }

    /// Groups with expired offsets.
    pub fn expiring(&self, machine: &GroupMachine, wall_ms: i64, retention_ms: i64) -> Vec<Arc<str>> {
        let settled = |name: &str| {
            self.groups.get(name).is_none_or(|group| {
                // A member that is about to join finds its offsets unchanged.
                group.given_ids.is_empty() && matches!(group.phase, Phase::Empty | Phase::Stable)
            })
        };
        let expires = machine.groups().filter(|(_, state)| state.would_expire(wall_ms, retention_ms));
        expires.filter(|(name, _)| settled(name)).map(|(name, _)| name.clone()).collect()
    }

    /// Drops a group that was removed from the replicated state, unless a member has joined meanwhile.
    pub fn forget(&mut self, group: &str) {
        if let Some(known) = self.groups.get_mut(group) {
            known.stored = false;
            if known.is_void() {
                self.remove(group);
            }
        }
    }

    /// Reports the result of a write that an effect requested.
    pub fn written(&mut self, now: Now, id: WriteId, result: Result<(), GroupError>) {
        let Some((name, write)) = self.shared.writes.remove(&id) else { return };
        self.on(now, &name, |group, turn| group.written(id, write, result.err(), turn));
    }

    /// The next time that [`tick`](Coordinator::tick) must run, on the monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.shared.deadlines.next_ms()
    }

    /// Handles all deadlines that have passed.
    pub fn tick(&mut self, now: Now) {
        while let Some(entry) = self.shared.deadlines.pop_due(now.mono_ms) {
            let name = entry.1.clone();
            self.on(now, &name, |group, turn| group.ring(entry, turn));
        }
        if self.shared.deadlines.len() > self.deadlines_max {
            let groups = &self.groups;
            self.shared.deadlines.retain(|entry| groups.get(&entry.1).is_some_and(|group| group.owns(entry)));
            self.deadlines_max = DEADLINES_MIN.max(2 * self.shared.deadlines.len());
        }
    }

    /// The description of one group.
    pub fn view(&self, group: &str) -> Option<GroupView> {
        self.groups.get(group).map(ClassicGroup::view)
    }

    /// Every group with its state and protocol type, unsorted.
    pub fn list(&self) -> impl Iterator<Item = (&Arc<str>, Phase, Option<&str>)> {
        self.groups.iter().map(|(name, group)| (name, group.phase, group.protocol_type.as_deref()))
    }

    /// Checks every invariant of every group.
    ///
    /// # Panics
    /// With the group and the values if an invariant is violated.
    pub fn validate(&self) {
        let bytes: usize = self.groups.values().map(ClassicGroup::bytes).sum();
        assert_eq!(self.bytes, bytes, "the groups' bytes");
        for (name, group) in &self.groups {
            assert_eq!(*name, group.name);
            assert!(!group.is_void(), "group {name} is nothing");
            group.validate();
        }
    }
}
