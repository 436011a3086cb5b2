//! A member's way through a classic group: find the coordinator, join, sync, beat, and again.
//!
//! Pure: answers and the time go in; what to ask next comes out. There is always exactly one next thing.
//!
//! Invariants, each said as an absence:
//! 1. No request but a join carries a generation that the coordinator has not confirmed.
//! 2. No partition is read between the moment at which a rebalance is heard of and the next sync, unless all of the
//!    member's assignors are cooperative: then only partitions that the sync takes away are given up, after it.
//! 3. No member that has given something up in a sync waits for its next heartbeat to join again.
//! 4. No heartbeat is sent less often than `heartbeat_interval` while there is an assignment.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use millstream_protocol::{
    ErrorCode,
    messages::{join_group::JoinGroupResponse, sync_group::SyncGroupResponse},
};

use super::assignor::{Assignor, Member, Subscription, read_assignment, read_subscription};
use crate::{backoff::Backoff, consumer::TopicPartition};

/// What the machine goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) session_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) backoff: Backoff,
    /// Whether what is read is kept while the group changes.
    pub(super) cooperative: bool,
}

/// What to ask next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Which broker coordinates the group.
    Coordinator,
    /// Join, with the member id that the coordinator gave, or none.
    Join {
        member_id: String,
    },
    /// Decide who reads what, for everyone, and sync with that.
    AssignAndSync {
        generation: i32,
        member_id: String,
        assignor: Assignor,
        members: Vec<Member>,
    },
    /// Sync, to hear what is to be read.
    Sync {
        generation: i32,
        member_id: String,
    },
    Heartbeat {
        generation: i32,
        member_id: String,
    },
}

/// What the reader must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MembershipEvent {
    /// Stop reading some, then begin to read others; all else goes on.
    Assigned { revoked: Vec<TopicPartition>, added: Vec<TopicPartition> },
    /// Stop reading these; offsets can still be committed.
    Revoked(Vec<TopicPartition>),
    /// Stop reading these; others may read already, and offsets cannot be committed.
    Lost(Vec<TopicPartition>),
    /// The group cannot be joined.
    Failed(ErrorCode),
    /// The coordinator's bytes make no sense.
    Malformed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Joining,
    Leading(Assignor, Vec<Member>),
    Following,
    Stable,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Membership {
    rules: Rules,
    state: State,
    coordinator: Option<i32>,
    member_id: String,
    generation: i32,
    failures: u32,
    not_before: Instant,
    /// When the coordinator last confirmed the membership.
    confirmed: Instant,
    /// What it reads.
    owned: BTreeSet<TopicPartition>,
    /// What it was given last, and in which generation.
    last: (BTreeSet<TopicPartition>, i32),
    /// The assignor that the group has agreed on; none before the first join.
    assignor: Option<Assignor>,
}

impl Membership {
    pub(super) fn new(rules: Rules, now: Instant) -> Membership {
        Membership {
            rules,
            state: State::Unknown,
            coordinator: None,
            member_id: String::new(),
            generation: -1,
            failures: 0,
            not_before: now,
            confirmed: now,
            owned: BTreeSet::new(),
            last: (BTreeSet::new(), -1),
            assignor: None,
        }
    }

    /// What to ask next, and not before when.
    pub(super) fn next(&self) -> (Instant, Ask) {
        let (generation, member_id) = (self.generation, self.member_id.clone());
        let ask = match (&self.state, self.coordinator) {
            (_, None) | (State::Unknown, _) => Ask::Coordinator,
            (State::Joining, _) => Ask::Join { member_id },
            (State::Leading(assignor, members), _) => {
                Ask::AssignAndSync { generation, member_id, assignor: *assignor, members: members.clone() }
            }
            (State::Following, _) => Ask::Sync { generation, member_id },
            (State::Stable, _) => Ask::Heartbeat { generation, member_id },
        };
        (self.not_before, ask)
    }

    /// The generation and the member that offsets may be committed as.
    pub(super) fn identity(&self) -> (i32, &str) {
        (self.generation, &self.member_id)
    }

    /// What it says of itself when it joins.
    pub(super) fn subscription(&self, topics: &BTreeSet<String>) -> Subscription {
        let (last, generation) = self.last.clone();
        Subscription { topics: topics.clone(), owned: self.owned.clone(), last, generation }
    }

    /// Whether a join or a sync is the next thing that it is to be answered.
    pub(super) fn is_changing(&self) -> bool {
        self.state != State::Stable
    }

    /// Whether it has joined and not synced yet: until then the group takes no offsets.
    pub(super) fn waits_for_sync(&self) -> bool {
        matches!(self.state, State::Leading(..) | State::Following)
    }

    /// The assignor that the group has agreed on.
    pub(super) fn assignor(&self) -> Option<Assignor> {
        self.assignor
    }

    /// The coordinator has heard of this member, whatever it said.
    pub(super) fn heard_of(&mut self, now: Instant) {
        self.confirmed = now;
    }

    /// The member has left: it begins anew, and what it had is not its own any more.
    pub(super) fn begin_anew(&mut self, now: Instant) -> Option<MembershipEvent> {
        self.member_id.clear();
        self.rejoin(now)
    }

    /// The broker that coordinates the group.
    pub(super) fn found(&mut self, coordinator: i32, now: Instant) {
        self.coordinator = Some(coordinator);
        if self.state == State::Unknown {
            self.state = State::Joining;
        }
        self.soon(now);
    }

