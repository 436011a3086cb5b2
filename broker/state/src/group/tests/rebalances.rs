//! Joins and syncs of dynamic members.

use super::*;

#[test]
fn a_new_member_gets_its_id_first_and_leads_the_first_generation() {
    let mut harness = GroupHarness::new();
    let (id, ticket) = harness.join_new("g");
    assert_eq!(&*id, "client-1");
    let joined = harness.joined(ticket).expect("alone, it need not wait");
    assert_eq!((joined.generation, &joined.leader, joined.protocol.as_deref()), (1, &id, Some("range")));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.members[0].metadata, subscription("t"));
    assert_eq!(harness.phase("g"), Some(Phase::CompletingRebalance));
    let sync = harness.sync("g", &id, 1, &[(&id, "all of it")]);
    assert_eq!(harness.synced(sync), Ok(Bytes::from_static(b"all of it")));
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
}

#[test]
fn a_client_of_before_version_4_joins_in_one_step() {
    let mut harness = GroupHarness::new();
    let ticket = harness.join(JoinRequest { two_steps: false, ..joining("g", "") });
    assert_eq!(harness.joined(ticket).expect("it joined").generation, 1);
}

#[test]
fn a_second_member_waits_for_the_first_and_only_the_leader_sees_everyone() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 1);
    let (second, waiting) = harness.join_new("g");
    assert!(!harness.has_joined(waiting));
    assert_eq!(harness.heartbeat("g", &member(&ids[0], 1)), Err(GroupError::RebalanceInProgress));
    let again = harness.join(joining("g", &ids[0]));
    let (leader, follower) =
        (harness.joined(again).expect("joined"), harness.joined(waiting).expect("joined"));
    assert_eq!((leader.generation, follower.generation), (2, 2));
    assert_eq!((&leader.leader, &follower.leader), (&ids[0], &ids[0]));
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    let parked = harness.sync("g", &second, 2, &[]);
    assert!(!harness.has_synced(parked));
    let sync = harness.sync("g", &ids[0], 2, &[(&second, "b")]);
    assert_eq!(harness.synced(parked), Ok(Bytes::from_static(b"b")));
    assert_eq!(harness.synced(sync), Ok(Bytes::new()), "whom the leader leaves out gets nothing");
}

#[test]
fn no_assignment_is_told_before_it_is_written() {
    let mut harness = GroupHarness::new();
    let (id, _) = harness.join_new("g");
    harness.hold = true;
    let sync = harness.sync("g", &id, 1, &[(&id, "x")]);
    assert!(!harness.has_synced(sync));
    assert_eq!(harness.machine.group("g"), None);
    harness.release();
    assert_eq!(harness.synced(sync), Ok(Bytes::from_static(b"x")));
    let record = harness.machine.group("g").and_then(GroupState::record).expect("written");
    assert_eq!((record.generation, &record.members[0].assignment[..]), (1, &b"x"[..]));
}

#[test]
fn an_assignment_that_cannot_be_written_fails_the_syncs_and_begins_a_rebalance() {
    let mut harness = GroupHarness::new();
    let (id, _) = harness.join_new("g");
    harness.hold = true;
    let sync = harness.sync("g", &id, 1, &[(&id, "x")]);
    harness.fail_one(GroupError::Unavailable);
    assert_eq!(harness.synced(sync), Err(GroupError::Unavailable));
    assert_eq!(harness.phase("g"), Some(Phase::PreparingRebalance));
}

#[test]
fn a_join_during_the_write_of_an_assignment_makes_its_result_void() {
    let mut harness = GroupHarness::new();
    let (id, _) = harness.join_new("g");
    harness.hold = true;
    let sync = harness.sync("g", &id, 1, &[(&id, "x")]);
    let (_, second) = harness.join_new("g");
    assert_eq!(harness.synced(sync), Err(GroupError::RebalanceInProgress));
    harness.release();
    assert_eq!(harness.phase("g"), Some(Phase::PreparingRebalance));
    let again = harness.join(joining("g", &id));
    assert_eq!(harness.joined(again).expect("joined").generation, 2);
    assert_eq!(harness.joined(second).expect("joined").generation, 2);
}

#[test]
fn a_leader_that_syncs_twice_writes_once() {
    let mut harness = GroupHarness::new();
    let (id, _) = harness.join_new("g");
    harness.hold = true;
    let first = harness.sync("g", &id, 1, &[(&id, "x")]);
    let second = harness.sync("g", &id, 1, &[(&id, "y")]);
    assert_eq!(harness.synced(first), Err(GroupError::RebalanceInProgress));
    harness.release();
    assert_eq!(harness.synced(second), Ok(Bytes::from_static(b"x")));
}

#[test]
fn a_follower_that_joins_again_unchanged_is_told_the_generation_it_has() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let again = harness.join(joining("g", &ids[1]));
    assert_eq!(harness.joined(again).expect("an immediate answer").generation, generation);
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
}

