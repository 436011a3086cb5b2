//! Deadlines: of sessions, of joins and of syncs; and what a failover leaves of them.

use super::*;

#[test]
fn a_silent_member_is_out_after_its_session_and_the_others_are_told() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 2);
    play.pass(6_000);
    assert_eq!(play.heartbeat("g", &member(&ids[0], generation)), Ok(()));
    play.pass(4_000);
    assert_eq!(play.heartbeat("g", &member(&ids[0], generation)), Err(GroupError::RebalanceInProgress));
    assert_eq!(play.heartbeat("g", &member(&ids[1], generation)), Err(GroupError::UnknownMember));
    let again = play.join(joining("g", &ids[0]));
    assert_eq!(play.joined(again).expect("joined").members.len(), 1);
}

#[test]
fn heartbeats_keep_a_member_for_ever_with_one_entry_in_the_heap() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 1);
    for _ in 0..10_000 {
        play.pass(3_000);
        assert_eq!(play.heartbeat("g", &member(&ids[0], generation)), Ok(()));
    }
    assert_eq!(play.phase("g"), Some(Phase::Stable));
}

#[test]
fn a_heartbeat_names_what_is_wrong() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 1);
    assert_eq!(play.heartbeat("g", &member(&ids[0], generation + 1)), Err(GroupError::IllegalGeneration));
    assert_eq!(play.heartbeat("g", &member("nobody", generation)), Err(GroupError::UnknownMember));
    assert_eq!(play.heartbeat("unknown", &member(&ids[0], generation)), Err(GroupError::UnknownMember));
    assert_eq!(play.heartbeat("", &member(&ids[0], generation)), Err(GroupError::InvalidGroupId));
}

#[test]
fn a_member_that_has_joined_but_not_synced_may_send_heartbeats() {
    let mut play = Play::new();
    let (id, _) = play.join_new("g");
    assert_eq!(play.heartbeat("g", &member(&id, 1)), Ok(()));
}

#[test]
fn the_last_session_that_ends_leaves_an_empty_group() {
    let mut play = Play::new();
    play.stable("g", 3);
    play.pass(10_000);
    assert_eq!(play.phase("g"), Some(Phase::Empty));
    let record = play.machine.group("g").and_then(GroupState::record).expect("written");
    assert!(record.members.is_empty());
}

#[test]
fn a_rebalance_goes_on_without_those_who_do_not_join_in_time() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 2);
    let waiting = play.join(JoinRequest { rebalance_timeout_ms: 60_000, ..joining("g", &ids[0]) });
    for _ in 0..12 {
        assert!(!play.has_joined(waiting));
        // It lives, but does not join.
        let _ = play.heartbeat("g", &member(&ids[1], generation));
        play.pass(5_000);
    }
    let joined = play.joined(waiting).expect("the time is over");
    assert_eq!((joined.generation, joined.members.len()), (generation + 1, 1));
    assert_eq!(play.heartbeat("g", &member(&ids[1], generation)), Err(GroupError::UnknownMember));
}

#[test]
fn a_member_that_waits_for_a_rebalance_needs_no_heartbeats() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 2);
    let waiting = play.join(joining("g", &ids[0]));
    for _ in 0..6 {
        let _ = play.heartbeat("g", &member(&ids[1], generation));
        play.pass(8_000);
    }
    play.join(joining("g", &ids[1]));
    assert_eq!(play.joined(waiting).expect("still a member").members.len(), 2);
}

#[test]
fn members_that_do_not_sync_are_out_when_the_rebalance_timeout_is_over() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 2);
    let first = play.join(joining("g", &ids[0]));
    play.join(joining("g", &ids[1]));
    let generation = play.joined(first).map_or(generation, |joined| joined.generation);
    let parked = play.sync("g", &ids[1], generation, &[]);
    for _ in 0..12 {
        assert_eq!(play.heartbeat("g", &member(&ids[0], generation)), Ok(()));
        play.pass(5_000);
    }
    assert_eq!(play.synced(parked), Err(GroupError::RebalanceInProgress), "the leader never assigned");
    assert_eq!(play.heartbeat("g", &member(&ids[0], generation)), Err(GroupError::UnknownMember));
}

