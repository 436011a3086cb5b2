//! A group's part of the log: append, truncate, purge, read.

use std::sync::{Mutex, mpsc};

use super::*;
use crate::wal::layout::FILE_HEAD_BYTES;

fn payloads_in_memory(wal: &Wal) -> usize {
    wal.shared.with(|log| log.group(GROUP).slots.iter().filter(|slot| slot.payload.is_some()).count())
}

#[test]
fn entries_are_not_misplaced_when_the_file_with_those_before_them_is_used_again() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    write(&wal, GROUP, 0..3, 3000);
    // The next files repeat this mark, which is stale when they are the oldest.
    wal.group(GROUP).purge(LogId::new(1, 1)).expect("purged");
    write(&wal, GROUP, 3..20, 3000);
    wal.group(GROUP).purge(LogId::new(1, 12)).expect("purged");
    assert!(wal.reclaim().expect("reclaimed") >= 2);
    write(&wal, GROUP, 20..22, 3000);
    drop(wal);
    let wal = open(&disk.crash());
    assert_eq!(wal.group(GROUP).state().purged, Some(LogId::new(1, 12)));
    expect(&wal, GROUP, 13..22, 3000);
}

#[test]
fn a_truncation_that_reaches_behind_the_oldest_file_comes_back_as_it_was() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    write(&wal, GROUP, 0..4, 2000);
    write(&wal, GROUP, 4..6, 2000);
    // Entries of the first file are replaced in the second, then all of the first file's are purged.
    write(&wal, OTHER, 0..3, 5000);
    wal.group(GROUP).truncate_after(Some(LogId::new(1, 1))).expect("truncated");
    write(&wal, GROUP, 2..12, 2000);
    wal.group(GROUP).purge(LogId::new(1, 8)).expect("purged");
    wal.group(OTHER).purge(LogId::new(1, 2)).expect("purged");
    assert!(wal.reclaim().expect("reclaimed") >= 1);
    drop(wal);
    expect(&open(&disk.crash()), GROUP, 9..12, 2000);
}

#[test]
fn a_first_entry_that_is_larger_than_the_first_file_survives_a_start() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    write(&wal, GROUP, 0..1, 40_000);
    drop(wal);
    let disk = disk.crash();
    expect(&open(&disk), GROUP, 0..1, 40_000);
    expect(&open(&disk.crash()), GROUP, 0..1, 40_000);
}

#[test]
fn appending_takes_all_entries_or_none() {
    let wal = open(&SimDisk::new(1));
    let log = wal.group(GROUP);
    let too_large = log.append([draft(0, 10), draft(1, 60_000)], |_| panic!("refused"));
    assert!(matches!(too_large, Err(AppendError::TooLarge { bytes: 60_000, .. })), "{too_large:?}");
    let gap = log.append([draft(0, 10), draft(2, 10)], |_| panic!("refused"));
    assert_eq!(gap, Err(AppendError::Gap { group: GROUP, index: 2, expected: 1 }));
    assert_eq!((log.state(), wal.step()), (GroupState::default(), Step::Idle));
    let first = log.append([draft(5, 10)], |_| panic!("refused"));
    assert_eq!(first, Err(AppendError::Gap { group: GROUP, index: 5, expected: 0 }), "a log begins at 0");
    let vote = log.save_vote(&[0; 1000], |_| panic!("refused"));
    assert!(matches!(vote, Err(AppendError::TooLarge { .. })));
}

#[test]
fn there_is_room_for_so_many_groups_and_no_more() {
    let wal = open(&SimDisk::new(1));
    let groups_max = (64 << 10) / 8 / (40 + 256);
    for group in 0..groups_max {
        wal.group(RaftGroupId(group)).save_vote(&[1; 256], |_| {}).expect("there is room");
        wal.step();
    }
    let refused = wal.group(RaftGroupId(groups_max)).save_vote(&[1; 256], |_| {});
    assert_eq!(refused, Err(AppendError::TooManyGroups { groups_max: groups_max as usize }));
    // With every group's state in each file there is still space for the largest entry.
    write(&wal, GROUP, 0..10, 40_000);
    expect(&wal, GROUP, 0..10, 40_000);
}