#[test]
fn a_follower_that_joins_again_with_other_topics_begins_a_rebalance() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let changed = vec![("range".into(), subscription("u")), ("sticky".into(), subscription("u"))];
    let waiting = harness.join(JoinRequest { protocols: changed, ..joining("g", &ids[1]) });
    assert!(!harness.has_joined(waiting));
    let leader = harness.join(joining("g", &ids[0]));
    assert_eq!(harness.joined(leader).expect("joined").generation, generation + 1);
    let seen = harness.joined(leader).expect("joined").members;
    assert!(seen.iter().any(|m| m.id == ids[1] && m.metadata == subscription("u")));
}

#[test]
fn a_leader_that_joins_again_unchanged_begins_a_rebalance() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 2);
    let waiting = harness.join(joining("g", &ids[0]));
    assert!(!harness.has_joined(waiting));
    assert_eq!(harness.phase("g"), Some(Phase::PreparingRebalance));
}

#[test]
fn a_join_whose_answer_was_lost_is_answered_again() {
    let mut harness = GroupHarness::new();
    let (id, first) = harness.join_new("g");
    let again = harness.join(joining("g", &id));
    assert_eq!(harness.joined(first), harness.joined(again));
}

#[test]
fn the_protocol_with_most_votes_among_those_that_all_know_wins() {
    let mut harness = GroupHarness::new();
    let with = |id: &str, names: &[&str]| JoinRequest {
        protocols: names.iter().map(|name| (Arc::from(*name), subscription("t"))).collect(),
        ..joining("g", id)
    };
    let first = harness.join(JoinRequest { two_steps: false, ..with("", &["a", "b", "only-mine"]) });
    let first = harness.joined(first).expect("joined").member_id;
    for _ in 0..2 {
        harness.join(JoinRequest { two_steps: false, ..with("", &["b", "a"]) });
    }
    let again = harness.join(with(&first, &["only-mine", "a", "b"]));
    assert_eq!(harness.joined(again).expect("joined").protocol.as_deref(), Some("b"));
}

#[test]
fn a_member_that_shares_no_protocol_or_type_is_refused() {
    let mut harness = GroupHarness::new();
    harness.stable("g", 1);
    let other = vec![("unheard-of".into(), Bytes::new())];
    let ticket = harness.join(JoinRequest { protocols: other, ..joining("g", "") });
    assert_eq!(harness.join_error(ticket), GroupError::InconsistentProtocol);
    let ticket = harness.join(JoinRequest { protocol_type: "connect".into(), ..joining("g", "") });
    assert_eq!(harness.join_error(ticket), GroupError::InconsistentProtocol);
    let ticket = harness.join(JoinRequest { protocols: Vec::new(), ..joining("empty", "") });
    assert_eq!(harness.join_error(ticket), GroupError::InconsistentProtocol);
    assert_eq!(harness.phase("empty"), None, "a refused join makes no group");
}

#[test]
fn a_sync_of_another_generation_member_or_protocol_is_refused() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    let refused = |harness: &mut GroupHarness, request: SyncRequest| {
        let ticket = harness.sync_with(request);
        harness.synced(ticket).expect_err("refused")
    };
    let good =
        SyncRequest { group: "g".into(), member: member(&ids[0], generation), ..SyncRequest::default() };
    let with = |member| SyncRequest { member, ..good.clone() };
    assert_eq!(refused(&mut harness, with(member(&ids[0], generation - 1))), GroupError::IllegalGeneration);
    assert_eq!(refused(&mut harness, with(member("unknown", generation))), GroupError::UnknownMember);
    let protocol = SyncRequest { protocol: Some("sticky".into()), ..good.clone() };
    assert_eq!(refused(&mut harness, protocol), GroupError::InconsistentProtocol);
    let kind = SyncRequest { protocol_type: Some("connect".into()), ..good.clone() };
    assert_eq!(refused(&mut harness, kind), GroupError::InconsistentProtocol);
    assert_eq!(
        refused(&mut harness, SyncRequest { group: "no".into(), ..good.clone() }),
        GroupError::UnknownMember
    );
    assert_eq!(refused(&mut harness, SyncRequest { group: "".into(), ..good }), GroupError::InvalidGroupId);
}

#[test]
fn a_sync_while_the_group_waits_for_joins_is_told_to_join() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    harness.join(joining("g", &ids[0]));
    let ticket = harness.sync("g", &ids[1], generation, &[]);
    assert_eq!(harness.synced(ticket), Err(GroupError::RebalanceInProgress));
}

