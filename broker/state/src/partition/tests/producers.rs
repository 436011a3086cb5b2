//! Idempotent producers: the verdict of Kafka's rules on each batch.

use super::*;
use crate::partition::{
    PRODUCERS_MAX, PartitionAhead, ProduceRefusal, Verdict, encode_expire_producers, encode_set_log_start,
};

/// Appends batches of one record by producer 7 with epoch 0 and these sequences, each at the end.
fn append_sequences(machine: &mut ShardMachine, sequences: impl IntoIterator<Item = i32>) {
    for sequence in sequences {
        let at = next_offset(machine, 1);
        let outcome = append_one(machine, draft(1, at, 1).by(7, 0, sequence));
        assert_eq!(outcome, AppendOutcome::Appended { base_offset: at }, "sequence {sequence}");
    }
}

/// The verdict on the next batch of one record by producer 7.
fn outcome_of(machine: &mut ShardMachine, epoch: i16, sequence: i32) -> AppendOutcome {
    let at = next_offset(machine, 1);
    append_one(machine, draft(1, at, 1).by(7, epoch, sequence))
}

fn out_of_order(expected: i32, found: i32) -> AppendOutcome {
    AppendOutcome::Refused(ProduceRefusal::OutOfOrderSequence { expected, found })
}

#[test]
fn a_batch_that_comes_again_is_told_where_its_first_copy_is() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..6);
    for sequence in 1..6 {
        let expected = AppendOutcome::Duplicate { base_offset: i64::from(sequence), max_timestamp: 1000 };
        assert_eq!(outcome_of(&mut machine, 0, sequence), expected);
    }
    assert_eq!(next_offset(&machine, 1), 6, "nothing was appended twice");
    assert_eq!(machine.stats().duplicates, 5);
}

#[test]
fn a_duplicate_inside_one_command_is_found() {
    let mut machine = shard();
    let outcomes = append(&mut machine, &[draft(1, 0, 2).by(7, 0, 0), draft(1, 2, 2).by(7, 0, 0)]);
    assert_eq!(outcomes[1], AppendOutcome::Duplicate { base_offset: 0, max_timestamp: 1000 });
    assert_eq!(next_offset(&machine, 1), 2);
}

#[test]
fn a_duplicate_is_known_whatever_its_stamped_offset() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..2);
    let again = append_one(&mut machine, draft(1, 77, 1).by(7, 0, 1));
    assert_eq!(again, AppendOutcome::Duplicate { base_offset: 1, max_timestamp: 1000 });
}

#[test]
fn a_batch_older_than_the_last_five_is_refused_as_a_duplicate() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..7);
    let refusal = ProduceRefusal::DuplicateSequence { last: 6, found: 1 };
    assert_eq!(outcome_of(&mut machine, 0, 1), AppendOutcome::Refused(refusal));
}

#[test]
fn a_gap_is_out_of_order() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..3);
    assert_eq!(outcome_of(&mut machine, 0, 4), out_of_order(3, 4));
    assert_eq!(outcome_of(&mut machine, 0, 100), out_of_order(3, 100));
    assert_eq!(machine.stats().refused, 2);
    append_sequences(&mut machine, [3]);
}

#[test]
fn a_batch_that_is_cut_otherwise_is_out_of_order() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 5).by(7, 0, 0)]);
    // It begins in the middle of the first and ends after it.
    let straddles = append_one(&mut machine, draft(1, 5, 5).by(7, 0, 3));
    assert_eq!(straddles, out_of_order(5, 3));
}

#[test]
fn a_gap_behind_a_batch_that_was_not_appended_may_be_tried_again() {
    let mut machine = shard();
    // The first one's offset is wrong, so the second one's sequence is out of order through no fault of its
    // own.
    let outcomes = append(&mut machine, &[draft(1, 5, 1).by(7, 0, 0), draft(1, 6, 1).by(7, 0, 1)]);
    assert!(
        outcomes.iter().all(|o| matches!(o, AppendOutcome::OffsetMismatch { expected: 0, .. })),
        "{outcomes:?}"
    );
    append_sequences(&mut machine, 0..2);
}

