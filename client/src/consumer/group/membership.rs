//! A member's way through a classic group: find the coordinator, join, sync, beat, and again.
//!
//! Pure: answers and the time go in; what to ask next comes out. There is always exactly one next thing.
//!
//! Invariants, each said as an absence:
//! 1. No request but a join carries a generation that the coordinator has not confirmed.
//! 2. No partition is read between the moment at which a rebalance is heard of and the next sync.
//! 3. No heartbeat is sent less often than `heartbeat_interval` while there is an assignment.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_protocol::{
    ErrorCode,
    messages::{join_group::JoinGroupResponse, sync_group::SyncGroupResponse},
};

use super::assignor::{Member, RANGE, read_assignment, read_subscription};
use crate::{backoff::Backoff, consumer::TopicPartition};

/// What the machine goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) session_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) backoff: Backoff,
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
pub(super) enum News {
    /// Read these and no others.
    Assigned(Vec<TopicPartition>),
    /// Stop reading; offsets can still be committed.
    Revoked,
    /// Stop reading; others may read already, and offsets cannot be committed.
    Lost,
    /// The group cannot be joined.
    Failed(ErrorCode),
    /// The coordinator's bytes make no sense.
    Malformed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Joining,
    Leading(Vec<Member>),
    Following,
    Stable,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Membership {
    times: Times,
    state: State,
    coordinator: Option<i32>,
    member_id: String,
    generation: i32,
    failures: u32,
    not_before: Instant,
    /// When the coordinator last confirmed the membership.
    confirmed: Instant,
    assigned: bool,
}

impl Membership {
    pub(super) fn new(times: Times, now: Instant) -> Membership {
        Membership {
            times,
            state: State::Unknown,
            coordinator: None,
            member_id: String::new(),
            generation: -1,
            failures: 0,
            not_before: now,
            confirmed: now,
            assigned: false,
        }
    }

    /// What to ask next, and not before when.
    pub(super) fn next(&self) -> (Instant, Ask) {
        let (generation, member_id) = (self.generation, self.member_id.clone());
        let ask = match (&self.state, self.coordinator) {
            (_, None) | (State::Unknown, _) => Ask::Coordinator,
            (State::Joining, _) => Ask::Join { member_id },
            (State::Leading(members), _) => {
                Ask::AssignAndSync { generation, member_id, members: members.clone() }
            }
            (State::Following, _) => Ask::Sync { generation, member_id },
            (State::Stable, _) => Ask::Heartbeat { generation, member_id },
        };
        (self.not_before, ask)
    }

    /// The broker to ask.
    pub(super) fn coordinator(&self) -> Option<i32> {
        self.coordinator
    }

    /// The generation and the member that offsets may be committed as.
    pub(super) fn identity(&self) -> (i32, &str) {
        (self.generation, &self.member_id)
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
    pub(super) fn unanswered(&mut self, now: Instant, chance: u64) -> Option<News> {
        self.coordinator = None;
        self.later(now, chance);
        self.check_session(now)
    }

    /// Takes in the answer to a join.
    pub(super) fn joined(&mut self, answer: JoinGroupResponse, now: Instant, chance: u64) -> Option<News> {
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
        if answer.leader != answer.member_id {
            self.state = State::Following;
            return None;
        }
        let mut members = Vec::with_capacity(answer.members.len());
        for member in answer.members {
            match read_subscription(member.metadata) {
                Ok(topics) => members.push(Member { id: member.member_id.to_string(), topics }),
                Err(error) => {
                    return Some(News::Malformed(format!(
                        "the subscription of {}: {error}",
                        member.member_id
                    )));
                }
            }
        }
        self.state = State::Leading(members);
        None
    }

    /// Takes in the answer to a sync.
    pub(super) fn synced(&mut self, answer: SyncGroupResponse, now: Instant, chance: u64) -> Option<News> {
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            code => return self.refused(code, now, chance),
        }
        let partitions = match read_assignment(answer.assignment) {
            Ok(partitions) => partitions,
            Err(error) => return Some(News::Malformed(format!("the assignment: {error}"))),
        };
        self.state = State::Stable;
        self.confirmed = now;
        self.failures = 0;
        self.assigned = true;
        self.not_before = now + self.times.heartbeat_interval;
        Some(News::Assigned(partitions))
    }

