//! The replicated state alone: commands, snapshots, and undecodable bytes.

use super::*;

fn record(ids: &[&str]) -> GroupRecord {
    let member = |id: &&str| MemberRecord {
        id: (*id).into(),
        instance_id: Some(format!("i-{id}").into()),
        client_id: "c".into(),
        client_host: "/::1".into(),
        rebalance_timeout_ms: 1,
        session_timeout_ms: 2,
        protocols: vec![("range".into(), subscription("t"))],
        assignment: Bytes::from_static(b"all"),
    };
    GroupRecord {
        protocol_type: Some("consumer".into()),
        generation: 4,
        protocol: ids.first().map(|_| "range".into()),
        leader: ids.first().map(|id| (*id).into()),
        state_since_ms: 77,
        members: ids.iter().map(member).collect(),
    }
}

fn offset(topic: &str, partition: i32, offset: i64) -> OffsetEntry {
    let committed = CommittedOffset {
        offset,
        leader_epoch: 3,
        metadata: "note".into(),
        commit_ms: 5,
        expire_ms: Some(9),
    };
    OffsetEntry { topic: topic.into(), partition, committed }
}

fn every_op() -> Vec<GroupOp> {
    vec![
        GroupOp::Put { group: "a".into(), record: record(&["m1", "m2"]) },
        GroupOp::Put { group: "b".into(), record: record(&[]) },
        GroupOp::Commit {
            group: "a".into(),
            offsets: vec![offset("t", 0, 1), offset("t", 1, 2), offset("u", 0, 3)],
        },
        GroupOp::Commit { group: "simple".into(), offsets: vec![offset("t", 0, 9)] },
        GroupOp::DeleteOffsets { group: "a".into(), partitions: vec![("t".into(), 1), ("t".into(), 7)] },
        GroupOp::DropTopic { topic: "u".into() },
        GroupOp::Expire { group: "b".into(), now_ms: 1_000, retention_ms: 10 },
        GroupOp::Remove { group: "unknown".into() },
    ]
}

fn apply(machine: &mut GroupMachine, ops: &[GroupOp]) -> Vec<GroupOutcome> {
    let outcomes = machine.apply(LogId::new(1, 1), encode(ops.iter())).outcomes;
    machine.validate();
    outcomes
}

#[test]
fn operations_of_one_command_are_applied_in_their_order() {
    let mut machine = GroupMachine::new();
    let outcomes = apply(&mut machine, &every_op());
    let removed = |offsets, group| GroupOutcome::Removed { offsets, group };
    let done = GroupOutcome::Done;
    let expected =
        [done, done, done, done, removed(1, false), removed(1, false), removed(0, true), removed(0, false)];
    assert_eq!(outcomes, expected);
    let a = machine.group("a").expect("a is there");
    assert_eq!(a.record(), Some(&record(&["m1", "m2"])));
    assert_eq!(a.offset("t", 0), Some(&offset("t", 0, 1).committed));
    assert_eq!(a.offsets().count(), 1);
    assert_eq!(machine.group("b"), None);
}

#[test]
fn a_command_and_a_snapshot_are_read_as_they_were_written() {
    let ops = every_op();
    assert_eq!(decode(&encode(ops.iter())), Ok(ops.clone()));
    let mut machine = GroupMachine::new();
    apply(&mut machine, &ops);
    let snapshot = machine.snapshot().into_bytes();
    let restored = GroupMachine::restore(&snapshot[..]).expect("a snapshot");
    assert_eq!(restored, machine);
    assert_eq!(restored.snapshot().into_bytes(), snapshot);
}

#[test]
fn bytes_that_are_cut_or_go_on_are_refused() {
    let command = encode(every_op().iter());
    for length in 0..command.len() {
        assert!(decode(&command[..length]).is_err(), "{length} of {} bytes", command.len());
    }
    assert!(decode(&[&command[..], b"x"].concat()).is_err());
    let mut machine = GroupMachine::new();
    apply(&mut machine, &every_op());
    let snapshot = machine.snapshot().into_bytes();
    for length in 0..snapshot.len() {
        assert!(GroupMachine::restore(&snapshot[..length]).is_err(), "{length} of {} bytes", snapshot.len());
    }
    assert!(GroupMachine::restore(&[&snapshot[..], b"x"].concat()[..]).is_err());
}

#[test]
fn a_count_that_the_bytes_cannot_hold_asks_for_no_memory() {
    let mut command = vec![1, GROUP_COMMAND_KIND];
    command.extend(u32::MAX.to_le_bytes());
    assert!(matches!(decode(&command), Err(crate::DecodeError::Truncated { .. })));
}

#[test]
#[should_panic(expected = "the groups cannot apply entry 1-1")]
fn a_command_of_a_later_version_is_not_passed_over() {
    GroupMachine::new().apply(LogId::new(1, 1), Bytes::from_static(&[2, GROUP_COMMAND_KIND, 0, 0, 0, 0]));
}

#[test]
fn dropping_a_topic_leaves_groups_that_have_a_generation() {
    let mut machine = GroupMachine::new();
    apply(&mut machine, &every_op());
    apply(&mut machine, &[GroupOp::DropTopic { topic: "t".into() }]);
    assert!(machine.group("a").is_some_and(|a| a.offsets().count() == 0));
    assert_eq!(machine.group("simple"), None);
}

#[test]
fn a_time_that_the_commit_named_wins_over_the_retention() {
    let mut machine = GroupMachine::new();
    apply(&mut machine, &[GroupOp::Commit { group: "g".into(), offsets: vec![offset("t", 0, 1)] }]);
    let at = |now_ms| machine.group("g").map(|g| g.would_expire(now_ms, 1_000_000));
    assert_eq!((at(8), at(9)), (Some(false), Some(true)));
}

#[test]
fn a_snapshot_is_of_its_time_whatever_is_applied_while_it_is_written() {
    let mut machine = GroupMachine::new();
    apply(&mut machine, &every_op());
    let (copy, snapshot) = (machine.clone(), machine.snapshot());
    apply(
        &mut machine,
        &[
            GroupOp::Commit { group: "a".into(), offsets: vec![offset("t", 7, 70)] },
            GroupOp::Put { group: "a".into(), record: record(&[]) },
            GroupOp::DropTopic { topic: "t".into() },
        ],
    );
    assert_ne!(machine, copy);
    assert_eq!(GroupMachine::restore(&snapshot.into_bytes()[..]), Ok(copy));
}

#[test]
fn the_bytes_of_groups_are_those_of_what_they_hold() {
    let mut machine = GroupMachine::new();
    let commit = |partition, value: i64, metadata: &str| {
        let mut entry = offset("t", partition, value);
        entry.committed.metadata = metadata.to_string();
        entry
    };
    let first = vec![commit(0, 1, "note"), commit(1, 1, "")];
    let growth = machine.growth("g", &first);
    apply(&mut machine, &[GroupOp::Commit { group: "g".into(), offsets: first.clone() }]);
    assert_eq!(machine.bytes(), growth);
    assert_eq!(machine.growth("g", &first), 0, "they can be committed again");
    assert_eq!(machine.growth("g", &[commit(0, 2, "longer note"), commit(1, 2, "")]), 7);
    assert!(machine.growth("g", &[commit(2, 1, "")]) > 0);
    apply(&mut machine, &[GroupOp::Put { group: "g".into(), record: record(&["m1"]) }]);
    assert!(machine.bytes() > growth);
    machine.validate();
    apply(&mut machine, &[GroupOp::Remove { group: "g".into() }]);
    assert_eq!(machine.bytes(), 0);
}
