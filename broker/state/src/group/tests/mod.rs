//! A test harness for a coordinator whose writes are applied to a machine at once, or when the test says so.

mod commits;
mod machine;
mod property;
mod rebalances;
mod sessions;
mod static_members;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::LogId;

use super::*;

/// A coordinator, its replicated state and all answers.
pub(super) struct GroupHarness {
    pub(super) coordinator: Coordinator,
    pub(super) machine: GroupMachine,
    pub(super) now: Now,
    config: GroupConfig,
    /// While set, writes are held back.
    pub(super) hold: bool,
    held: VecDeque<(Option<WriteId>, GroupOp)>,
    index: u64,
    last_ticket: u64,
    joined: BTreeMap<Ticket, Result<Joined, JoinRefusal>>,
    synced: BTreeMap<Ticket, Result<Synced, GroupError>>,
}

/// A member's default join request, which tests modify.
pub(super) fn joining(group: &str, id: &str) -> JoinRequest {
    JoinRequest {
        group: group.into(),
        member_id: id.into(),
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription("t")), ("sticky".into(), subscription("t"))],
        two_steps: true,
        ..JoinRequest::default()
    }
}

/// A consumer's metadata with one topic.
pub(super) fn subscription(topic: &str) -> Bytes {
    let mut out = vec![0, 0, 0, 0, 0, 1, 0, topic.len() as u8];
    out.extend(topic.as_bytes());
    out.into()
}

pub(super) fn member(id: &str, generation: i32) -> MemberRef {
    MemberRef { id: id.into(), instance_id: None, generation }
}

pub(super) fn static_member(id: &str, instance: &str, generation: i32) -> MemberRef {
    MemberRef { id: id.into(), instance_id: Some(instance.into()), generation }
}

impl GroupHarness {
    pub(super) fn new() -> GroupHarness {
        GroupHarness::with(GroupConfig::default())
    }

