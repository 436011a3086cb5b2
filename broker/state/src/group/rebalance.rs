//! The steps of a rebalance: members join, a generation starts, its leader's assignment is written, and every
//! member gets its part.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    GroupOp,
    classic::{ClassicGroup, refuse},
    deadlines::{Deadlines, Entry, Ring, Timer},
    types::{GENERATION_BYTES_MAX, GroupConfig, GroupEffect, GroupError, Now, Phase, Ticket, WriteId},
};

/// State that all groups of a coordinator share.
#[derive(Debug, Default)]
pub(super) struct CoordinatorState {
    pub(super) config: GroupConfig,
    pub(super) deadlines: Deadlines,
    pub(super) effects: Vec<GroupEffect>,
    pub(super) writes: HashMap<WriteId, (Arc<str>, Write)>,
    pub(super) last_write: u64,
    /// Bytes by which the groups may grow.
    pub(super) bytes_left: usize,
}

/// What a pending write of a group contains.
#[derive(Debug)]
pub(super) enum Write {
    /// The generation with its assignments, one per member.
    Assignments(Vec<(Arc<str>, Bytes)>),
    /// A static member's new id, and the answer to its join.
    Replaced {
        id: Arc<str>,
        /// The leader named in the answer to a client that would otherwise assign again.
        old_leader: Option<Arc<str>>,
        can_skip_assignment: bool,
    },
    /// The empty generation: no request depends on it.
    Emptied,
}

/// The context of one input.
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) shared: &'a mut CoordinatorState,
}

impl Turn<'_> {
    fn write(&mut self, group: &Arc<str>, op: GroupOp, waits: Write) -> WriteId {
        self.shared.last_write += 1;
        let id = WriteId(self.shared.last_write);
        self.shared.writes.insert(id, (group.clone(), waits));
        self.shared.effects.push(GroupEffect::Write(id, op));
        id
    }
}

impl ClassicGroup {
    fn enter(&mut self, phase: Phase, turn: &Turn<'_>) {
        self.phase = phase;
        self.state_since_ms = turn.now.wall_ms;
    }