    /// Takes in the answer to a heartbeat, or the error of a commit, which tells the same.
    pub(super) fn beat(&mut self, code: ErrorCode, now: Instant, chance: u64) -> Option<News> {
        if code == ErrorCode::NONE {
            self.confirmed = now;
            self.failures = 0;
            self.not_before = now + self.times.heartbeat_interval;
            return None;
        }
        self.refused(code, now, chance)
    }

    /// The topics have other partitions than when they were given out: the group is to be formed anew.
    pub(super) fn regroup(&mut self, now: Instant) -> Option<News> {
        if self.state != State::Stable {
            return None;
        }
        self.state = State::Joining;
        self.soon(now);
        self.give_up(News::Revoked)
    }

    fn refused(&mut self, code: ErrorCode, now: Instant, chance: u64) -> Option<News> {
        match code {
            ErrorCode::REBALANCE_IN_PROGRESS => {
                self.state = State::Joining;
                self.soon(now);
                self.give_up(News::Revoked)
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
            code => Some(News::Failed(code)),
        }
    }

    fn rejoin(&mut self, now: Instant) -> Option<News> {
        self.generation = -1;
        self.state = State::Joining;
        self.soon(now);
        self.give_up(News::Lost)
    }

    /// After the session timeout without an answer the coordinator has given the partitions to others.
    fn check_session(&mut self, now: Instant) -> Option<News> {
        if !self.assigned || now.saturating_duration_since(self.confirmed) < self.times.session_timeout {
            return None;
        }
        self.generation = -1;
        self.state = State::Joining;
        self.give_up(News::Lost)
    }

    fn give_up(&mut self, news: News) -> Option<News> {
        std::mem::take(&mut self.assigned).then_some(news)
    }

    fn soon(&mut self, now: Instant) {
        self.not_before = now;
    }

    fn later(&mut self, now: Instant, chance: u64) {
        self.failures += 1;
        self.not_before = now + self.times.backoff.after(self.failures, chance);
    }
}

/// A join's protocols: the one assignor that this client has.
pub(super) fn protocols(
    subscription: Bytes,
) -> Vec<millstream_protocol::messages::join_group::JoinGroupRequestProtocol> {
    let name = millstream_protocol::Str::from(RANGE);
    vec![millstream_protocol::messages::join_group::JoinGroupRequestProtocol { name, metadata: subscription }]
}

/// Topics of all members, which the leader must know the partitions of.
pub(super) fn topics_of(members: &[Member]) -> BTreeSet<String> {
    members.iter().flat_map(|member| member.topics.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::assignor::{write_assignment, write_subscription},
        *,
    };
    use crate::clock;
    use millstream_protocol::{Str, messages::join_group::JoinGroupResponseMember};

    const SESSION: Duration = Duration::from_secs(10);

    fn times() -> Times {
        let backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
        Times { session_timeout: SESSION, heartbeat_interval: Duration::from_secs(3), backoff }
    }

    fn place() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 2 }
    }

    fn join(member: &'static str, leader: &'static str, generation_id: i32) -> JoinGroupResponse {
        let topics: BTreeSet<String> = ["t".to_string()].into();
        let metadata = write_subscription(&topics).expect("written");
        let one = JoinGroupResponseMember { member_id: Str::from(member), metadata, ..Default::default() };
        JoinGroupResponse {
            generation_id,
            leader: Str::from(leader),
            member_id: Str::from(member),
            members: if member == leader { vec![one] } else { Vec::new() },
            ..Default::default()
        }
    }

    fn sync() -> SyncGroupResponse {
        SyncGroupResponse { assignment: write_assignment(&[place()]).expect("written"), ..Default::default() }
    }

