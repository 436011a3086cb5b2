//! One group's members and the rules among them; the steps of a rebalance are in `rebalance.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    deadlines::{Alarm, Timer},
    rebalance::Turn,
    record::{GROUP_BYTES, GroupRecord, MemberRecord, protocol_bytes},
    subscription,
    types::{
        GroupEffect, GroupError, GroupView, JoinRefusal, JoinRequest, Joined, JoinedMember, MemberRef,
        MemberView, Phase, Synced, Ticket, WriteId,
    },
};

/// Approximate memory of an allocated member id that is not used yet; a new member takes at least as much.
const GIVEN_ID_BYTES: usize = 384;

/// A member and its parked requests.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) record: MemberRecord,
    /// The answer to its join has not been sent yet.
    pub(super) is_new: bool,
    pub(super) join: Option<Ticket>,
    pub(super) sync: Option<Ticket>,
    pub(super) alarm: Alarm,
}

/// A classic group.
///
/// Invariants, checked by [`validate`](ClassicGroup::validate):
/// 1. `joining` is the number of members with a parked join; `supported` counts the members that support a
///    protocol; `instances` has exactly the static members.
/// 2. The group has a leader exactly when it has members, and the leader is one of them.
/// 3. An empty group has no members; a stable or completing one has some; in a preparing one the join
///    deadline is set.
/// 4. A sync is parked only while the group is completing; a join is parked while it is preparing, or, for a
///    static member whose new id is being written, while it is stable.
/// 5. A member without a parked request has a deadline, and so has every allocated id that is not used yet.
/// 6. Members that have not synced are members, and while there are any, the sync deadline is set.
/// 7. `member_bytes` is the memory of the members' records.
/// 8. An assignment is being written only while the group is completing.
/// 7. `member_bytes` is what the members' records take.
/// 8. An assignment is being written only while the group is completing.
#[derive(Debug)]
pub(super) struct ClassicGroup {
    pub(super) name: Arc<str>,
    pub(super) phase: Phase,
    /// Whether the current rebalance started from an empty group.
    pub(super) from_empty: bool,
    pub(super) state_since_ms: i64,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) generation: i32,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    pub(super) instances: BTreeMap<Arc<str>, Arc<str>>,
    pub(super) supported: BTreeMap<Arc<str>, usize>,
    pub(super) joining: usize,
    /// Approximate memory of the members.
    member_bytes: usize,
    /// Ids that were given to members that have not joined under them yet.
    pub(super) given_ids: BTreeMap<Arc<str>, Alarm>,
    pub(super) not_synced: BTreeSet<Arc<str>>,
    pub(super) new_member_added: bool,
    /// During an initial rebalance: by how much the wait may still be extended.
    pub(super) initial_left_ms: Option<u64>,
    pub(super) join_alarm: Alarm,
    pub(super) sync_alarm: Alarm,
    pub(super) subscribed: Option<BTreeSet<String>>,
    pub(super) assigning: Option<WriteId>,
    /// Whether the group is in the replicated state.
    pub(super) stored: bool,
}

impl ClassicGroup {
    pub(super) fn new(name: Arc<str>, wall_ms: i64) -> ClassicGroup {
        ClassicGroup {
            name,
            phase: Phase::Empty,
            from_empty: false,
            state_since_ms: wall_ms,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            supported: BTreeMap::new(),
            joining: 0,
            member_bytes: 0,
            given_ids: BTreeMap::new(),
            not_synced: BTreeSet::new(),
            new_member_added: false,
            initial_left_ms: None,
            join_alarm: Alarm::default(),
            sync_alarm: Alarm::default(),
            subscribed: None,
            assigning: None,
            stored: false,
        }
    }

    /// The group from its replicated state; every member gets a full session.
    pub(super) fn load(name: Arc<str>, record: Option<&GroupRecord>, turn: &mut Turn<'_>) -> ClassicGroup {
        let mut group = ClassicGroup::new(name, turn.now.wall_ms);
        group.stored = true;
        let Some(record) = record else { return group };
        group.state_since_ms = record.state_since_ms;
        group.protocol_type = record.protocol_type.clone();
        group.protocol = record.protocol.clone();
        group.generation = record.generation;
        group.leader = record.leader.clone();
        for member in &record.members {
            group.insert(Member::new(member.clone()));
            group.restart_session(&member.id, turn);
        }
        if !group.members.is_empty() {
            group.phase = Phase::Stable;
        }
        group.subscribed = group.compute_subscribed();
        group
    }