#[test]
fn an_older_epoch_is_fenced_and_a_newer_one_starts_again() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..3);
    assert_eq!(outcome_of(&mut machine, 1, 3), out_of_order(0, 3));
    assert_eq!(outcome_of(&mut machine, 1, 0), AppendOutcome::Appended { base_offset: 3 });
    let fenced = ProduceRefusal::InvalidProducerEpoch { current: 1, found: 0 };
    assert_eq!(outcome_of(&mut machine, 0, 3), AppendOutcome::Refused(fenced));
    assert_eq!(
        outcome_of(&mut machine, 0, 2),
        AppendOutcome::Refused(fenced),
        "even what the old epoch had written"
    );
    assert_eq!(outcome_of(&mut machine, 1, 1), AppendOutcome::Appended { base_offset: 4 });
    assert_eq!(
        outcome_of(&mut machine, 1, 0),
        AppendOutcome::Duplicate { base_offset: 3, max_timestamp: 1000 }
    );
}

#[test]
fn an_unknown_producer_may_begin_anywhere() {
    let mut machine = shard();
    append_sequences(&mut machine, [41, 42]);
    assert_eq!(outcome_of(&mut machine, 0, 44), out_of_order(43, 44));
    // What it wrote before it was removed is unknown, so this is not certainly a duplicate.
    assert_eq!(outcome_of(&mut machine, 0, 40), out_of_order(43, 40));
}

#[test]
fn sequences_go_round_at_their_end() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 1).by(7, 0, i32::MAX - 1)]);
    append(&mut machine, &[draft(1, 1, 4).by(7, 0, i32::MAX)]);
    assert_eq!(next_offset(&machine, 1), 5);
    assert_eq!(outcome_of(&mut machine, 0, 4), out_of_order(3, 4));
    append_sequences(&mut machine, [3, 4]);
    let again = append_one(&mut machine, draft(1, 7, 4).by(7, 0, i32::MAX));
    assert_eq!(again, AppendOutcome::Duplicate { base_offset: 1, max_timestamp: 1000 });
}

#[test]
fn an_old_batch_is_a_duplicate_on_the_other_side_of_the_end_too() {
    let machine = shard();
    // One large batch adds a producer that began at 0 near the end of the sequences.
    let mut state = machine.partition(PartitionId(1)).expect("there").clone();
    let header = |first: i32, delta: i32| {
        let mut header = draft(1, 0, 1).by(7, 0, first).header();
        header.last_offset_delta = delta;
        header
    };
    state.advance(&header(0, i32::MAX - 3), 0, 0, 0);
    for (first, delta) in [(i32::MAX - 2, 0), (i32::MAX - 1, 0), (i32::MAX, 0), (0, 0), (1, 0), (2, 0)] {
        assert_eq!(state.check(&header(first, delta)), Verdict::Append, "sequence {first}");
        state.advance(&header(first, delta), state.next_offset(), 0, 0);
    }
    assert!(matches!(state.check(&header(i32::MAX - 1, 0)), Verdict::Duplicate { .. }));
    let refused = |first| match state.check(&header(first, 0)) {
        Verdict::Refuse(refusal) => refusal,
        other => panic!("{other:?} for {first}"),
    };
    let duplicate = ProduceRefusal::DuplicateSequence { last: 2, found: i32::MAX - 2 };
    assert_eq!(refused(i32::MAX - 2), duplicate);
    assert_eq!(refused(4), ProduceRefusal::OutOfOrderSequence { expected: 3, found: 4 });
    state.validate();
}

#[test]
fn producers_are_kept_apart_by_id_and_by_partition() {
    let mut machine = shard();
    create(&mut machine, &[2]);
    append(
        &mut machine,
        &[draft(1, 0, 1).by(7, 0, 0), draft(1, 1, 1).by(8, 0, 0), draft(2, 0, 1).by(7, 0, 0)],
    );
    assert_eq!([next_offset(&machine, 1), next_offset(&machine, 2)], [2, 1]);
    let seen: Vec<_> = machine
        .partition(PartitionId(1))
        .expect("there")
        .producers()
        .map(|p| (p.id, p.last_sequence))
        .collect();
    assert_eq!(seen, [(7, 0), (8, 0)]);
}

#[test]
fn a_batch_without_a_producer_is_never_a_duplicate() {
    let mut machine = shard();
    append(&mut machine, &[draft(1, 0, 1), draft(1, 1, 1)]);
    assert_eq!(next_offset(&machine, 1), 2);
    assert_eq!(machine.partition(PartitionId(1)).expect("there").producers().len(), 0);
}