#[test]
fn session_timeouts_and_names_outside_the_bounds_are_refused() {
    let mut harness = GroupHarness::new();
    for (ms, allowed) in [(5_999, false), (6_000, true), (1_800_000, true), (1_800_001, false)] {
        let ticket = harness.join(JoinRequest { session_timeout_ms: ms, ..joining("g", "") });
        let expected = if allowed { GroupError::MemberIdRequired } else { GroupError::InvalidSessionTimeout };
        assert_eq!(harness.join_error(ticket), expected, "{ms} ms");
    }
    let ticket = harness.join(joining("", ""));
    assert_eq!(harness.join_error(ticket), GroupError::InvalidGroupId);
    let ticket = harness.join(joining("g", "made-up"));
    assert_eq!(harness.join_error(ticket), GroupError::UnknownMember);
    let ticket = harness.join(joining("unknown", "made-up"));
    assert_eq!(harness.join_error(ticket), GroupError::UnknownMember);
    assert_eq!(harness.phase("unknown"), None);
}

#[test]
fn a_full_group_refuses_new_members_and_keeps_its_own() {
    let mut harness = GroupHarness::with(GroupConfig { members_max: 2, ..GroupConfig::default() });
    let (ids, _) = harness.stable("g", 2);
    let ticket = harness.join(joining("g", ""));
    assert_eq!(harness.join_error(ticket), GroupError::Full);
    let again = harness.join(joining("g", &ids[0]));
    harness.join(joining("g", &ids[1]));
    assert!(harness.joined(again).is_ok());
}

#[test]
fn metadata_that_no_log_entry_could_hold_is_refused() {
    let mut harness = GroupHarness::new();
    let protocols = vec![("range".into(), Bytes::from(vec![0; 1 << 21]))];
    let ticket = harness.join(JoinRequest { protocols, ..joining("g", "") });
    assert_eq!(harness.join_error(ticket), GroupError::TooLarge);
}

#[test]
fn an_initial_delay_gathers_members_and_is_extended_for_those_who_come_late() {
    let mut harness =
        GroupHarness::with(GroupConfig { initial_rebalance_delay_ms: 3_000, ..GroupConfig::default() });
    let (_, first) = harness.join_new("g");
    harness.pass(2_000);
    let (_, second) = harness.join_new("g");
    harness.pass(1_500);
    assert!(!harness.has_joined(first), "the second one extended the delay");
    harness.pass(2_500);
    let generations = [first, second].map(|ticket| harness.joined(ticket).expect("joined").generation);
    assert_eq!(generations, [1, 1]);
}

#[test]
fn a_leader_that_leaves_hands_over_to_another_member() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 3);
    assert_eq!(harness.leave("g", &[member(&ids[0], -1)]), [Ok(())]);
    let one = harness.join(joining("g", &ids[1]));
    let two = harness.join(joining("g", &ids[2]));
    let (one, two) = (harness.joined(one).expect("joined"), harness.joined(two).expect("joined"));
    assert_eq!((one.generation, &one.leader), (generation + 1, &two.leader));
    assert!([&ids[1], &ids[2]].contains(&&one.leader));
    assert_eq!(one.members.len() + two.members.len(), 2);
}

#[test]
fn the_last_member_that_leaves_makes_an_empty_group_that_is_written() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    assert_eq!(harness.leave("g", &[member(&ids[0], -1)]), [Ok(())]);
    assert_eq!(harness.phase("g"), Some(Phase::Empty));
    let record = harness.machine.group("g").and_then(GroupState::record).expect("written");
    assert_eq!((record.generation, record.members.len()), (generation + 1, 0));
    assert_eq!(record.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(record.state_since_ms, harness.now.wall_ms);
}

#[test]
fn leaving_answers_each_member_on_its_own() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 2);
    let given = harness.join(joining("g", ""));
    let given = harness.joined(given).expect_err("an id").member_id;
    let asked = [member("unknown", -1), member(&given, -1), member(&ids[1], -1), member(&ids[1], -1)];
    let unknown = Err(GroupError::UnknownMember);
    assert_eq!(harness.leave("g", &asked), [unknown, Ok(()), Ok(()), unknown]);
    assert_eq!(harness.leave("unknown", &asked[..1]), [unknown]);
    assert_eq!(harness.coordinator.leave(harness.now, "", &[]), Err(GroupError::InvalidGroupId));
}

#[test]
fn groups_that_hold_as_much_as_they_may_take_no_new_members_and_keep_those_that_they_have() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 2);
    let held = harness.coordinator.bytes();
    harness.coordinator.set_bytes_left(0);
    for group in ["g", "another"] {
        let ticket = harness.join(joining(group, ""));
        assert_eq!(harness.join_error(ticket), GroupError::OutOfBytes, "{group}");
    }
    assert_eq!(
        (harness.coordinator.bytes(), harness.phase("another")),
        (held, None),
        "nothing is kept of the refused"
    );
    let again = harness.join(joining("g", &ids[0]));
    harness.join(joining("g", &ids[1]));
    let generation = harness.joined(again).expect("members come back").generation;
    // Larger assignments count too.
    let ticket =
        harness.sync("g", &ids[0], generation, &[(&ids[0], "more than all that was assigned before")]);
    assert_eq!(harness.synced(ticket), Err(GroupError::OutOfBytes));
    harness.coordinator.validate();
}