    /// A member of generation 5 that reads something.
    fn stable(now: Instant) -> Membership {
        let mut member = Membership::new(times(), now);
        member.found(7, now);
        assert_eq!(member.joined(join("m", "l", 5), now, 0), None);
        assert_eq!(member.synced(sync(), now, 0), Some(News::Assigned(vec![place()])));
        member
    }

    #[test]
    fn a_member_finds_joins_syncs_and_beats() {
        let now = clock::now();
        let mut member = Membership::new(times(), now);
        assert_eq!(member.next().1, Ask::Coordinator);
        member.found(7, now);
        assert_eq!(member.next().1, Ask::Join { member_id: String::new() });
        let first = JoinGroupResponse {
            error_code: ErrorCode::MEMBER_ID_REQUIRED.0,
            member_id: Str::from("m"),
            ..Default::default()
        };
        assert_eq!(member.joined(first, now, 0), None);
        assert_eq!(member.next().1, Ask::Join { member_id: "m".into() });
        member.joined(join("m", "m", 1), now, 0);
        assert!(
            matches!(member.next().1, Ask::AssignAndSync { generation: 1, members, .. } if members.len() == 1)
        );
        member.synced(sync(), now, 0);
        let (at, ask) = member.next();
        assert_eq!(
            (at, ask),
            (now + times().heartbeat_interval, Ask::Heartbeat { generation: 1, member_id: "m".into() })
        );
        assert_eq!(member.beat(ErrorCode::NONE, at, 0), None);
        assert_eq!(member.next().0, at + times().heartbeat_interval);
    }

    #[test]
    fn a_rebalance_revokes_and_joins_under_the_same_id() {
        let now = clock::now();
        let mut member = stable(now);
        assert_eq!(member.beat(ErrorCode::REBALANCE_IN_PROGRESS, now, 0), Some(News::Revoked));
        assert_eq!(member.next(), (now, Ask::Join { member_id: "m".into() }));
        assert_eq!(member.identity(), (5, "m"), "offsets of the old generation can still be committed");
        assert_eq!(member.beat(ErrorCode::REBALANCE_IN_PROGRESS, now, 0), None, "told once");
    }

    #[test]
    fn a_member_that_is_not_known_any_more_begins_anew() {
        let now = clock::now();
        let mut member = stable(now);
        assert_eq!(member.beat(ErrorCode::UNKNOWN_MEMBER_ID, now, 0), Some(News::Lost));
        assert_eq!(member.next().1, Ask::Join { member_id: String::new() });
        let mut member = stable(now);
        assert_eq!(member.beat(ErrorCode::ILLEGAL_GENERATION, now, 0), Some(News::Lost));
        assert_eq!(member.next().1, Ask::Join { member_id: "m".into() });
    }

    #[test]
    fn what_is_assigned_stays_while_a_new_coordinator_is_looked_for_until_the_session_is_over() {
        let now = clock::now();
        let mut member = stable(now);
        assert_eq!(member.beat(ErrorCode::NOT_COORDINATOR, now, 0), None);
        let (at, ask) = member.next();
        assert!(ask == Ask::Coordinator && at > now, "not at once");
        member.found(8, at);
        assert!(matches!(member.next().1, Ask::Heartbeat { generation: 5, .. }));
        assert_eq!(member.unanswered(now + SESSION, 0), Some(News::Lost));
        member.found(8, now + SESSION);
        assert_eq!(member.next().1, Ask::Join { member_id: "m".into() });
    }

    #[test]
    fn new_partitions_form_the_group_anew() {
        let now = clock::now();
        let mut member = stable(now);
        assert_eq!(member.regroup(now), Some(News::Revoked));
        assert_eq!(member.next(), (now, Ask::Join { member_id: "m".into() }));
        assert_eq!(member.regroup(now), None, "that is under way already");
    }

    #[test]
    fn errors_that_stay_are_told() {
        let now = clock::now();
        let mut member = stable(now);
        let code = ErrorCode::GROUP_AUTHORIZATION_FAILED;
        assert_eq!(member.beat(code, now, 0), Some(News::Failed(code)));
    }
}