#[test]
fn an_idle_producer_is_forgotten_and_a_busy_one_is_not() {
    let mut machine = shard();
    apply(&mut machine, append_command(1_000, &[draft(1, 0, 1).by(7, 0, 0)]));
    apply(&mut machine, append_command(5_000, &[draft(1, 1, 1).by(8, 0, 0)]));
    // A clock that goes back does not make a producer older.
    apply(&mut machine, append_command(10, &[draft(1, 2, 1).by(8, 0, 1)]));
    assert!(!machine.has_expired_producers(10_999, 10_000));
    assert!(machine.has_expired_producers(11_000, 10_000));
    apply(&mut machine, encode_expire_producers(11_000, 10_000));
    let left: Vec<_> = machine.partition(PartitionId(1)).expect("there").producers().collect();
    assert_eq!(left.iter().map(|p| (p.id, p.last_write_ms)).collect::<Vec<_>>(), [(8, 5_000)]);
    assert!(!machine.has_expired_producers(14_999, 10_000));
    assert_eq!(
        outcome_of(&mut machine, 0, 5),
        AppendOutcome::Appended { base_offset: 3 },
        "7 is as if it were new"
    );
}

#[test]
fn producers_outlive_the_records_that_they_wrote() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..3);
    apply(&mut machine, encode_set_log_start(&[(PartitionId(1), 3)]));
    assert_eq!(
        outcome_of(&mut machine, 0, 2),
        AppendOutcome::Duplicate { base_offset: 2, max_timestamp: 1000 }
    );
}

#[test]
fn one_producer_too_many_and_the_older_half_is_forgotten() {
    let mut machine = shard();
    let mut at = 0;
    for chunk in (0..PRODUCERS_MAX as i64).collect::<Vec<_>>().chunks(4096) {
        let drafts: Vec<_> = chunk.iter().map(|id| draft(1, *id, 1).by(*id, 0, 0)).collect();
        at += 1;
        apply(&mut machine, append_command(at, &drafts));
    }
    let end = next_offset(&machine, 1);
    let count = |machine: &ShardMachine| machine.partition(PartitionId(1)).expect("there").producers().len();
    assert_eq!(count(&machine), PRODUCERS_MAX);
    apply(&mut machine, append_command(at + 1, &[draft(1, end, 1).by(-0x7fff, 0, 0)]));
    assert_eq!(count(&machine), PRODUCERS_MAX, "without a producer id nothing is remembered");
    apply(&mut machine, append_command(at + 1, &[draft(1, end + 1, 1).by(1 << 40, 0, 0)]));
    let state = machine.partition(PartitionId(1)).expect("there");
    assert_eq!(state.producers().len(), PRODUCERS_MAX / 2 + 1);
    assert!(state.producers().all(|p| p.id >= PRODUCERS_MAX as i64 / 2), "the newer half is left");
}

#[test]
fn what_is_in_flight_counts_before_it_is_applied() {
    let mut machine = shard();
    append_sequences(&mut machine, 0..2);
    let applied = machine.partition(PartitionId(1)).expect("there");
    let mut ahead = PartitionAhead::new(applied);
    let header = |sequence| draft(1, 0, 1).by(7, 0, sequence).header();
    let other = |sequence| draft(1, 0, 3).by(8, 0, sequence).header();
    assert_eq!(ahead.advance(applied, &header(2), 9), 2);
    assert_eq!(ahead.advance(applied, &other(0), 9), 3);
    assert_eq!(ahead.advance(applied, &header(3), 9), 6);
    assert_eq!(ahead.next_offset(), 7);
    assert_eq!(ahead.check(applied, &header(2)), Verdict::Duplicate { base_offset: 2, max_timestamp: 9 });
    assert_eq!(ahead.check(applied, &header(1)), Verdict::Duplicate { base_offset: 1, max_timestamp: 1000 });
    assert_eq!(ahead.check(applied, &other(3)), Verdict::Append);
    assert_eq!(ahead.check(applied, &draft(1, 0, 1).header()), Verdict::Append);
    let gap = ProduceRefusal::OutOfOrderSequence { expected: 4, found: 5 };
    assert_eq!(ahead.check(applied, &header(5)), Verdict::Refuse(gap));
    assert_eq!(applied.next_offset(), 2, "the applied state is as it was");
}
