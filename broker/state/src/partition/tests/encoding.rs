//! Encodings of commands and snapshots: what is refused, and that nothing panics.

use proptest::prelude::*;

use super::*;
use crate::{
    DecodeError,
    group::{GROUP_COMMAND_KIND, GroupOp},
    partition::{
        NewPartition, ShardCommand, encode_drop_partitions, encode_expire_producers, encode_extend,
        encode_set_log_start, machine::ShardRestoreError,
    },
};

fn every_command() -> Vec<Bytes> {
    let id = PartitionId(3);
    vec![
        append_command(9, &[draft(1, 0, 1), draft(2, 5, 3).by(7, 1, 0)]),
        encode_create_partitions(&[
            NewPartition { id, start_offset: 5, epoch_base: 2 },
            PartitionId(4).into(),
        ]),
        encode_drop_partitions(&[id, PartitionId(9)]),
        encode_set_log_start(&[(id, 44)]),
        encode_expire_producers(1000, 300),
        encode_extend(&[(id, 45)]),
    ]
}

#[test]
fn a_command_is_read_as_it_was_written() {
    let read: Vec<ShardCommand> = every_command().into_iter().map(|c| decode(c).expect("ours")).collect();
    let ShardCommand::Append(append) = &read[0] else { panic!("an append, not {:?}", read[0]) };
    assert_eq!((append.now_ms(), append.len(), append.is_empty()), (9, 2, false));
    assert!(append.headers_checked());
    let id = PartitionId(3);
    let moved = NewPartition { id, start_offset: 5, epoch_base: 2 };
    assert_eq!(read[1], ShardCommand::CreatePartitions(vec![moved, PartitionId(4).into()]));
    assert_eq!(read[2], ShardCommand::DropPartitions(vec![id, PartitionId(9)]));
    assert_eq!(read[3], ShardCommand::SetLogStart(vec![(id, 44)]));
    assert_eq!(read[4], ShardCommand::ExpireProducers { before_ms: 700 });
    assert_eq!(read[5], ShardCommand::Extend(vec![(id, 45)]));
}

#[test]
fn the_headers_of_an_append_by_an_earlier_version_are_not_checked() {
    let mut command = append_command(9, &[draft(1, 0, 1)]).to_vec();
    command[1] = 1;
    let ShardCommand::Append(append) = decode(command.clone().into()).expect("an append") else {
        panic!("another command")
    };
    assert!(!append.headers_checked());
    let (_, effects) = apply(&mut shard(), command.into());
    assert!(matches!(effects[..], [Effect::Insert { header_checked: false, .. }]), "{effects:?}");
}

#[test]
fn a_shortened_or_lengthened_command_is_refused() {
    for command in every_command() {
        for end in 0..command.len() {
            assert!(decode(command.slice(..end)).is_err(), "{command:?} cut at {end}");
        }
        let longer = [&command[..], &[0]].concat();
        assert!(decode(longer.into()).is_err(), "{command:?} with a byte more");
    }
}

#[test]
fn versions_and_kinds_that_are_not_known_are_refused() {
    assert_eq!(decode(Bytes::from_static(&[2, 1])), Err(DecodeError::Version { found: 2, known: 1 }));
    for kind in [0, 8, 63, 128, 255] {
        assert_eq!(decode(vec![1, kind].into()), Err(DecodeError::Kind(kind)));
    }
}

#[test]
fn kinds_of_groups_go_to_the_groups_whole() {
    let op = GroupOp::Remove { group: "g".into() };
    let command = crate::group::encode([op].iter());
    assert_eq!(command[1], GROUP_COMMAND_KIND);
    assert_eq!(decode(command.clone()), Ok(ShardCommand::Group(command.clone())));
    let mut machine = shard();
    let (reply, effects) = apply(&mut machine, command);
    assert!(matches!(reply, ShardReply::Group(_)), "{reply:?}");
    assert_eq!(effects, []);
}