#[test]
fn an_id_that_nobody_joins_under_is_forgotten_with_its_group() {
    let mut play = Play::new();
    let ticket = play.join(joining("g", ""));
    let id = play.joined(ticket).expect_err("an id").member_id;
    assert_eq!(play.phase("g"), Some(Phase::Empty));
    play.pass(10_000);
    assert_eq!(play.phase("g"), None);
    let late = play.join(joining("g", &id));
    assert_eq!(play.join_error(late), GroupError::UnknownMember);
}

#[test]
fn a_rebalance_waits_for_ids_that_were_given() {
    let mut play = Play::new();
    let (ids, _) = play.stable("g", 1);
    let ticket = play.join(joining("g", ""));
    let id = play.joined(ticket).expect_err("an id").member_id;
    let waiting = play.join(joining("g", &ids[0]));
    assert!(!play.has_joined(waiting));
    play.join(joining("g", &id));
    assert_eq!(play.joined(waiting).expect("joined").members.len(), 2);
}

#[test]
fn a_new_member_whose_client_is_gone_does_not_hold_up_the_group_for_ever() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 1);
    let gone = play.join(JoinRequest { two_steps: false, rebalance_timeout_ms: 900_000, ..joining("g", "") });
    for _ in 0..60 {
        let _ = play.heartbeat("g", &member(&ids[0], generation));
        play.pass(5_000);
    }
    assert_eq!(play.join_error(gone), GroupError::UnknownMember);
    let again = play.join(joining("g", &ids[0]));
    assert_eq!(play.joined(again).expect("joined").members.len(), 1);
}

#[test]
fn after_a_failover_members_go_on_in_their_generation_with_a_full_session() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 2);
    play.pass(9_000);
    play.fail_over();
    assert_eq!(play.phase("g"), Some(Phase::Stable));
    play.pass(9_000);
    for id in &ids {
        assert_eq!(play.heartbeat("g", &member(id, generation)), Ok(()));
        let sync = play.sync("g", id, generation, &[]);
        assert_eq!(play.synced(sync), Ok(Bytes::from_static(b"share")));
    }
    play.pass(10_000);
    assert_eq!(play.phase("g"), Some(Phase::Empty));
}

#[test]
fn a_failover_in_the_middle_of_a_rebalance_goes_back_to_the_last_written_generation() {
    let mut play = Play::new();
    let (ids, generation) = play.stable("g", 2);
    let waiting = play.join(joining("g", &ids[0]));
    play.fail_over();
    assert_eq!(play.join_error(waiting), GroupError::NotCoordinator);
    assert_eq!(play.heartbeat("g", &member(&ids[1], generation)), Ok(()));
    let again = play.join(joining("g", &ids[0]));
    play.join(joining("g", &ids[1]));
    assert_eq!(play.joined(again).expect("joined").generation, generation + 1);
}

#[test]
fn a_group_that_is_larger_than_a_new_limit_rebalances_down_to_it() {
    let mut play = Play::new();
    let (ids, _) = play.stable("g", 3);
    play.config.members_max = 2;
    play.fail_over();
    assert_eq!(play.phase("g"), Some(Phase::PreparingRebalance));
    let tickets: Vec<Ticket> = ids.iter().map(|id| play.join(joining("g", id))).collect();
    let refused = tickets.iter().filter(|ticket| {
        play.has_joined(**ticket) && matches!(play.joined(**ticket), Err(r) if r.error == GroupError::Full)
    });
    assert_eq!(refused.count(), 1);
    assert_eq!(play.coordinator.view("g").map(|view| view.members.len()), Some(2));
}
