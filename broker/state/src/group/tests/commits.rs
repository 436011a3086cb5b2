//! Offsets: who may commit, what is kept, and for how long.

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn committed(harness: &GroupHarness, group: &str) -> Option<i64> {
    harness.machine.group(group)?.offset("t", 0).map(|committed| committed.offset)
}

/// Advances the wall clock and expires offsets.
fn expire(harness: &mut GroupHarness, after_ms: i64) -> Vec<Arc<str>> {
    harness.now.wall_ms += after_ms;
    let due = harness.coordinator.expiring(&harness.machine, harness.now.wall_ms, HOUR_MS);
    for group in &due {
        let op = GroupOp::Expire { group: group.clone(), now_ms: harness.now.wall_ms, retention_ms: HOUR_MS };
        let reply = harness.machine.apply(LogId::new(9, 9), encode([op].iter()));
        if matches!(reply.outcomes[..], [GroupOutcome::Removed { group: true, .. }]) {
            harness.coordinator.forget(group);
        }
    }
    harness.machine.validate();
    harness.coordinator.validate();
    due
}

#[test]
fn a_simple_consumer_commits_to_a_group_that_did_not_exist() {
    let mut harness = GroupHarness::new();
    assert_eq!(harness.commit("g", &member("", -1), 7), Ok(()));
    assert_eq!((committed(&harness, "g"), harness.phase("g")), (Some(7), Some(Phase::Empty)));
    assert_eq!(harness.commit("unknown", &member("m", 3), 7), Err(GroupError::IllegalGeneration));
    assert_eq!(harness.phase("unknown"), None);
}

#[test]
fn nobody_else_commits_while_a_group_has_members() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    assert_eq!(harness.commit("g", &member("", -1), 1), Err(GroupError::UnknownMember));
    assert_eq!(harness.commit("g", &member(&ids[0], -1), 1), Err(GroupError::IllegalGeneration));
    assert_eq!(harness.commit("g", &member("unknown", generation), 1), Err(GroupError::UnknownMember));
    assert_eq!(
        harness.commit("g", &static_member(&ids[0], "i", generation), 1),
        Err(GroupError::UnknownMember)
    );
    assert_eq!(harness.commit("g", &member(&ids[0], generation), 5), Ok(()));
    harness.leave("g", &[member(&ids[0], -1)]);
    assert_eq!(harness.commit("g", &member(&ids[0], generation), 6), Err(GroupError::UnknownMember));
    assert_eq!(harness.commit("g", &member("", -1), 6), Ok(()));
    assert_eq!(committed(&harness, "g"), Some(6));
}

#[test]
fn a_member_commits_while_joins_are_waited_for_but_not_between_join_and_sync() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 2);
    let waiting = harness.join(joining("g", &ids[0]));
    assert_eq!(harness.commit("g", &member(&ids[1], generation), 5), Ok(()));
    harness.join(joining("g", &ids[1]));
    let generation = harness.joined(waiting).map_or(0, |joined| joined.generation);
    assert_eq!(harness.commit("g", &member(&ids[1], generation - 1), 6), Err(GroupError::IllegalGeneration));
    assert_eq!(harness.commit("g", &member(&ids[1], generation), 6), Err(GroupError::RebalanceInProgress));
    assert_eq!(committed(&harness, "g"), Some(5));
}

#[test]
fn a_commit_is_as_good_as_a_heartbeat() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    for offset in 0..5 {
        harness.pass(9_000);
        assert_eq!(harness.commit("g", &member(&ids[0], generation), offset), Ok(()));
    }
    assert_eq!(harness.phase("g"), Some(Phase::Stable));
}

#[test]
fn offsets_of_an_empty_group_go_after_the_retention_and_the_group_with_them() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    harness.commit("g", &member(&ids[0], generation), 5).expect("a member");
    assert!(expire(&mut harness, 10 * HOUR_MS).is_empty(), "a group with members keeps what they read");
    harness.leave("g", &[member(&ids[0], -1)]);
    assert!(expire(&mut harness, HOUR_MS - 1).is_empty());
    assert_eq!(committed(&harness, "g"), Some(5));
    assert_eq!(expire(&mut harness, 1), [Arc::from("g")]);
    assert_eq!((harness.machine.group("g"), harness.phase("g")), (None, None));
}

