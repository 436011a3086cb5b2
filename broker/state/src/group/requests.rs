//! The requests of members to a group, with Kafka's rules.

use std::sync::Arc;

use super::{
    classic::{ClassicGroup, Member, refuse},
    deadlines::{Alarm, Timer},
    rebalance::{Turn, Write},
    record::MemberRecord,
    types::{
        GroupEffect, GroupError, JoinRequest, MemberRef, NEW_MEMBER_JOIN_MS, Phase, SyncRequest, Ticket,
    },
};

impl ClassicGroup {
    /// A member joins, for the first time or again.
    pub(super) fn join(&mut self, request: &JoinRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        if !self.has_room(&request.member_id, turn.shared.config.members_max) {
            let id = request.member_id.clone();
            self.given_ids.remove(&id);
            if self.take_out(&id, GroupError::Full, &mut turn.shared.effects).is_some() {
                self.complete_if_joined(turn);
            }
            return turn.shared.effects.push(refuse(ticket, GroupError::Full, &Arc::default()));
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            let refusal = refuse(ticket, GroupError::InconsistentProtocol, &request.member_id);
            return turn.shared.effects.push(refusal);
        }
        if request.member_id.is_empty() {
            self.join_new(request, ticket, turn);
        } else if request.instance_id.is_none() && self.given_ids.contains_key(&request.member_id) {
            self.add(request.member_id.clone(), request, ticket, turn);
        } else {
            self.join_again(request, ticket, turn);
        }
    }

    /// While the group waits for joins, only members that have joined count, so the last ones to rejoin are
    /// refused if the group is full.
    fn has_room(&self, id: &str, members_max: usize) -> bool {
        if self.given_ids.len() >= members_max
            && !self.members.contains_key(id)
            && !self.given_ids.contains_key(id)
        {
            return false;
        }
        match self.phase {
            Phase::Empty => true,
            Phase::PreparingRebalance => {
                self.members.get(id).is_some_and(|member| member.join.is_some()) || self.joining < members_max
            }
            Phase::CompletingRebalance | Phase::Stable => {
                self.members.contains_key(id) || self.members.len() < members_max
            }
        }
    }

    fn join_new(&mut self, request: &JoinRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        let Some(instance) = &request.instance_id else {
            let id = format!("{}-{}", request.client_id, request.fresh_id).into();
            return self.join_new_dynamic(id, request, ticket, turn);
        };
        let id: Arc<str> = format!("{instance}-{}", request.fresh_id).into();
        match self.instances.get(instance).cloned() {
            Some(old_id) => self.join_in_place_of(&old_id, id, request, ticket, turn),
            None => self.add(id, request, ticket, turn),
        }
    }

    fn join_new_dynamic(&mut self, id: Arc<str>, request: &JoinRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        if !request.two_steps {
            return self.add(id, request, ticket, turn);
        }
        // If the answer with its id is lost and the member tries again, this is all that remains of it.
        let mut alarm = Alarm::default();
        let at = turn.now.mono_ms + request.session_timeout_ms.max(0) as u64;
        alarm.set(at, &self.name, || Timer::Member(id.clone()), &mut turn.shared.deadlines);
        turn.shared.effects.push(refuse(ticket, GroupError::MemberIdRequired, &id));
        self.given_ids.insert(id, alarm);
    }

    fn add(&mut self, id: Arc<str>, request: &JoinRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        let mut member = Member::new(MemberRecord {
            id: id.clone(),
            instance_id: request.instance_id.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: request.protocols.clone(),
            assignment: Default::default(),
        });
        (member.is_new, member.join) = (true, Some(ticket));
        // Its session cannot start before it gets its id; but if its connection is closed, it never will.
        let at = turn.now.mono_ms + NEW_MEMBER_JOIN_MS;
        member.alarm.set(at, &self.name, || Timer::Member(id.clone()), &mut turn.shared.deadlines);
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        self.new_member_added |= self.phase == Phase::PreparingRebalance && self.from_empty;
        self.insert(member);
        self.rebalance_or_complete(turn);
    }

    /// A static member restarts: the client that used its instance id before is fenced.
    fn join_in_place_of(
        &mut self,
        old_id: &str,
        id: Arc<str>,
        request: &JoinRequest,
        ticket: Ticket,
        turn: &mut Turn<'_>,
    ) {
        let old_leader = self.leader.clone();
        self.replace(old_id, &id, &mut turn.shared.effects);
        self.update(&id, request, ticket, &mut turn.shared.effects);
        self.restart_session(&id, turn);
        match self.phase {
            // Its assignment stays valid unless the group would now agree on another protocol.
            Phase::Stable if self.protocol == self.select_protocol() => {
                let can_skip_assignment = request.can_skip_assignment;
                self.write_replaced(Write::Replaced { id, old_leader, can_skip_assignment }, turn);
            }
            // The leader may be assigning to the old id at this moment.
            Phase::Stable | Phase::CompletingRebalance => self.prepare(turn),
            Phase::PreparingRebalance | Phase::Empty => self.complete_if_joined(turn),
        }
    }