    /// After a change of the members: starts a rebalance, or continues the current one.
    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        if self.phase == Phase::PreparingRebalance {
            self.complete_if_joined(turn)
        } else {
            self.prepare(turn)
        }
    }

    /// Starts a rebalance.
    pub(super) fn prepare(&mut self, turn: &mut Turn<'_>) {
        if self.phase == Phase::CompletingRebalance {
            self.fail_syncs(GroupError::RebalanceInProgress, turn);
        }
        self.assigning = None;
        self.not_synced.clear();
        self.sync_alarm.cancel();
        self.from_empty = self.phase == Phase::Empty;
        self.enter(Phase::PreparingRebalance, turn);
        if !self.from_empty {
            return self.complete_or_wait(turn);
        }
        let delay = turn.shared.config.initial_rebalance_delay_ms;
        if delay == 0 {
            return self.complete(turn);
        }
        self.wait_for_more(delay, self.rebalance_timeout_ms().saturating_sub(delay), turn);
    }

    fn wait_for_more(&mut self, delay_ms: u64, left_ms: u64, turn: &mut Turn<'_>) {
        self.initial_left_ms = Some(left_ms);
        self.wait_for_joins(delay_ms, turn);
    }

    fn wait_for_joins(&mut self, ms: u64, turn: &mut Turn<'_>) {
        let at = turn.now.mono_ms + ms;
        self.join_alarm.set(at, &self.name, || Timer::Join, &mut turn.shared.deadlines);
    }

    fn all_joined(&self) -> bool {
        self.joining == self.members.len() && self.given_ids.is_empty()
    }

    fn complete_or_wait(&mut self, turn: &mut Turn<'_>) {
        if self.all_joined() {
            self.complete(turn)
        } else {
            self.wait_for_joins(self.rebalance_timeout_ms(), turn)
        }
    }

    /// Completes the join phase if every member has joined; an initial rebalance waits for its deadline
    /// instead.
    pub(super) fn complete_if_joined(&mut self, turn: &mut Turn<'_>) {
        if self.phase == Phase::PreparingRebalance && self.all_joined() && !self.from_empty {
            self.complete(turn);
        }
    }

    /// Ends the join phase: dynamic members that did not join are removed, and a generation starts.
    fn complete(&mut self, turn: &mut Turn<'_>) {
        self.join_alarm.cancel();
        self.initial_left_ms = None;
        let absent = self.members.values().filter(|m| m.join.is_none() && m.record.instance_id.is_none());
        let absent: Vec<Arc<str>> = absent.map(|member| member.record.id.clone()).collect();
        for id in absent {
            self.take_out(&id, GroupError::UnknownMember, &mut turn.shared.effects);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only static members are left, and none of them joined: their sessions decide.
            return self.wait_for_joins(self.rebalance_timeout_ms().max(1), turn);
        }
        self.next_generation(turn);
        if self.phase == Phase::Empty { self.write_empty(turn) } else { self.answer_joins(turn) }
    }

    fn next_generation(&mut self, turn: &Turn<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.new_member_added = false;
        self.protocol = self.select_protocol();
        let phase = if self.members.is_empty() { Phase::Empty } else { Phase::CompletingRebalance };
        self.enter(phase, turn);
        self.subscribed = self.compute_subscribed();
    }

    fn write_empty(&mut self, turn: &mut Turn<'_>) {
        self.stored = true;
        let op = GroupOp::Put { group: self.name.clone(), record: self.record() };
        turn.write(&self.name, op, Write::Emptied);
    }

    fn answer_joins(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in &ids {
            self.answer_join(id, turn);
            self.restart_session(id, turn);
            self.not_synced.insert(id.clone());
        }
        let at = turn.now.mono_ms + self.rebalance_timeout_ms();
        self.sync_alarm.set(at, &self.name, || Timer::Sync, &mut turn.shared.deadlines);
    }

    /// Answers a parked join with the current generation.
    fn answer_join(&mut self, id: &str, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.is_new = false;
        let Some(ticket) = member.join.take() else { return };
        self.joining -= 1;
        turn.shared.effects.push(GroupEffect::Joined(ticket, Ok(self.joined(id))));
    }

    /// Parks the leader's sync and writes its assignments.
    pub(super) fn assign(&mut self, assignments: &[(Arc<str>, Bytes)], turn: &mut Turn<'_>) {
        if self.assigning.is_some() {
            return;
        }
        let mut given: HashMap<&str, &Bytes> = assignments.iter().map(|(id, bytes)| (&**id, bytes)).collect();
        let mut record = self.record();
        for member in &mut record.members {
            // A member that the leader left out gets an empty assignment.
            member.assignment = given.remove(&*member.id).cloned().unwrap_or_default();
        }
        let all =
            record.members.iter().map(|member| (member.id.clone(), member.assignment.clone())).collect();
        let op = GroupOp::Put { group: self.name.clone(), record };
        // The replicated state contains the assignments, too.
        let growth = 2 * assignments.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let held = 2 * self.members.values().map(|member| member.record.assignment.len()).sum::<usize>();
        let refused = if op.size_hint() > GENERATION_BYTES_MAX {
            Some(GroupError::TooLarge)
        } else {
            (growth.saturating_sub(held) > turn.shared.bytes_left).then_some(GroupError::OutOfBytes)
        };
        if let Some(error) = refused {
            self.fail_syncs(error, turn);
            return self.prepare(turn);
        }
        self.stored = true;
        self.assigning = Some(turn.write(&self.name, op, Write::Assignments(all)));
    }

    fn fail_syncs(&mut self, error: GroupError, turn: &mut Turn<'_>) {
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            self.answer_sync(&id, Bytes::new(), Some(error), turn);
        }
    }

    /// Sets a member's assignment and answers its parked sync. Its session restarts, because it had no
    /// deadline while the sync was parked.
    fn answer_sync(&mut self, id: &str, assignment: Bytes, error: Option<GroupError>, turn: &mut Turn<'_>) {
        self.set_assignment(id, assignment.clone());
        let Some(member) = self.members.get_mut(id) else { return };
        let Some(ticket) = member.sync.take() else { return };
        let answer = error.map_or_else(|| Ok(self.synced(assignment)), Err);
        turn.shared.effects.push(GroupEffect::Synced(ticket, answer));
        self.restart_session(id, turn);
    }

    /// A write of this group has ended.
    pub(super) fn written(
        &mut self,
        id: WriteId,
        write: Write,
        error: Option<GroupError>,
        turn: &mut Turn<'_>,
    ) {
        match write {
            Write::Emptied => {}
            // The group has moved on: its next generation answers.
            Write::Assignments(_) if self.assigning != Some(id) => {}
            Write::Assignments(all) => self.assigned(all, error, turn),
            Write::Replaced { id, old_leader, can_skip_assignment } => {
                self.replaced(&id, old_leader, can_skip_assignment, error, turn);
            }
        }
    }

    fn assigned(&mut self, all: Vec<(Arc<str>, Bytes)>, error: Option<GroupError>, turn: &mut Turn<'_>) {
        self.assigning = None;
        if let Some(error) = error {
            self.fail_syncs(error, turn);
            return self.prepare(turn);
        }
        self.enter(Phase::Stable, turn);
        for (id, assignment) in all {
            self.answer_sync(&id, assignment, None, turn);
        }
    }

    /// Moves a static member to a new id. Unless something else changes, the group stays stable.
    pub(super) fn write_replaced(&mut self, write: Write, turn: &mut Turn<'_>) {
        let op = GroupOp::Put { group: self.name.clone(), record: self.record() };
        turn.write(&self.name, op, write);
    }

    fn replaced(
        &mut self,
        id: &str,
        old_leader: Option<Arc<str>>,
        can_skip_assignment: bool,
        error: Option<GroupError>,
        turn: &mut Turn<'_>,
    ) {
        if self.phase != Phase::Stable {
            // A rebalance started meanwhile, and the parked join takes part in it.
            return;
        }
        let mut joined = self.joined(id);
        if can_skip_assignment {
            joined.skip_assignment = self.leads(id);
        } else {
            joined.leader = old_leader.unwrap_or_default();
            joined.members.clear();
        }
        let Some(member) = self.members.get_mut(id) else { return };
        let Some(ticket) = member.join.take() else { return };
        self.joining -= 1;
        let answer = match error {
            Some(error) => refuse(ticket, error, &Arc::default()),
            None => GroupEffect::Joined(ticket, Ok(joined)),
        };
        turn.shared.effects.push(answer);
        self.restart_session(id, turn);
    }

    /// A deadline of this group may have passed.
    pub(super) fn ring(&mut self, entry: Entry, turn: &mut Turn<'_>) {
        let deadlines = &mut turn.shared.deadlines;
        match entry.2.clone() {
            Timer::Join => {
                if self.join_alarm.ring(entry, deadlines) == Ring::Over {
                    self.joins_over(turn);
                }
            }
            Timer::Sync => {
                if self.sync_alarm.ring(entry, deadlines) == Ring::Over {
                    self.syncs_over(turn);
                }
            }
            Timer::Member(id) => {
                if let Some(alarm) = self.given_ids.get_mut(&id) {
                    if alarm.ring(entry, deadlines) == Ring::Over {
                        self.given_ids.remove(&id);
                        self.complete_if_joined(turn);
                    }
                } else if let Some(member) = self.members.get_mut(&id)
                    && member.alarm.ring(entry, deadlines) == Ring::Over
                {
                    self.session_over(&id, turn);
                }
            }
        }
    }

    fn joins_over(&mut self, turn: &mut Turn<'_>) {
        let delay = turn.shared.config.initial_rebalance_delay_ms;
        match self.initial_left_ms {
            // A member joined during the wait: extend it once.
            Some(left) if left > 0 && self.new_member_added => {
                self.new_member_added = false;
                self.wait_for_more(delay.min(left), left.saturating_sub(delay), turn);
            }
            _ => self.complete(turn),
        }
    }

    fn syncs_over(&mut self, turn: &mut Turn<'_>) {
        let late = std::mem::take(&mut self.not_synced);
        if late.is_empty() {
            return;
        }
        for id in late {
            self.take_out(&id, GroupError::UnknownMember, &mut turn.shared.effects);
        }
        self.prepare(turn);
    }

    fn session_over(&mut self, id: &str, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get(id) else { return };
        if !member.is_new && (member.join.is_some() || member.sync.is_some()) {
            // The member is waiting for the group; the answer starts a session.
            return;
        }
        self.take_out(id, GroupError::UnknownMember, &mut turn.shared.effects);
        self.rebalance_or_complete(turn);
    }

    pub(super) fn owns(&self, entry: &Entry) -> bool {
        match &entry.2 {
            Timer::Join => self.join_alarm.owns(entry),
            Timer::Sync => self.sync_alarm.owns(entry),
            Timer::Member(id) => {
                let alarm =
                    self.given_ids.get(id).or_else(|| self.members.get(id).map(|member| &member.alarm));
                alarm.is_some_and(|alarm| alarm.owns(entry))
            }
        }
    }

    /// Parks a member's sync until the leader's assignment is written.
    pub(super) fn park_sync(&mut self, id: &str, ticket: Ticket, turn: &mut Turn<'_>) {
        self.synced_once(id);
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(older) = member.sync.replace(ticket) {
            // The client abandoned that request: it sends one at a time.
            turn.shared.effects.push(GroupEffect::Synced(older, Err(GroupError::RebalanceInProgress)));
        }
    }

    pub(super) fn synced_once(&mut self, id: &str) {
        self.not_synced.remove(id);
        if self.not_synced.is_empty() {
            self.sync_alarm.cancel();
        }
    }

    /// Checks every invariant.
    ///
    /// # Panics
    /// With the group and the values if an invariant is violated.
    pub(super) fn validate(&self) {
        let name = &self.name;
        let joins = self.members.values().filter(|m| m.join.is_some()).count();
        assert_eq!(self.joining, joins, "{name}: parked joins");
        let statics =
            self.members.values().filter_map(|m| Some((m.record.instance_id.clone()?, m.record.id.clone())));
        assert_eq!(self.instances, statics.collect(), "{name}: static members");
        let mut supported = std::collections::BTreeMap::new();
        for (protocol, _) in self.members.values().flat_map(|m| &m.record.protocols) {
            *supported.entry(protocol.clone()).or_insert(0) += 1;
        }
        assert_eq!(self.supported, supported, "{name}: supported protocols");
        assert_eq!(self.leader.is_some(), !self.members.is_empty(), "{name}: leader {:?}", self.leader);
        let leads = self.leader.as_ref().is_none_or(|leader| self.members.contains_key(leader));
        assert!(leads, "{name}: the leader {:?} is no member", self.leader);
        self.validate_bytes();
        self.validate_phase();
        self.validate_waits();
    }

    fn validate_phase(&self) {
        let (name, empty) = (&self.name, self.members.is_empty());
        match self.phase {
            Phase::Empty => assert!(empty, "{name} is empty with {} members", self.members.len()),
            Phase::PreparingRebalance => assert!(self.join_alarm.is_set(), "{name} waits for joins for ever"),
            Phase::CompletingRebalance | Phase::Stable => {
                assert!(!empty && self.protocol.is_some(), "{name} is {:?} without members", self.phase);
            }
        }
        let assigns = self.assigning.is_none() || self.phase == Phase::CompletingRebalance;
        assert!(assigns, "{name} assigns while {:?}", self.phase);
        let syncs = self.members.values().any(|m| m.sync.is_some());
        assert!(
            !syncs || self.phase == Phase::CompletingRebalance,
            "{name} has parked syncs while {:?}",
            self.phase
        );
        let joins = matches!(self.phase, Phase::PreparingRebalance | Phase::Stable);
        assert!(self.joining == 0 || joins, "{name} has parked joins while {:?}", self.phase);
    }

    fn validate_waits(&self) {
        let name = &self.name;
        for (id, member) in &self.members {
            let waits = !member.is_new && (member.join.is_some() || member.sync.is_some());
            assert!(waits || member.alarm.is_set(), "{name}: nothing ends the session of {id}");
        }
        for (id, alarm) in &self.given_ids {
            assert!(alarm.is_set() && !self.members.contains_key(id), "{name}: the given id {id}");
        }
        assert!(
            self.not_synced.iter().all(|id| self.members.contains_key(id)),
            "{name}: {:?}",
            self.not_synced
        );
        assert!(self.not_synced.is_empty() || self.sync_alarm.is_set(), "{name} waits for syncs for ever");
    }
}