#[test]
fn a_commit_by_a_tool_begins_the_retention_anew() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 1);
    harness.leave("g", &[member(&ids[0], -1)]);
    harness.commit("g", &member("", -1), 3).expect("the group is empty");
    harness.now.wall_ms += HOUR_MS / 2;
    harness.commit("g", &member("", -1), 4).expect("the group is empty");
    assert!(expire(&mut harness, HOUR_MS / 2).is_empty());
    assert_eq!(expire(&mut harness, HOUR_MS / 2).len(), 1);
}

#[test]
fn offsets_of_simple_consumers_go_one_by_one() {
    let mut harness = GroupHarness::new();
    harness.commit("g", &member("", -1), 3).expect("a simple consumer");
    assert!(expire(&mut harness, HOUR_MS - 1).is_empty());
    assert_eq!(expire(&mut harness, 1).len(), 1);
    assert_eq!(harness.phase("g"), None);
}

#[test]
fn topics_that_no_member_subscribes_to_any_more_expire_in_a_living_group() {
    let mut harness = GroupHarness::new();
    let (ids, generation) = harness.stable("g", 1);
    harness.commit("g", &member(&ids[0], generation), 5).expect("a member");
    let subscribed = |harness: &GroupHarness| {
        harness.coordinator.subscribed_topics("g").map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(subscribed(&harness), ["t"]);
    let changed = vec![("range".into(), subscription("u"))];
    let again = harness.join(JoinRequest { protocols: changed, ..joining("g", &ids[0]) });
    let generation = harness.joined(again).expect("joined").generation;
    harness.sync("g", &ids[0], generation, &[]);
    assert_eq!(subscribed(&harness), ["u"]);
    assert_eq!(expire(&mut harness, HOUR_MS).len(), 1);
    assert_eq!((committed(&harness, "g"), harness.phase("g")), (None, Some(Phase::Stable)));
}

#[test]
fn nothing_expires_under_a_member_that_is_about_to_join() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 1);
    harness.leave("g", &[member(&ids[0], -1)]);
    harness.commit("g", &member("", -1), 3).expect("the group is empty");
    harness.join(joining("g", ""));
    assert!(expire(&mut harness, 2 * HOUR_MS).is_empty());
    assert_eq!(committed(&harness, "g"), Some(3));
}

#[test]
fn only_empty_groups_are_deleted() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 1);
    assert_eq!(harness.coordinator.delete("g"), Err(GroupError::NotEmpty));
    assert_eq!(harness.coordinator.delete("unknown"), Err(GroupError::GroupNotFound));
    harness.leave("g", &[member(&ids[0], -1)]);
    assert_eq!(harness.coordinator.delete("g"), Ok(()));
    assert_eq!(harness.phase("g"), None);
}

#[test]
fn offsets_of_topics_that_a_living_group_reads_cannot_be_deleted() {
    let mut harness = GroupHarness::new();
    let (ids, _) = harness.stable("g", 1);
    let topics = ["t".into(), "u".into()];
    assert_eq!(harness.coordinator.may_delete_offsets("g", &topics), Ok(vec![false, true]));
    harness.leave("g", &[member(&ids[0], -1)]);
    assert_eq!(harness.coordinator.may_delete_offsets("g", &topics), Ok(vec![true, true]));
    assert_eq!(harness.coordinator.may_delete_offsets("unknown", &topics), Err(GroupError::GroupNotFound));
    let connect = JoinRequest { protocol_type: "connect".into(), two_steps: false, ..joining("c", "") };
    harness.join(connect);
    assert_eq!(harness.coordinator.may_delete_offsets("c", &topics), Err(GroupError::NotEmpty));
}