#[test]
fn negative_offsets_are_refused() {
    let set = encode_set_log_start(&[(PartitionId(1), -1)]);
    assert_eq!(decode(set), Err(DecodeError::Value { field: "an offset", value: -1 }));
    let new = NewPartition { id: PartitionId(1), start_offset: -7, epoch_base: 0 };
    let create = encode_create_partitions(&[new]);
    assert_eq!(decode(create), Err(DecodeError::Value { field: "an offset", value: -7 }));
}

#[test]
fn a_table_that_lies_about_its_batches_is_refused() {
    let command = append_command(0, &[draft(1, 0, 1), draft(2, 0, 1)]);
    let lengths_at = [14 + 8, 14 + 12 + 8];
    let mut lies = command.to_vec();
    // The first batch longer, the second shorter by as much: the sum still matches.
    lies[lengths_at[0]] += 1;
    lies[lengths_at[1]] -= 1;
    assert!(matches!(decode(lies.into()), Err(DecodeError::Batch(_))));
    let mut many = command.to_vec();
    many[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode(many.into()), Err(DecodeError::Truncated { .. })));
}

#[test]
fn a_batch_that_ends_before_it_begins_is_refused() {
    let mut command = append_command(0, &[draft(1, 0, 1)]).to_vec();
    let delta_at = 14 + 12 + 23;
    command[delta_at..delta_at + 4].copy_from_slice(&(-1i32).to_be_bytes());
    let refused = decode(command.into());
    assert_eq!(refused, Err(DecodeError::Value { field: "a batch's last offset delta", value: -1 }));
}

/// A machine with an example of everything.
fn full() -> ShardMachine {
    let mut machine = shard();
    create(&mut machine, &[2]);
    append(
        &mut machine,
        &[draft(1, 0, 3).by(7, 0, 0), draft(2, 0, 1).in_epoch(4), draft(1, 3, 1).by(7, 0, 3)],
    );
    append(&mut machine, &[draft(2, 1, 1).in_epoch(5), draft(1, 4, 1).by(9, 2, 0)]);
    apply(&mut machine, encode_set_log_start(&[(PartitionId(1), 2)]));
    machine
}

#[test]
fn a_snapshot_is_restored_as_it_was() {
    let machine = full();
    let bytes = machine.snapshot().into_bytes();
    let restored = ShardMachine::restore(&bytes[..]).expect("our own snapshot");
    restored.validate();
    assert_eq!(restored.snapshot().into_bytes(), bytes);
    assert!(restored.partitions().eq(machine.partitions()));
}

#[test]
fn a_shortened_snapshot_is_refused() {
    let bytes = full().snapshot().into_bytes();
    for end in 0..bytes.len() {
        assert!(ShardMachine::restore(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
    }
}

#[test]
fn a_snapshot_of_another_version_is_refused() {
    let mut bytes = full().snapshot().into_bytes();
    bytes[0] = 9;
    let refused = ShardMachine::restore(&bytes[..]);
    assert!(
        matches!(refused, Err(ShardRestoreError::Partitions(DecodeError::Version { found: 9, known: 1 }))),
        "{refused:?}"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_command_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(bytes.into());
    }

    #[test]
    fn no_changed_byte_makes_a_command_or_a_snapshot_panic(which in 0..6usize, at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let commands = every_command();
        match commands.get(which) {
            Some(command) => {
                let mut bytes = command.to_vec();
                let at = at.index(bytes.len());
                bytes[at] = value;
                if let Ok(command) = decode(bytes.into()) && !matches!(command, ShardCommand::Group(_)) {
                    // Whatever decodes can be applied.
                    full().apply(LogId::new(1, 1), command, &mut Vec::new());
                }
            }
            None => {
                let mut bytes = full().snapshot().into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = value;
                let _ = ShardMachine::restore(&bytes[..]);
            }
        }
    }
}
