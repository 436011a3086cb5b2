//! Appends and their effects.

use super::*;
use crate::partition::{
    NewPartition, ShardStats, encode_drop_partitions, encode_extend, encode_set_log_start,
};

#[test]
fn batches_are_cut_out_of_the_command_without_a_copy() {
    let mut machine = shard();
    create(&mut machine, &[2]);
    let command = append_command(0, &[draft(1, 0, 3), draft(2, 0, 1), draft(1, 3, 2)]);
    let memory = command.as_ptr_range();
    let (reply, effects) = apply(&mut machine, command.clone());
    let appended = |base_offset| AppendOutcome::Appended { base_offset };
    assert_eq!(reply, ShardReply::Append(vec![appended(0), appended(0), appended(3)]));
    let inserted: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Insert { partition, batch, base_offset, next_offset, max_timestamp, .. } => {
                assert!(memory.contains(&batch.as_ptr()), "the batch lies in the command's memory");
                assert_eq!(BatchHeader::parse(batch).expect("whole").total_bytes(), batch.len());
                (partition.0, *base_offset, *next_offset, *max_timestamp)
            }
            other => panic!("{other:?} is no effect of an append"),
        })
        .collect();
    assert_eq!(inserted, [(1, 0, 3, 1000), (2, 0, 1, 1000), (1, 3, 5, 1000)]);
    assert_eq!((next_offset(&machine, 1), next_offset(&machine, 2)), (5, 1));
}

#[test]
fn the_batch_is_kept_byte_for_byte() {
    let mut machine = shard();
    let draft = draft(1, 0, 2).by(9, 3, 0).in_epoch(7);
    let (_, effects) = apply(&mut machine, append_command(5, &[draft]));
    let [Effect::Insert { batch, .. }] = &effects[..] else { panic!("one insert, not {effects:?}") };
    assert_eq!(*batch, draft.bytes());
}

#[test]
fn a_batch_with_another_offset_than_the_next_changes_nothing_and_is_counted() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 3)]);
    let before = machine.snapshot().into_bytes();
    for found in [0, 2, 4, 1000] {
        let (reply, effects) = apply(&mut machine, append_command(0, &[draft(1, found, 1).by(1, 0, 0)]));
        assert_eq!(reply, ShardReply::Append(vec![AppendOutcome::OffsetMismatch { expected: 3, found }]));
        assert_eq!(effects, []);
    }
    assert_eq!(machine.snapshot().into_bytes(), before);
    assert_eq!(machine.stats(), ShardStats { appended: 1, offset_mismatches: 4, ..ShardStats::default() });
}

#[test]
fn a_mismatch_in_one_partition_leaves_the_others_of_the_command_alone() {
    let mut machine = shard();
    create(&mut machine, &[2]);
    let outcomes = append(&mut machine, &[draft(1, 5, 1), draft(2, 0, 1), draft(1, 0, 1), draft(3, 0, 1)]);
    assert_eq!(
        outcomes,
        [
            AppendOutcome::OffsetMismatch { expected: 0, found: 5 },
            AppendOutcome::Appended { base_offset: 0 },
            AppendOutcome::Appended { base_offset: 0 },
            AppendOutcome::UnknownPartition,
        ]
    );
}

#[test]
fn an_append_without_batches_is_nothing() {
    let mut machine = shard();
    assert_eq!(append(&mut machine, &[]), []);
}

#[test]
fn a_partition_can_begin_anywhere() {
    let mut machine = ShardMachine::new();
    let new = NewPartition { id: PartitionId(8), start_offset: 500, epoch_base: 12 };
    let (_, effects) = apply(&mut machine, encode_create_partitions(&[new]));
    assert_eq!(effects, [Effect::Created { partition: PartitionId(8) }]);
    let state = machine.partition(PartitionId(8)).expect("created");
    assert_eq!((state.log_start(), state.next_offset(), state.epoch_base()), (500, 500, 12));
    assert_eq!(append_one(&mut machine, draft(8, 500, 1)), AppendOutcome::Appended { base_offset: 500 });
}

#[test]
fn creating_a_partition_again_changes_nothing() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 3)]);
    assert_eq!(create(&mut machine, &[1, 2]), [Effect::Created { partition: PartitionId(2) }]);
    assert_eq!(next_offset(&machine, 1), 3);
}

