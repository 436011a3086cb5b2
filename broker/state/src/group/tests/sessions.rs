//! Deadlines: of sessions, of joins and of syncs; and their state after a failover.

use super::*;

#[test]
fn a_silent_member_is_out_after_its_session_and_the_others_are_told() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    harness.pass(6_000);
    assert_eq!(harness.heartbeat("g", &member(&ids[0], generation)), Ok(()));
    harness.pass(4_000);
    assert_eq!(harness.heartbeat("g", &member(&ids[0], generation)), Err(GroupError::RebalanceInProgress));
    assert_eq!(harness.heartbeat("g", &member(&ids[1], generation)), Err(GroupError::UnknownMember));
    let again = harness.join(joining("g", &ids[0]));
    assert_eq!(harness.joined(again).expect("joined").members.len(), 1);
}

#[test]
fn heartbeats_keep_a_member_for_ever_with_one_entry_in_the_heap() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    for _ in 0..10_000 {
        harness.pass(3_000);
        assert_eq!(harness.heartbeat("g", &member(&ids[0], generation)), Ok(()));
    }
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
}

#[test]
fn a_heartbeat_names_what_is_wrong() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    assert_eq!(harness.heartbeat("g", &member(&ids[0], generation + 1)), Err(GroupError::IllegalGeneration));
    assert_eq!(harness.heartbeat("g", &member("unknown", generation)), Err(GroupError::UnknownMember));
    assert_eq!(harness.heartbeat("unknown", &member(&ids[0], generation)), Err(GroupError::UnknownMember));
    assert_eq!(harness.heartbeat("", &member(&ids[0], generation)), Err(GroupError::InvalidGroupId));
}

#[test]
fn a_member_that_has_joined_but_not_synced_may_send_heartbeats() {
    let mut harness = GroupHarness::new();
    let (id, _) = harness.join_new("g");
    assert_eq!(harness.heartbeat("g", &member(&id, 1)), Ok(()));
}

#[test]
fn the_last_session_that_ends_leaves_an_empty_group() {
    let mut harness = GroupHarness::new();
    harness.stable("g", 3);
    harness.pass(10_000);
    assert_eq!(harness.phase("g"), Some(Phase::Empty));
    let record = harness.machine.group("g").and_then(GroupState::record).expect("written");
    assert!(record.members.is_empty());
}

#[test]
fn a_rebalance_goes_on_without_those_who_do_not_join_in_time() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let waiting = harness.join(JoinRequest { rebalance_timeout_ms: 60_000, ..joining("g", &ids[0]) });
    for _ in 0..12 {
        assert!(!harness.has_joined(waiting));
        // It sends heartbeats, but does not join.
        let _ = harness.heartbeat("g", &member(&ids[1], generation));
        harness.pass(5_000);
    }
    let joined = harness.joined(waiting).expect("the time is over");
    assert_eq!((joined.generation, joined.members.len()), (generation + 1, 1));
    assert_eq!(harness.heartbeat("g", &member(&ids[1], generation)), Err(GroupError::UnknownMember));
}

#[test]
fn a_member_that_waits_for_a_rebalance_needs_no_heartbeats() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let waiting = harness.join(joining("g", &ids[0]));
    for _ in 0..6 {
        let _ = harness.heartbeat("g", &member(&ids[1], generation));
        harness.pass(8_000);
    }
    harness.join(joining("g", &ids[1]));
    assert_eq!(harness.joined(waiting).expect("still a member").members.len(), 2);
}

#[test]
fn members_that_do_not_sync_are_out_when_the_rebalance_timeout_is_over() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let first = harness.join(joining("g", &ids[0]));
    harness.join(joining("g", &ids[1]));
    let generation = harness.joined(first).map_or(generation, |joined| joined.generation);
    let parked = harness.sync("g", &ids[1], generation, &[]);
    for _ in 0..12 {
        assert_eq!(harness.heartbeat("g", &member(&ids[0], generation)), Ok(()));
        harness.pass(5_000);
    }
    assert_eq!(harness.synced(parked), Err(GroupError::RebalanceInProgress), "the leader never assigned");
    assert_eq!(harness.heartbeat("g", &member(&ids[0], generation)), Err(GroupError::UnknownMember));
}

#[test]
fn an_id_that_nobody_joins_under_is_forgotten_with_its_group() {
    let mut harness = GroupHarness::new();
    let ticket = harness.join(joining("g", ""));
    let id = harness.joined(ticket).expect_err("an id").member_id;
    assert_eq!(harness.phase("g"), Some(Phase::Empty));
    harness.pass(10_000);
    assert_eq!(harness.phase("g"), None);
    let late = harness.join(joining("g", &id));
    assert_eq!(harness.join_error(late), GroupError::UnknownMember);
}

#[test]
fn a_rebalance_waits_for_ids_that_were_given() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 1);
    let ticket = harness.join(joining("g", ""));
    let id = harness.joined(ticket).expect_err("an id").member_id;
    let waiting = harness.join(joining("g", &ids[0]));
    assert!(!harness.has_joined(waiting));
    harness.join(joining("g", &id));
    assert_eq!(harness.joined(waiting).expect("joined").members.len(), 2);
}

#[test]
fn a_new_member_whose_client_is_gone_does_not_hold_up_the_group_for_ever() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    let gone =
        harness.join(JoinRequest { two_steps: false, rebalance_timeout_ms: 900_000, ..joining("g", "") });
    for _ in 0..60 {
        let _ = harness.heartbeat("g", &member(&ids[0], generation));
        harness.pass(5_000);
    }
    assert_eq!(harness.join_error(gone), GroupError::UnknownMember);
    let again = harness.join(joining("g", &ids[0]));
    assert_eq!(harness.joined(again).expect("joined").members.len(), 1);
}

#[test]
fn after_a_failover_members_go_on_in_their_generation_with_a_full_session() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    harness.pass(9_000);
    harness.fail_over();
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
    harness.pass(9_000);
    for id in &ids {
        assert_eq!(harness.heartbeat("g", &member(id, generation)), Ok(()));
        let sync = harness.sync("g", id, generation, &[]);
        assert_eq!(harness.synced(sync), Ok(Bytes::from_static(b"share")));
    }
    harness.pass(10_000);
    assert_eq!(harness.phase("g"), Some(Phase::Empty));
}

#[test]
fn a_failover_in_the_middle_of_a_rebalance_goes_back_to_the_last_written_generation() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let waiting = harness.join(joining("g", &ids[0]));
    harness.fail_over();
    assert_eq!(harness.join_error(waiting), GroupError::NotCoordinator);
    assert_eq!(harness.heartbeat("g", &member(&ids[1], generation)), Ok(()));
    let again = harness.join(joining("g", &ids[0]));
    harness.join(joining("g", &ids[1]));
    assert_eq!(harness.joined(again).expect("joined").generation, generation + 1);
}

#[test]
fn a_group_that_is_larger_than_a_new_limit_rebalances_down_to_it() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 3);
    harness.config.members_max = 2;
    harness.fail_over();
    assert_eq!(harness.phase("g"), Some(Phase::PreparingRebalance));
    let tickets: Vec<Ticket> = ids.iter().map(|id| harness.join(joining("g", id))).collect();
    let refused = tickets.iter().filter(|ticket| {
        harness.has_joined(**ticket)
            && matches!(harness.joined(**ticket), Err(r) if r.error == GroupError::Full)
    });
    assert_eq!(refused.count(), 1);
    assert_eq!(harness.coordinator.view("g").map(|view| view.members.len()), Some(2));
}