#[test]
fn payloads_that_are_not_written_yet_stay_in_memory_and_later_ones_come_from_the_disk() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, GROUP, 0..5, 1000, &Arc::default());
    wal.group(GROUP).release_memory(4);
    expect(&wal, GROUP, 0..5, 1000);
    assert_eq!(disk.count(Op::Read), 0, "nothing is on disk yet");
    wal.step();
    wal.group(GROUP).release_memory(2);
    expect(&wal, GROUP, 0..5, 1000);
    assert_eq!(disk.count(Op::Read), 3);
    wal.group(GROUP).truncate_after(Some(LogId::new(1, 0))).expect("truncated");
    write(&wal, GROUP, 1..5, 1000);
    wal.group(GROUP).release_memory(4);
    assert_eq!(payloads_in_memory(&wal), 0);
}

#[test]
fn an_entry_whose_bytes_rot_is_never_given_out() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    write(&wal, GROUP, 0..2, 1000);
    wal.group(GROUP).release_memory(1);
    disk.flip(file(1), FILE_HEAD_BYTES as u64 + 300, 1).expect("there");
    let read = wal.group(GROUP).read(0..2, usize::MAX);
    assert!(matches!(&read, Err(ReadError::Damaged { id, .. }) if id.index == 0), "{read:?}");
    assert_eq!(wal.group(GROUP).read(1..2, usize::MAX).expect("the other one").len(), 1);
}

#[test]
fn a_purged_entry_whose_file_is_used_again_is_purged_and_not_damaged() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    write(&wal, GROUP, 0..12, 3000);
    wal.group(GROUP).release_memory(11);
    let (id, slot) = wal.shared.with(|log| (LogId::new(1, 0), log.group(GROUP).slots[0].clone()));
    wal.group(GROUP).purge(LogId::new(1, 11)).expect("purged");
    wal.reclaim().expect("reclaimed");
    // Like a reader that looked the entry up just before.
    let read = wal.shared.read_payload(GROUP, id, &slot);
    assert_eq!(read, Err(ReadError::Purged { group: GROUP, index: 0, first: 12 }));
}

#[test]
fn an_entry_that_does_not_follow_the_one_before_it_is_damage() {
    let (disk, starts) = six_writes(false);
    let at = starts[3] + 44;
    forge_frame(&disk, at, |frame| frame[32] = 1);
    assert_eq!(damage(try_open(&disk, &[])), (file_name(1), at));
}

#[test]
fn what_a_start_keeps_in_memory_is_what_the_runs_do_not_have() {
    let disk = SimDisk::new(2);
    let wal = open(&disk);
    write(&wal, GROUP, 0..40, 3000);
    write(&wal, OTHER, 0..1, 100);
    drop(wal);
    let (wal, _) = try_open(&disk.kill(), &[(GROUP, 38)]).expect("opens");
    assert!(wal.memory_bytes() <= config().chunk_bytes, "small payloads hold no windows");
    assert_eq!(payloads_in_memory(&wal), 1);
    expect(&wal, GROUP, 0..40, 3000);
    expect(&wal, OTHER, 0..1, 100);
}

#[test]
fn a_purge_mark_does_not_move_back() {
    let disk = SimDisk::new(5);
    let wal = open(&disk);
    write(&wal, GROUP, 0..8, 100);
    wal.group(GROUP).purge(LogId::new(1, 5)).expect("purged");
    wal.group(GROUP).purge(LogId::new(1, 3)).expect("ignored");
    expect(&wal, GROUP, 6..8, 100);
    wal.step();
    drop(wal);
    let wal = open(&disk.crash());
    assert_eq!(wal.group(GROUP).state().purged, Some(LogId::new(1, 5)));
    expect(&wal, GROUP, 6..8, 100);
}

#[test]
fn appends_that_come_while_a_write_is_under_way_share_the_next_one() {
    let disk = SimDisk::new(1);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), config(), &RecoveryBase::default()).expect("opens");
    let (go, wait) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel::<()>();
    let gate = Mutex::new(Some((wait, entered)));
    disk.set_hook(move |op, path| {
        if op == Op::Write && path.ends_with(file_name(1)) {
            let gate = gate.lock().expect("no panic").take();
            if let Some((wait, entered)) = gate {
                entered.send(()).expect("the test waits");
                wait.recv().expect("the test lets go");
            }
        }
    });
    let (result_tx, result_rx) = mpsc::channel();
    let mut append = |index| {
        let result_tx = result_tx.clone();
        wal.group(GROUP)
            .append([draft(index, 100)], move |result| drop(result_tx.send(result)))
            .expect("appended");
    };
    append(0);
    inside.recv().expect("the first write is under way");
    (1..20).for_each(&mut append);
    go.send(()).expect("the writer waits");
    (0..20).for_each(|_| result_rx.recv().expect("a result").expect("durable"));
    assert_eq!(wal.stats().syncs.read().count, 2);
}
