//! Static members: those with an instance id.

use super::*;

fn joining_static(group: &str, instance: &str) -> JoinRequest {
    JoinRequest { instance_id: Some(instance.into()), can_skip_assignment: true, ..joining(group, "") }
}

/// A stable group of static members `a` and `b`; returns their ids, the leader's first, and the generation.
fn stable_statics(harness: &mut GroupHarness) -> ([Arc<str>; 2], i32) {
    let first = harness.join(joining_static("g", "a"));
    let a = harness.joined(first).expect("a static member joins in one step").member_id;
    assert!(a.starts_with("a-"), "{a}");
    let second = harness.join(joining_static("g", "b"));
    let again = harness.join(JoinRequest { member_id: a.clone(), ..joining_static("g", "a") });
    let (b, generation) = {
        let joined = harness.joined(second).expect("joined");
        assert_eq!(joined.leader, a);
        (joined.member_id, joined.generation)
    };
    assert_eq!(harness.joined(again).expect("joined").members.len(), 2);
    harness.sync("g", &b, generation, &[]);
    harness.sync("g", &a, generation, &[(&a, "for a"), (&b, "for b")]);
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
    ([a, b], generation)
}

#[test]
fn a_static_member_that_starts_anew_keeps_its_assignment_without_a_rebalance() {
    let mut harness = GroupHarness::new();
    let ([a, b], generation) = stable_statics(&mut harness);
    let again = harness.join(joining_static("g", "b"));
    let joined = harness.joined(again).expect("joined at once");
    assert_ne!(joined.member_id, b);
    assert_eq!((joined.generation, &joined.leader, joined.skip_assignment), (generation, &a, false));
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
    let sync = harness.sync("g", &joined.member_id, generation, &[]);
    assert_eq!(harness.synced(sync), Ok(Bytes::from_static(b"for b")));
    assert_eq!(harness.heartbeat("g", &static_member(&b, "b", generation)), Err(GroupError::FencedInstance));
    assert_eq!(harness.heartbeat("g", &member(&b, generation)), Err(GroupError::UnknownMember));
    let record = harness.machine.group("g").and_then(GroupState::record).expect("written");
    assert!(record.members.iter().any(|m| m.id == joined.member_id));
}

#[test]
fn a_static_leader_that_starts_anew_is_told_to_skip_the_assignment() {
    let mut harness = GroupHarness::new();
    let ([a, _], generation) = stable_statics(&mut harness);
    let again = harness.join(joining_static("g", "a"));
    let joined = harness.joined(again).expect("joined at once");
    assert_ne!(joined.member_id, a);
    assert_eq!((joined.generation, joined.skip_assignment), (generation, true));
    assert_eq!((&joined.leader, joined.members.len()), (&joined.member_id, 2));
}

#[test]
fn a_static_leader_that_cannot_skip_takes_itself_for_a_follower() {
    let mut harness = GroupHarness::new();
    let ([a, _], _) = stable_statics(&mut harness);
    let again = harness.join(JoinRequest { can_skip_assignment: false, ..joining_static("g", "a") });
    let joined = harness.joined(again).expect("joined at once");
    assert_eq!((&joined.leader, joined.skip_assignment, joined.members.len()), (&a, false, 0));
}

#[test]
fn a_new_static_id_is_told_only_when_it_is_written() {
    let mut harness = GroupHarness::new();
    let (_, generation) = stable_statics(&mut harness);
    harness.hold = true;
    let again = harness.join(joining_static("g", "b"));
    assert!(!harness.has_joined(again));
    harness.release();
    assert_eq!(harness.joined(again).expect("joined").generation, generation);
}

#[test]
fn a_new_static_id_that_cannot_be_written_is_refused() {
    let mut harness = GroupHarness::new();
    stable_statics(&mut harness);
    harness.hold = true;
    let again = harness.join(joining_static("g", "b"));
    harness.fail_one(GroupError::Unavailable);
    assert_eq!(harness.join_error(again), GroupError::Unavailable);
    harness.release();
    let once_more = harness.join(joining_static("g", "b"));
    assert!(harness.joined(once_more).is_ok());
}

#[test]
fn a_rebalance_during_the_write_of_a_new_static_id_takes_the_member_along() {
    let mut harness = GroupHarness::new();
    let ([a, _], generation) = stable_statics(&mut harness);
    harness.hold = true;
    let again = harness.join(joining_static("g", "b"));
    let leader = harness.join(JoinRequest { member_id: a, ..joining_static("g", "a") });
    assert_eq!(harness.joined(again).expect("joined").generation, generation + 1);
    harness.release();
    assert_eq!(harness.joined(leader).expect("joined").members.len(), 2);
}