    fn join_again(&mut self, request: &JoinRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        let id = &request.member_id;
        if let Err(error) = self.check_member(id, request.instance_id.as_deref()) {
            return turn.shared.effects.push(refuse(ticket, error, id));
        }
        let same = self.members.get(id).is_some_and(|member| member.record.protocols == request.protocols);
        let answer_again = match self.phase {
            Phase::Empty | Phase::PreparingRebalance => false,
            // The answer to its first join may have been lost.
            Phase::CompletingRebalance => same,
            // A leader that rejoins wants a new assignment: its topics may have changed.
            Phase::Stable => same && !self.leads(id),
        };
        if answer_again {
            return turn.shared.effects.push(GroupEffect::Joined(ticket, Ok(self.joined(id))));
        }
        self.update(id, request, ticket, &mut turn.shared.effects);
        self.rebalance_or_complete(turn);
    }

    /// A member asks for its assignment.
    pub(super) fn sync(&mut self, request: &SyncRequest, ticket: Ticket, turn: &mut Turn<'_>) {
        let id = &request.member.id;
        if let Err(error) = self.check_sync(request) {
            return turn.shared.effects.push(GroupEffect::Synced(ticket, Err(error)));
        }
        if self.phase == Phase::Stable {
            self.synced_once(id);
            let assignment = self.members.get(id).map(|member| member.record.assignment.clone());
            let synced = self.synced(assignment.unwrap_or_default());
            return turn.shared.effects.push(GroupEffect::Synced(ticket, Ok(synced)));
        }
        self.park_sync(id, ticket, turn);
        if self.leads(id) {
            self.assign(&request.assignments, turn);
        }
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        if self.phase == Phase::Empty {
            return Err(GroupError::UnknownMember);
        }
        self.check_generation(&request.member)?;
        let differs = |theirs: &Option<String>, ours: &Option<String>| {
            theirs.is_some() && ours.is_some() && theirs != ours
        };
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        if self.phase == Phase::PreparingRebalance { Err(GroupError::RebalanceInProgress) } else { Ok(()) }
    }

    /// A member's heartbeat.
    pub(super) fn heartbeat(&mut self, member: &MemberRef, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.check_generation(member)?;
        self.restart_session(&member.id, turn);
        if self.phase == Phase::PreparingRebalance { Err(GroupError::RebalanceInProgress) } else { Ok(()) }
    }

    /// Members leave, or a tool removes static ones by their instance id alone. Returns one result each.
    pub(super) fn leave(
        &mut self,
        members: &[MemberRef],
        turn: &mut Turn<'_>,
    ) -> Vec<Result<(), GroupError>> {
        let results: Vec<_> = members.iter().map(|member| self.leave_one(member, turn)).collect();
        if results.iter().any(Result::is_ok) && self.phase != Phase::Empty {
            self.rebalance_or_complete(turn);
        }
        results
    }

    fn leave_one(&mut self, member: &MemberRef, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        if self.given_ids.remove(&member.id).is_some() {
            return Ok(());
        }
        let id = match &member.instance_id {
            Some(instance) if member.id.is_empty() => {
                self.instances.get(instance).cloned().ok_or(GroupError::UnknownMember)?
            }
            instance => {
                self.check_member(&member.id, instance.as_deref())?;
                member.id.clone()
            }
        };
        self.take_out(&id, GroupError::UnknownMember, &mut turn.shared.effects);
        Ok(())
    }

    /// Whether offsets may be committed by this member, or by a client without membership.
    pub(super) fn commit(&mut self, member: &MemberRef, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        if member.generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        let claims = member.generation >= 0 || !member.id.is_empty() || member.instance_id.is_some();
        if !claims {
            // While a group has members, only they may commit. An empty group does not get here.
            return Err(GroupError::UnknownMember);
        }
        self.check_generation(member)?;
        match self.phase {
            // It knows the generation but not its assignment: it must sync first.
            Phase::CompletingRebalance => Err(GroupError::RebalanceInProgress),
            Phase::Stable | Phase::PreparingRebalance => {
                // A commit counts as a heartbeat.
                self.restart_session(&member.id, turn);
                Ok(())
            }
            Phase::Empty => Ok(()),
        }
    }
}
