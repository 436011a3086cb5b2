use super::{
    super::assignor::{write_assignment, write_subscription},
    *,
};
use crate::clock;
use millstream_protocol::{Str, messages::join_group::JoinGroupResponseMember};

const SESSION: Duration = Duration::from_secs(10);

fn rules(cooperative: bool) -> Rules {
    let backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
    Rules { session_timeout: SESSION, heartbeat_interval: Duration::from_secs(3), backoff, cooperative }
}

fn place(partition: i32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition }
}

fn places(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions.iter().copied().map(place).collect()
}

fn join(member: &'static str, leader: &'static str, generation_id: i32) -> JoinGroupResponse {
    let subscription = Subscription { topics: ["t".to_string()].into(), ..Subscription::default() };
    let metadata = write_subscription(Assignor::Range, &subscription).expect("written");
    let one = JoinGroupResponseMember { member_id: Str::from(member), metadata, ..Default::default() };
    JoinGroupResponse {
        generation_id,
        protocol_name: Some(Str::from("range")),
        leader: Str::from(leader),
        member_id: Str::from(member),
        members: if member == leader { vec![one] } else { Vec::new() },
        ..Default::default()
    }
}

fn sync(partitions: &[i32]) -> SyncGroupResponse {
    let assignment = write_assignment(&places(partitions)).expect("written");
    SyncGroupResponse { assignment, ..Default::default() }
}

fn assigned(revoked: &[i32], added: &[i32]) -> Option<MembershipEvent> {
    Some(MembershipEvent::Assigned { revoked: places(revoked), added: places(added) })
}

/// A member of generation 5 that reads partitions 2 and 3.
fn stable(now: Instant, cooperative: bool) -> Membership {
    let mut member = Membership::new(rules(cooperative), now);
    member.found(7, now);
    assert_eq!(member.joined(join("m", "l", 5), now, 0), None);
    assert_eq!(member.synced(sync(&[2, 3]), now, 0), assigned(&[], &[2, 3]));
    member
}

#[test]
fn a_member_finds_joins_syncs_and_beats() {
    let now = clock::now();
    let mut member = Membership::new(rules(false), now);
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
    assert!(matches!(
        member.next().1,
        Ask::AssignAndSync { generation: 1, assignor: Assignor::Range, members, .. } if members.len() == 1
    ));
    member.synced(sync(&[2]), now, 0);
    let (at, ask) = member.next();
    let beat = Ask::Heartbeat { generation: 1, member_id: "m".into() };
    assert_eq!((at, ask), (now + rules(false).heartbeat_interval, beat));
    assert_eq!(member.beat(ErrorCode::NONE, at, 0), None);
    assert_eq!(member.next().0, at + rules(false).heartbeat_interval);
}

#[test]
fn a_rebalance_revokes_and_joins_under_the_same_id() {
    let now = clock::now();
    let mut member = stable(now, false);
    let revoked = MembershipEvent::Revoked(places(&[2, 3]));
    assert_eq!(member.beat(ErrorCode::REBALANCE_IN_PROGRESS, now, 0), Some(revoked));
    assert_eq!(member.next(), (now, Ask::Join { member_id: "m".into() }));
    assert_eq!(member.identity(), (5, "m"), "offsets of the old generation can still be committed");
    assert_eq!(member.beat(ErrorCode::REBALANCE_IN_PROGRESS, now, 0), None, "reported once");
    let said = member.subscription(&BTreeSet::new());
    assert!(said.owned.is_empty(), "given up");
    assert_eq!((said.last.len(), said.generation), (2, 5), "but remembered");
}