    /// No answer: another broker may coordinate the group now. What is assigned stays until the session is over.
    pub(super) fn unanswered(&mut self, now: Instant, chance: u64) -> Option<MembershipEvent> {
        self.coordinator = None;
        self.later(now, chance);
        self.check_session(now)
    }

    /// Takes in the answer to a join.
    pub(super) fn joined(
        &mut self,
        answer: JoinGroupResponse,
        now: Instant,
        chance: u64,
    ) -> Option<MembershipEvent> {
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.member_id = answer.member_id.to_string();
                self.soon(now);
                return None;
            }
            code => return self.refused(code, now, chance),
        }
        self.member_id = answer.member_id.to_string();
        self.generation = answer.generation_id;
        self.confirmed = now;
        self.soon(now);
        let agreed = answer.protocol_name.as_ref().and_then(|name| Assignor::named(name));
        let Some(assignor) = agreed else {
            let name = answer.protocol_name.as_deref().unwrap_or_default();
            return Some(MembershipEvent::Malformed(format!("the group agreed on the assignor '{name}'")));
        };
        self.assignor = Some(assignor);
        // A leader whose group goes on as it was gives nothing out.
        if answer.leader != answer.member_id || answer.skip_assignment {
            self.state = State::Following;
            return None;
        }
        let mut members = Vec::with_capacity(answer.members.len());
        for member in answer.members {
            let instance = member.group_instance_id.as_deref();
            match read_subscription(assignor, &member.member_id, instance, member.metadata) {
                Ok(member) => members.push(member),
                Err(error) => {
                    let reason = format!("the subscription of {}: {error}", member.member_id);
                    return Some(MembershipEvent::Malformed(reason));
                }
            }
        }
        self.state = State::Leading(assignor, members);
        None
    }

    /// Takes in the answer to a sync.
    pub(super) fn synced(
        &mut self,
        answer: SyncGroupResponse,
        now: Instant,
        chance: u64,
    ) -> Option<MembershipEvent> {
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            code => return self.refused(code, now, chance),
        }
        let partitions = match read_assignment(answer.assignment) {
            Ok(partitions) => partitions,
            Err(error) => return Some(MembershipEvent::Malformed(format!("the assignment: {error}"))),
        };
        self.confirmed = now;
        self.failures = 0;
        let given: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        let revoked: Vec<_> = self.owned.difference(&given).cloned().collect();
        let added = given.difference(&self.owned).cloned().collect();
        self.owned = given.clone();
        self.last = (given, self.generation);
        if revoked.is_empty() {
            self.state = State::Stable;
            self.not_before = now + self.rules.heartbeat_interval;
        } else {
            // What is given up here goes to others in the next round.
            self.state = State::Joining;
            self.soon(now);
        }
        Some(MembershipEvent::Assigned { revoked, added })
    }

    /// Takes in the answer to a heartbeat, or the error of a commit, which tells the same.
    pub(super) fn beat(&mut self, code: ErrorCode, now: Instant, chance: u64) -> Option<MembershipEvent> {
        if code == ErrorCode::NONE {
            self.confirmed = now;
            self.failures = 0;
            self.not_before = now + self.rules.heartbeat_interval;
            return None;
        }
        self.refused(code, now, chance)
    }

    /// The topics have other partitions than when they were given out: the group is to be formed anew.
    pub(super) fn regroup(&mut self, now: Instant) -> Option<MembershipEvent> {
        if self.state != State::Stable {
            return None;
        }
        self.state = State::Joining;
        self.soon(now);
        self.revoke()
    }

    /// What an error means for the membership.
    fn refused(&mut self, code: ErrorCode, now: Instant, chance: u64) -> Option<MembershipEvent> {
        match code {
            ErrorCode::REBALANCE_IN_PROGRESS => {
                self.state = State::Joining;
                self.soon(now);
                self.revoke()
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.member_id.clear();
                self.rejoin(now)
            }
            ErrorCode::ILLEGAL_GENERATION => self.rejoin(now),
            ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => self.unanswered(now, chance),
            code if code.is_retriable() => {
                self.later(now, chance);
                self.check_session(now)
            }
            code => Some(MembershipEvent::Failed(code)),
        }
    }

    fn rejoin(&mut self, now: Instant) -> Option<MembershipEvent> {
        self.generation = -1;
        self.state = State::Joining;
        self.soon(now);
        self.lose()
    }

    /// After the session timeout without an answer the coordinator has given the partitions to others.
    fn check_session(&mut self, now: Instant) -> Option<MembershipEvent> {
        if self.generation < 0 || now.saturating_duration_since(self.confirmed) < self.rules.session_timeout {
            return None;
        }
        self.generation = -1;
        self.state = State::Joining;
        self.lose()
    }

    fn revoke(&mut self) -> Option<MembershipEvent> {
        if self.rules.cooperative || self.owned.is_empty() {
            return None;
        }
        Some(MembershipEvent::Revoked(std::mem::take(&mut self.owned).into_iter().collect()))
    }

    fn lose(&mut self) -> Option<MembershipEvent> {
        let lost: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        (!lost.is_empty()).then_some(MembershipEvent::Lost(lost))
    }

    fn soon(&mut self, now: Instant) {
        self.not_before = now;
    }

    fn later(&mut self, now: Instant, chance: u64) {
        self.failures += 1;
        self.not_before = now + self.rules.backoff.after(self.failures, chance);
    }
}

/// Topics of all members, which the leader must know the partitions of.
pub(super) fn topics_of(members: &[Member]) -> BTreeSet<String> {
    members.iter().flat_map(|member| member.topics.iter().cloned()).collect()
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