    pub(super) fn with(config: GroupConfig) -> GroupHarness {
        GroupHarness {
            coordinator: Coordinator::new(config.clone()),
            machine: GroupMachine::new(),
            now: Now { mono_ms: 1_000_000, wall_ms: 1_700_000_000_000 },
            config,
            hold: false,
            held: VecDeque::new(),
            index: 0,
            last_ticket: 0,
            joined: BTreeMap::new(),
            synced: BTreeMap::new(),
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// Sends a join; the suffix of its id is the ticket's number.
    pub(super) fn join(&mut self, mut request: JoinRequest) -> Ticket {
        let ticket = self.ticket();
        request.fresh_id = ticket.0.to_string().into();
        self.coordinator.join(self.now, request, ticket);
        self.settle();
        ticket
    }

    /// Both steps of a new dynamic member's join; returns the ticket of the second.
    pub(super) fn join_new(&mut self, group: &str) -> (Arc<str>, Ticket) {
        let first = self.join(joining(group, ""));
        let refusal = self.joined(first).expect_err("a new member gets its id first");
        assert_eq!(refusal.error, GroupError::MemberIdRequired);
        let second = self.join(joining(group, &refusal.member_id));
        (refusal.member_id, second)
    }

    pub(super) fn sync(
        &mut self,
        group: &str,
        id: &str,
        generation: i32,
        given: &[(&str, &'static str)],
    ) -> Ticket {
        let given =
            given.iter().map(|(id, data)| (Arc::from(*id), Bytes::from_static(data.as_bytes()))).collect();
        self.sync_with(SyncRequest {
            group: group.into(),
            member: member(id, generation),
            assignments: given,
            ..SyncRequest::default()
        })
    }

    pub(super) fn sync_with(&mut self, request: SyncRequest) -> Ticket {
        let ticket = self.ticket();
        self.coordinator.sync(self.now, request, ticket);
        self.settle();
        ticket
    }

    pub(super) fn heartbeat(&mut self, group: &str, who: &MemberRef) -> Result<(), GroupError> {
        let result = self.coordinator.heartbeat(self.now, group, who);
        self.settle();
        result
    }

    pub(super) fn leave(&mut self, group: &str, who: &[MemberRef]) -> Vec<Result<(), GroupError>> {
        let result = self.coordinator.leave(self.now, group, who).expect("a group with a name");
        self.settle();
        result
    }

    pub(super) fn commit(&mut self, group: &str, who: &MemberRef, offset: i64) -> Result<(), GroupError> {
        let group: Arc<str> = group.into();
        self.coordinator.commit(self.now, &group, who)?;
        let committed = CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_ms: self.now.wall_ms,
            expire_ms: None,
        };
        let offsets = vec![OffsetEntry { topic: "t".into(), partition: 0, committed }];
        self.held.push_back((None, GroupOp::Commit { group, offsets }));
        self.settle();
        Ok(())
    }

    pub(super) fn pass(&mut self, ms: u64) {
        // One deadline at a time.
        let end = self.now.mono_ms + ms;
        while let Some(next) = self.coordinator.next_deadline_ms().filter(|next| *next <= end) {
            self.advance_to(next.max(self.now.mono_ms));
        }
        self.advance_to(end);
    }

    fn advance_to(&mut self, mono_ms: u64) {
        self.now.wall_ms += (mono_ms - self.now.mono_ms) as i64;
        self.now.mono_ms = mono_ms;
        self.coordinator.tick(self.now);
        self.settle();
    }

    /// Carries out effects until none are left.
    pub(super) fn settle(&mut self) {
        loop {
            for effect in self.coordinator.take_effects() {
                match effect {
                    GroupEffect::Joined(ticket, answer) => {
                        assert!(self.joined.insert(ticket, answer).is_none(), "{ticket:?} is answered twice");
                    }
                    GroupEffect::Synced(ticket, answer) => {
                        assert!(self.synced.insert(ticket, answer).is_none(), "{ticket:?} is answered twice");
                    }
                    GroupEffect::Write(id, op) => self.held.push_back((Some(id), op)),
                }
            }
            self.coordinator.validate();
            if self.hold || !self.write_one(Ok(())) {
                break;
            }
        }
        self.machine.validate();
    }

    /// Completes the oldest write held back.
    pub(super) fn write_one(&mut self, result: Result<(), GroupError>) -> bool {
        let Some((id, op)) = self.held.pop_front() else { return false };
        if result.is_ok() {
            self.index += 1;
            self.machine.apply(LogId::new(1, self.index), encode([op].iter()));
        }
        if let Some(id) = id {
            self.coordinator.written(self.now, id, result);
        }
        true
    }

    /// Fails a write held back.
    pub(super) fn fail_one(&mut self, error: GroupError) {
        assert!(self.write_one(Err(error)), "no write is kept back");
        self.settle();
    }

    pub(super) fn release(&mut self) {
        self.hold = false;
        self.settle();
    }

    pub(super) fn has_joined(&self, ticket: Ticket) -> bool {
        self.joined.contains_key(&ticket)
    }

    pub(super) fn has_synced(&self, ticket: Ticket) -> bool {
        self.synced.contains_key(&ticket)
    }

    pub(super) fn joined(&self, ticket: Ticket) -> Result<Joined, JoinRefusal> {
        self.joined.get(&ticket).unwrap_or_else(|| panic!("{ticket:?} is not answered")).clone()
    }

    pub(super) fn join_error(&self, ticket: Ticket) -> GroupError {
        self.joined(ticket).expect_err("the join is refused").error
    }

    pub(super) fn synced(&self, ticket: Ticket) -> Result<Bytes, GroupError> {
        let answer = self.synced.get(&ticket).unwrap_or_else(|| panic!("{ticket:?} is not answered"));
        answer.clone().map(|synced| synced.assignment)
    }

    pub(super) fn phase(&self, group: &str) -> Option<Phase> {
        self.coordinator.view(group).map(|view| view.phase)
    }

    /// A failover: another node takes over from the replicated state. What was not written is lost.
    pub(super) fn fail_over(&mut self) {
        self.coordinator.resign();
        self.settle_resigned();
        let restored =
            GroupMachine::restore(&self.machine.snapshot().into_bytes()[..]).expect("a snapshot can be read");
        assert_eq!(restored, self.machine);
        self.machine = restored;
        self.held.clear();
        self.coordinator = Coordinator::new(self.config.clone());
        self.coordinator.load(self.now, &self.machine);
        self.settle();
    }

    fn settle_resigned(&mut self) {
        for effect in self.coordinator.take_effects() {
            match effect {
                GroupEffect::Joined(ticket, answer) => drop(self.joined.insert(ticket, answer)),
                GroupEffect::Synced(ticket, answer) => drop(self.synced.insert(ticket, answer)),
                GroupEffect::Write(..) => {}
            }
        }
        let answered = self.joined.len() + self.synced.len();
        assert_eq!(answered as u64, self.last_ticket, "resigning answers every request");
    }

    /// A stable group of `count` dynamic members; returns their ids, the leader first, and the generation.
    pub(super) fn stable(&mut self, group: &str, count: usize) -> (Vec<Arc<str>>, i32) {
        let mut ids: Vec<Arc<str>> = Vec::new();
        let mut tickets = Vec::new();
        for _ in 0..count {
            let (id, ticket) = self.join_new(group);
            tickets = ids.iter().map(|id| self.join(joining(group, id))).collect();
            tickets.push(ticket);
            ids.push(id);
        }
        let joined = self.joined(tickets[0]).expect("everyone joined");
        let leader = joined.leader.clone();
        ids.sort_by_key(|id| *id != leader);
        for id in ids.iter().rev() {
            let given: Vec<(&str, &'static str)> =
                if *id == leader { ids.iter().map(|id| (&**id, "share")).collect() } else { Vec::new() };
            let ticket = self.sync(group, id, joined.generation, &given);
            if *id == leader {
                assert_eq!(self.synced(ticket), Ok(Bytes::from_static(b"share")));
            }
        }
        assert_eq!(self.phase(group), Some(Phase::Stable));
        (ids, joined.generation)
    }
}