    /// Whether the group can be dropped without loss.
    pub(super) fn is_void(&self) -> bool {
        !self.stored && self.members.is_empty() && self.given_ids.is_empty()
    }

    pub(super) fn leads(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(subscription::CONSUMER)
    }

    /// Whether a tool must not delete the topic's offsets.
    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or(self.uses_consumer_protocol(), |topics| topics.contains(topic))
    }

    pub(super) fn compute_subscribed(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        subscription::subscribed(self.members.values().map(|member| member.metadata(protocol)))
    }

    /// Validates a member's identity.
    pub(super) fn check_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance_id {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if **current != *id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    pub(super) fn check_generation(&self, member: &MemberRef) -> Result<(), GroupError> {
        self.check_member(&member.id, member.instance_id.as_deref())?;
        if member.generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    /// Whether a joining member with these protocols shares one with all others.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[(Arc<str>, Bytes)]) -> bool {
        if self.phase == Phase::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let by_all = |name: &Arc<str>| self.supported.get(name).copied().unwrap_or(0) == self.members.len();
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(|(name, _)| by_all(name))
    }

    /// Each member votes for the first of its protocols that all support; ties go to the first by name.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let everyone = self.members.len();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let mut names = member.record.protocols.iter().map(|(name, _)| name);
            let vote = names.find(|name| self.supported.get(*name) == Some(&everyone));
            *votes.entry(vote?).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_string())
    }

    pub(super) fn insert(&mut self, member: Member) {
        let id = member.record.id.clone();
        self.given_ids.remove(&id);
        if let Some(instance) = &member.record.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.count_protocols(&member.record.protocols);
        self.joining += usize::from(member.join.is_some());
        self.leader.get_or_insert_with(|| id.clone());
        self.member_bytes += member.record.bytes();
        let old = self.members.insert(id, member);
        self.member_bytes -= old.map_or(0, |old| old.record.bytes());
    }

    fn count_protocols(&mut self, protocols: &[(Arc<str>, Bytes)]) {
        protocols.iter().for_each(|(name, _)| *self.supported.entry(name.clone()).or_default() += 1);
    }

    fn discount_protocols(&mut self, protocols: &[(Arc<str>, Bytes)]) {
        for (name, _) in protocols {
            let left = self.supported.get_mut(name).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                self.supported.remove(name);
            }
        }
    }

    /// Removes a member and answers its parked requests with `error`.
    pub(super) fn take_out(
        &mut self,
        id: &str,
        error: GroupError,
        effects: &mut Vec<GroupEffect>,
    ) -> Option<Member> {
        let mut member = self.members.remove(id)?;
        self.member_bytes -= member.record.bytes();
        self.discount_protocols(&member.record.protocols);
        let instance = member.record.instance_id.as_ref();
        if let Some(instance) =
            instance.filter(|i| self.instances.get(*i).is_some_and(|owner| **owner == *id))
        {
            self.instances.remove(instance);
        }
        if let Some(ticket) = member.join.take() {
            self.joining -= 1;
            let current_id =
                if error == GroupError::FencedInstance { member.record.id.clone() } else { Arc::default() };
            effects.push(GroupEffect::Joined(ticket, Err(JoinRefusal { error, member_id: current_id })));
        }
        if let Some(ticket) = member.sync.take() {
            effects.push(GroupEffect::Synced(ticket, Err(error)));
        }
        if self.leads(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.not_synced.remove(id);
        Some(member)
    }

    /// Moves a static member, assignment included, to a new id; a client that still uses the old one is
    /// fenced.
    pub(super) fn replace(&mut self, old_id: &str, new_id: &Arc<str>, effects: &mut Vec<GroupEffect>) {
        let led = self.leads(old_id);
        let Some(old) = self.take_out(old_id, GroupError::FencedInstance, effects) else { return };
        self.insert(Member::new(MemberRecord { id: new_id.clone(), ..old.record }));
        if led {
            self.leader = Some(new_id.clone());
        }
    }

    /// Updates the member from a new join.
    pub(super) fn update(
        &mut self,
        id: &str,
        request: &JoinRequest,
        ticket: Ticket,
        effects: &mut Vec<GroupEffect>,
    ) {
        let Some(member) = self.members.get_mut(id) else { return };
        let old_protocols = std::mem::replace(&mut member.record.protocols, request.protocols.clone());
        self.member_bytes += protocol_bytes(&request.protocols);
        self.member_bytes -= protocol_bytes(&old_protocols);
        member.record.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.record.session_timeout_ms = request.session_timeout_ms;
        match member.join.replace(ticket) {
            // The client abandoned that request: it sends one at a time.
            Some(older) => effects.push(refuse(older, GroupError::RebalanceInProgress, &member.record.id)),
            None => self.joining += 1,
        }
        self.discount_protocols(&old_protocols);
        self.count_protocols(&request.protocols);
    }

    /// Its approximate memory.
    pub(super) fn bytes(&self) -> usize {
        GROUP_BYTES + self.name.len() + self.member_bytes + self.given_ids.len() * GIVEN_ID_BYTES
    }

    /// By how much the group would grow if this member joined.
    pub(super) fn growth(&self, request: &JoinRequest) -> usize {
        let known = self.members.get(&request.member_id);
        let old = known.map_or(0, |member| protocol_bytes(&member.record.protocols));
        let new = protocol_bytes(&request.protocols) + if known.is_none() { GIVEN_ID_BYTES } else { 0 };
        new.saturating_sub(old)
    }

    pub(super) fn set_assignment(&mut self, id: &str, assignment: Bytes) {
        let Some(member) = self.members.get_mut(id) else { return };
        self.member_bytes += assignment.len();
        self.member_bytes -= std::mem::replace(&mut member.record.assignment, assignment).len();
    }

    /// Checks invariant 7.
    pub(super) fn validate_bytes(&self) {
        let bytes: usize = self.members.values().map(|member| member.record.bytes()).sum();
        assert_eq!(self.member_bytes, bytes, "{}: bytes", self.name);
    }

    /// Restarts the member's session.
    pub(super) fn restart_session(&mut self, id: &str, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let at = turn.now.mono_ms + member.record.session_timeout_ms.max(0) as u64;
        let id = &member.record.id;
        member.alarm.set(at, &self.name, || Timer::Member(id.clone()), &mut turn.shared.deadlines);
    }

    /// Ensures that the leader has a parked join; false if no member has one.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let takes_part = |member: &Member| member.join.is_some();
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(takes_part) {
            return true;
        }
        match self.members.iter().find(|(_, member)| takes_part(member)) {
            Some((id, _)) => {
                self.leader = Some(id.clone());
                true
            }
            None => false,
        }
    }

    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        let timeouts = self.members.values().map(|member| member.record.rebalance_timeout_ms.max(0) as u64);
        timeouts.max().unwrap_or(0)
    }

    /// The answer to a member's join in the current generation.
    pub(super) fn joined(&self, id: &str) -> Joined {
        let members = if self.leads(id) { self.joined_members() } else { Vec::new() };
        Joined {
            member_id: id.into(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            members,
        }
    }

    fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |member: &Member| JoinedMember {
            id: member.record.id.clone(),
            instance_id: member.record.instance_id.clone(),
            metadata: member.metadata_bytes(protocol),
        };
        self.members.values().map(member).collect()
    }

    pub(super) fn synced(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    /// The current generation in its replicated form.
    pub(super) fn record(&self) -> GroupRecord {
        GroupRecord {
            protocol_type: self.protocol_type.clone(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: self.members.values().map(|member| member.record.clone()).collect(),
        }
    }

    pub(super) fn view(&self) -> GroupView {
        let stable = self.phase == Phase::Stable;
        let protocol = self.protocol.clone().filter(|_| stable);
        let member = |member: &Member| MemberView {
            id: member.record.id.clone(),
            instance_id: member.record.instance_id.clone(),
            client_id: member.record.client_id.clone(),
            client_host: member.record.client_host.clone(),
            metadata: protocol.as_deref().map(|name| member.metadata_bytes(name)).unwrap_or_default(),
            assignment: member.record.assignment.clone(),
        };
        let members = self.members.values().map(member).collect();
        GroupView { phase: self.phase, protocol_type: self.protocol_type.clone(), protocol, members }
    }
}

impl Member {
    pub(super) fn new(record: MemberRecord) -> Member {
        Member { record, is_new: false, join: None, sync: None, alarm: Alarm::default() }
    }

    pub(super) fn metadata(&self, protocol: &str) -> &[u8] {
        let found = self.record.protocols.iter().find(|(name, _)| **name == *protocol);
        found.map_or(&[], |(_, metadata)| metadata)
    }

    fn metadata_bytes(&self, protocol: &str) -> Bytes {
        let found = self.record.protocols.iter().find(|(name, _)| **name == *protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

pub(super) fn refuse(ticket: Ticket, error: GroupError, member_id: &Arc<str>) -> GroupEffect {
    GroupEffect::Joined(ticket, Err(JoinRefusal { error, member_id: member_id.clone() }))
}