#[test]
fn a_cooperative_rebalance_revokes_only_what_moves_and_then_joins_again() {
    let now = clock::now();
    let mut member = stable(now, true);
    assert_eq!(member.beat(ErrorCode::REBALANCE_IN_PROGRESS, now, 0), None, "everything is kept");
    assert_eq!(member.subscription(&BTreeSet::new()).owned.len(), 2);
    member.joined(join("m", "l", 6), now, 0);
    assert_eq!(member.synced(sync(&[3]), now, 0), assigned(&[2], &[]));
    assert_eq!(member.next(), (now, Ask::Join { member_id: "m".into() }), "at once");
    let said = member.subscription(&BTreeSet::new());
    assert_eq!((said.owned, said.generation), (places(&[3]).into_iter().collect(), 6));
    member.joined(join("m", "l", 7), now, 0);
    assert_eq!(member.synced(sync(&[3, 4]), now, 0), assigned(&[], &[4]));
    assert!(matches!(member.next().1, Ask::Heartbeat { generation: 7, .. }));
    assert_eq!(member.begin_anew(now), Some(MembershipEvent::Lost(places(&[3, 4]))));
}

#[test]
fn a_member_that_is_not_known_any_more_begins_anew() {
    let now = clock::now();
    let lost = || Some(MembershipEvent::Lost(places(&[2, 3])));
    for cooperative in [false, true] {
        let mut member = stable(now, cooperative);
        assert_eq!(member.beat(ErrorCode::UNKNOWN_MEMBER_ID, now, 0), lost());
        assert_eq!(member.next().1, Ask::Join { member_id: String::new() });
        let mut member = stable(now, cooperative);
        assert_eq!(member.beat(ErrorCode::ILLEGAL_GENERATION, now, 0), lost());
        assert_eq!(member.next().1, Ask::Join { member_id: "m".into() });
    }
}

#[test]
fn what_is_assigned_stays_while_a_new_coordinator_is_looked_for_until_the_session_is_over() {
    let now = clock::now();
    let mut member = stable(now, false);
    assert_eq!(member.beat(ErrorCode::NOT_COORDINATOR, now, 0), None);
    let (at, ask) = member.next();
    assert!(ask == Ask::Coordinator && at > now, "not at once");
    member.found(8, at);
    assert!(matches!(member.next().1, Ask::Heartbeat { generation: 5, .. }));
    assert_eq!(member.unanswered(now + SESSION, 0), Some(MembershipEvent::Lost(places(&[2, 3]))));
    member.found(8, now + SESSION);
    assert_eq!(member.next().1, Ask::Join { member_id: "m".into() });
}

#[test]
fn new_partitions_form_the_group_anew() {
    let now = clock::now();
    let mut member = stable(now, false);
    assert_eq!(member.regroup(now), Some(MembershipEvent::Revoked(places(&[2, 3]))));
    assert_eq!(member.next(), (now, Ask::Join { member_id: "m".into() }));
    assert_eq!(member.regroup(now), None, "that is under way already");
    let mut member = stable(now, true);
    assert_eq!(member.regroup(now), None);
    assert_eq!(member.next(), (now, Ask::Join { member_id: "m".into() }), "with what it has");
}

#[test]
fn a_leader_that_came_back_gives_nothing_out() {
    let now = clock::now();
    let mut member = Membership::new(rules(false), now);
    member.found(7, now);
    member.joined(JoinGroupResponse { skip_assignment: true, ..join("m", "m", 1) }, now, 0);
    assert!(matches!(member.next().1, Ask::Sync { generation: 1, .. }));
}

#[test]
fn errors_that_stay_are_told() {
    let now = clock::now();
    for code in [ErrorCode::GROUP_AUTHORIZATION_FAILED, ErrorCode::FENCED_INSTANCE_ID] {
        assert_eq!(stable(now, false).beat(code, now, 0), Some(MembershipEvent::Failed(code)));
    }
    let mut member = Membership::new(rules(false), now);
    member.found(7, now);
    let other = JoinGroupResponse { protocol_name: Some(Str::from("mine")), ..join("m", "l", 1) };
    assert!(matches!(member.joined(other, now, 0), Some(MembershipEvent::Malformed(_))));
}