#[test]
fn a_dropped_partition_takes_nothing_and_is_dropped_once() {
    let mut machine = shard();
    let drop = |machine: &mut ShardMachine| {
        apply(machine, encode_drop_partitions(&[PartitionId(1), PartitionId(7)])).1
    };
    assert_eq!(drop(&mut machine), [Effect::Dropped { partition: PartitionId(1) }]);
    assert_eq!(drop(&mut machine), []);
    assert_eq!(append_one(&mut machine, draft(1, 0, 1)), AppendOutcome::UnknownPartition);
    assert_eq!(machine.partitions().len(), 0);
}

#[test]
fn a_log_start_moves_up_and_never_beyond_the_end() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 10)]);
    let mut set =
        |to| apply(&mut machine, encode_set_log_start(&[(PartitionId(1), to), (PartitionId(9), to)])).1;
    let moved = |offset| [Effect::LogStart { partition: PartitionId(1), offset }];
    assert_eq!(set(4), moved(4));
    assert_eq!(set(4), []);
    assert_eq!(set(3), []);
    assert_eq!(set(99), moved(10));
    let state = machine.partition(PartitionId(1)).expect("there");
    assert_eq!((state.log_start(), state.next_offset()), (10, 10));
}

#[test]
fn leader_epochs_are_those_that_the_batches_carry() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 10).in_epoch(2), draft(1, 10, 5).in_epoch(2)]);
    append(&mut machine, &[draft(1, 15, 5).in_epoch(6)]);
    let state = machine.partition(PartitionId(1)).expect("there");
    assert_eq!(state.latest_epoch(), Some(6));
    assert_eq!(state.end_offset_for_epoch(2), Some((2, 15)));
    assert_eq!(state.end_offset_for_epoch(4), Some((2, 15)));
    assert_eq!(state.end_offset_for_epoch(6), Some((6, 20)));
    assert_eq!(state.end_offset_for_epoch(1), Some((1, 0)));
    assert_eq!(state.end_offset_for_epoch(-1), None);
    apply(&mut machine, encode_set_log_start(&[(PartitionId(1), 17)]));
    let state = machine.partition(PartitionId(1)).expect("there");
    assert_eq!(
        state.end_offset_for_epoch(2),
        Some((2, 15)),
        "its records are gone: where the first epoch starts"
    );
    assert_eq!(state.end_offset_for_epoch(6), Some((6, 20)));
}

#[test]
fn partitions_are_listed_in_the_order_of_their_ids() {
    let mut machine = ShardMachine::new();
    create(&mut machine, &[5, 1, 3]);
    create(&mut machine, &[2]);
    assert_eq!(machine.partitions().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2, 3, 5]);
}

#[test]
fn ten_thousand_partitions_are_small() {
    let mut machine = ShardMachine::new();
    create(&mut machine, &(0..10_000).collect::<Vec<_>>());
    for id in 0..10_000 {
        append(&mut machine, &[draft(id, 0, 1)]);
    }
    let size = std::mem::size_of::<crate::partition::PartitionState>();
    assert!(size <= 80, "a partition's state takes {size} bytes beside its epochs and producers");
    let snapshot = machine.snapshot().into_bytes();
    assert!(snapshot.len() <= 600_000, "the snapshot has {} bytes", snapshot.len());
    let restored = ShardMachine::restore(&snapshot[..]).expect("our own snapshot");
    assert_eq!(restored.snapshot().into_bytes(), snapshot);
}

#[test]
fn an_end_moves_up_to_where_the_records_end_and_producers_begin_anew() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 3).by(9, 0, 0)]);
    let ends = [(PartitionId(1), 2), (PartitionId(7), 5)];
    let before = machine.snapshot().into_bytes();
    assert_eq!(apply(&mut machine, encode_extend(&ends)).1, []);
    assert_eq!(
        machine.snapshot().into_bytes(),
        before,
        "an end does not move back, and no partition comes from nowhere"
    );
    apply(&mut machine, encode_extend(&[(PartitionId(1), 8)]));
    machine.validate();
    assert_eq!(next_offset(&machine, 1), 8);
    assert_eq!(machine.partition(PartitionId(1)).expect("there").producers().len(), 0);
    // Sequence 40 would be out of order after 2 if the producer were known.
    append(&mut machine, &[draft(1, 8, 1).by(9, 0, 40)]);
    assert_eq!(next_offset(&machine, 1), 9);
}