#[test]
fn a_new_static_id_that_is_written_during_a_rebalance_waits_for_its_generation() {
    let mut harness = GroupHarness::new();
    let ([a, b], generation) = stable_statics(&mut harness);
    harness.hold = true;
    let again = harness.join(joining_static("g", "b"));
    let (_, third) = harness.join_new("g");
    harness.release();
    assert!(!harness.has_joined(again), "the old generation is over");
    harness.join(JoinRequest { member_id: a, ..joining_static("g", "a") });
    let joined = harness.joined(again).expect("joined");
    assert_eq!((joined.generation, joined.member_id == b), (generation + 1, false));
    assert!(harness.has_joined(third));
}

#[test]
fn a_static_member_with_another_choice_of_protocol_begins_a_rebalance() {
    let mut harness = GroupHarness::new();
    let ([a, _], _) = stable_statics(&mut harness);
    let only = vec![("sticky".into(), subscription("t"))];
    let again = harness.join(JoinRequest { protocols: only, ..joining_static("g", "b") });
    assert!(!harness.has_joined(again));
    let leader = harness.join(JoinRequest { member_id: a, ..joining_static("g", "a") });
    assert_eq!(harness.joined(leader).expect("joined").protocol.as_deref(), Some("sticky"));
}

#[test]
fn a_static_member_that_starts_anew_while_the_leader_assigns_begins_a_rebalance() {
    let mut harness = GroupHarness::new();
    let ([a, b], generation) = stable_statics(&mut harness);
    let leader = harness.join(JoinRequest { member_id: a.clone(), ..joining_static("g", "a") });
    harness.join(JoinRequest { member_id: b.clone(), ..joining_static("g", "b") });
    assert_eq!(harness.joined(leader).expect("joined").generation, generation + 1);
    let parked = harness.sync("g", &b, generation + 1, &[]);
    let again = harness.join(joining_static("g", "b"));
    assert_eq!(harness.synced(parked), Err(GroupError::FencedInstance));
    assert!(!harness.has_joined(again));
    assert_eq!(harness.phase("g"), Some(Phase::PreparingRebalance));
}

#[test]
fn a_static_member_fences_its_older_self_that_waits_to_join() {
    let mut harness = GroupHarness::new();
    let ([a, b], _) = stable_statics(&mut harness);
    harness.join(JoinRequest { member_id: a.clone(), ..joining_static("g", "a") });
    // The leader's join waits for b; now the leader restarts.
    let anew = harness.join(joining_static("g", "a"));
    let fenced = harness.join(JoinRequest { member_id: a.clone(), ..joining_static("g", "a") });
    assert_eq!(harness.join_error(fenced), GroupError::FencedInstance);
    harness.join(JoinRequest { member_id: b, ..joining_static("g", "b") });
    assert_eq!(harness.joined(anew).expect("joined").members.len(), 2);
}

#[test]
fn a_static_member_that_is_away_is_waited_for_and_keeps_its_place_until_its_session_ends() {
    let mut harness = GroupHarness::new();
    let ([a, b], generation) = stable_statics(&mut harness);
    let waiting = harness.join(JoinRequest {
        member_id: a.clone(),
        rebalance_timeout_ms: 7_000,
        ..joining_static("g", "a")
    });
    // b asks for a short timeout as well, and sends heartbeats.
    let b_join =
        JoinRequest { member_id: b.clone(), rebalance_timeout_ms: 7_000, ..joining_static("g", "b") };
    harness.join(b_join);
    assert_eq!(harness.joined(waiting).expect("joined").generation, generation + 1);
    harness.sync("g", &b, generation + 1, &[]);
    harness.sync("g", &a, generation + 1, &[]);
    let waiting = harness.join(JoinRequest {
        member_id: a.clone(),
        rebalance_timeout_ms: 7_000,
        ..joining_static("g", "a")
    });
    harness.pass(7_000);
    let joined = harness.joined(waiting).expect("the time is over");
    assert_eq!(joined.members.len(), 2, "b is static: it is still a member");
}

#[test]
fn a_tool_removes_a_static_member_by_its_instance_id() {
    let mut harness = GroupHarness::new();
    let ([a, b], _) = stable_statics(&mut harness);
    let asked = [static_member("", "b", -1), static_member("", "unknown", -1), static_member(&b, "a", -1)];
    let results = harness.leave("g", &asked);
    assert_eq!(results, [Ok(()), Err(GroupError::UnknownMember), Err(GroupError::FencedInstance)]);
    let again = harness.join(JoinRequest { member_id: a, ..joining_static("g", "a") });
    assert_eq!(harness.joined(again).expect("joined").members.len(), 1);
}

#[test]
fn an_id_given_to_a_dynamic_member_cannot_be_used_by_a_static_one() {
    let mut harness = GroupHarness::new();
    let first = harness.join(joining("g", ""));
    let id = harness.joined(first).expect_err("an id").member_id;
    let ticket = harness.join(JoinRequest { member_id: id, ..joining_static("g", "a") });
    assert_eq!(harness.join_error(ticket), GroupError::UnknownMember);
}
