//! One test for each way in which a log can go wrong, over the faulty disk.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
};

use super::{
    layout::{FILE_HEAD_BYTES, file_name, in_dir, spare_name},
    sim_tests::config,
    *,
};
use crate::disk::sim::{Op, SimDisk};

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

fn try_open(disk: &SimDisk, flushed: &[(GroupId, u64)]) -> Result<(Wal, RecoveryReport), OpenError> {
    let base = RecoveryBase { flushed: flushed.iter().copied().collect() };
    Wal::open_stepped(Arc::new(disk.clone()), config(), &base)
}

fn open(disk: &SimDisk) -> Wal {
    try_open(disk, &[]).unwrap_or_else(|e| panic!("{e}")).0
}

fn draft(index: u64, bytes: usize) -> Draft<Bytes> {
    Draft { id: LogId::new(1, index), kind: 1, payload: Bytes::from(vec![index as u8; bytes]) }
}

/// Appends entries without writing them; the count goes up when they are acknowledged.
fn append(
    wal: &Wal,
    group: GroupId,
    indexes: std::ops::Range<u64>,
    bytes: usize,
    acknowledged: &Arc<AtomicUsize>,
) {
    for index in indexes {
        let acknowledged = acknowledged.clone();
        let done = move |result: Result<(), WalFailed>| {
            if result.is_ok() {
                acknowledged.fetch_add(1, Relaxed);
            }
        };
        // An error is a log that has failed: nothing is acknowledged.
        let _ = wal.group(group).append([draft(index, bytes)], done);
    }
}

/// Appends entries, each with a write of its own.
fn write(wal: &Wal, group: GroupId, indexes: std::ops::Range<u64>, bytes: usize) {
    for index in indexes {
        let acknowledged = Arc::default();
        append(wal, group, index..index + 1, bytes, &acknowledged);
        assert_eq!((wal.step(), acknowledged.load(Relaxed)), (Step::Wrote, 1), "entry {index}");
    }
}

/// The group has exactly these entries, all of `bytes`.
fn expect(wal: &Wal, group: GroupId, indexes: std::ops::Range<u64>, bytes: usize) {
    let entries = wal.group(group).read(indexes.clone(), usize::MAX).expect("readable");
    assert_eq!(entries.len() as u64, indexes.end - indexes.start);
    for (entry, index) in entries.iter().zip(indexes.clone()) {
        assert_eq!((entry.id.index, entry.payload.len()), (index, bytes));
        assert!(entry.payload.iter().all(|b| *b == index as u8));
    }
    assert_eq!(wal.group(group).state().last.map_or(0, |id| id.index + 1), indexes.end);
}

fn file(seq: u64) -> std::path::PathBuf {
    in_dir(&file_name(seq))
}

fn damage(result: Result<(Wal, RecoveryReport), OpenError>) -> (String, usize) {
    match result.map(|(_, report)| report) {
        Err(OpenError::Damaged { file, offset, .. }) => (file, offset),
        other => panic!("no damage was seen: {other:?}"),
    }
}

/// What a broker does in its life, in one row, with the count of what was acknowledged: a start, writes over many
/// files, purges, files that are used again, a second start. Ends early when the disk does nothing any more.
fn a_life(disk: &SimDisk) -> (usize, usize) {
    let (first, second) = (Arc::<AtomicUsize>::default(), Arc::default());
    let run = |rounds: std::ops::Range<u64>| {
        let Ok((wal, _)) = try_open(disk, &[]) else { return };
        for round in rounds {
            append(&wal, GROUP, round * 4..round * 4 + 4, 4000, &first);
            append(&wal, OTHER, round * 2..round * 2 + 2, 100, &second);
            wal.step();
            if round % 3 == 2 {
                // An error is a log that has failed.
                let _ = wal.group(GROUP).purge(LogId::new(1, round * 4 + 2));
                let _ = wal.group(OTHER).purge(LogId::new(1, round * 2 - 3));
                let _ = wal.reclaim();
            }
            wal.step_prepare();
        }
        wal.step_seal();
    };
    run(0..12);
    run(12..15);
    (first.load(Relaxed), second.load(Relaxed))
}

fn check_life(disk: &SimDisk, acknowledged: (usize, usize), when: &str) {
    let wal = try_open(disk, &[]).unwrap_or_else(|e| panic!("{when}: {e}")).0;
    for (group, count, bytes) in [(GROUP, acknowledged.0, 4000), (OTHER, acknowledged.1, 100)] {
        let state = wal.group(group).state();
        let end = state.last.or(state.purged).map_or(0, |id| id.index + 1);
        assert!(end >= count as u64, "{when}: {count} entries of {group} were acknowledged, {end} came back");
        let first = state.purged.map_or(0, |id| id.index + 1);
        if end > first {
            expect(&wal, group, first..end, bytes);
        }
    }
}

#[test]
fn the_power_can_go_at_every_operation_of_a_life_and_again_at_every_one_of_the_next_start() {
    let whole = SimDisk::new(0);
    a_life(&whole);
    let (changes, reused) = (whole.changes(), whole.count(Op::Rename));
    assert!(changes > 100 && reused > 12, "{changes} operations, {reused} renames");
    let mut starts = 0;
    for cut in 0..changes {
        for seed in 0..3 {
            let disk = SimDisk::new(cut * 31 + seed);
            disk.cut_power_after(cut);
            let acknowledged = a_life(&disk);
            let left = disk.crash();
            check_life(&left, acknowledged, &format!("cut at {cut}, seed {seed}"));
            for second in 0..if seed == 0 { 14 } else { 0 } {
                let disk = SimDisk::new(cut * 31 + seed);
                disk.cut_power_after(cut);
                a_life(&disk);
                let disk = disk.crash();
                disk.cut_power_after(second);
                // It may fail or be through: then everything was covered.
                if let Ok((wal, _)) = try_open(&disk, &[]) {
                    wal.step();
                }
                if !disk.is_off() {
                    break;
                }
                starts += 1;
                check_life(&disk.crash(), acknowledged, &format!("cut at {cut} and {second}, seed {seed}"));
            }
        }
    }
    assert!(starts > 500, "{starts} second power cuts");
}

#[test]
fn entries_are_not_misplaced_when_the_file_with_those_before_them_is_used_again() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    write(&wal, GROUP, 0..3, 3000);
    // The next files repeat this mark, which is far behind when they are the oldest.
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
        wal.group(GroupId(group)).save_vote(&[1; 256], |_| {}).expect("there is room");
        wal.step();
    }
    let refused = wal.group(GroupId(groups_max)).save_vote(&[1; 256], |_| {});
    assert_eq!(refused, Err(AppendError::TooManyGroups { groups_max: groups_max as usize }));
    // With every group's state in each file there is still room for the largest entry.
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
    assert_eq!(
        wal.shared.with(|log| log.group(GROUP).slots.iter().filter(|slot| slot.payload.is_some()).count()),
        0
    );
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
    // As a reader does that looked the entry up just before.
    let read = wal.shared.read_payload(GROUP, id, &slot);
    assert_eq!(read, Err(ReadError::Purged { group: GROUP, index: 0, first: 12 }));
}

/// The disk of a log with six acknowledged writes of two blocks each, killed right after, and where each begins.
fn six_writes(sealed: bool) -> (SimDisk, Vec<usize>) {
    let disk = SimDisk::new(9);
    let wal = Wal::open_stepped(
        Arc::new(disk.clone()),
        WalConfig { first_file_bytes: 64 << 10, ..config() },
        &RecoveryBase::default(),
    );
    let wal = wal.expect("opens").0;
    let mut starts = Vec::new();
    for index in 0..6 {
        starts.push(wal.shared.with(|log| log.end().offset()));
        write(&wal, GROUP, index..index + 1, 5000);
    }
    if sealed {
        assert_eq!(wal.step_seal(), Step::Wrote);
    }
    drop(wal);
    (disk.kill(), starts)
}

#[test]
fn rot_in_front_of_the_durable_mark_is_damage_wherever_it_is() {
    let (disk, starts) = six_writes(false);
    for (i, start) in starts.iter().enumerate().take(5) {
        for offset in [0, 7, 30, 44, 60, 300, 5000] {
            let rotten = disk.fork();
            rotten.overwrite(file(1), (start + offset / 512 * 512) as u64, &[0xee; 512]).expect("there");
            let (name, at) = damage(try_open(&rotten, &[]));
            assert_eq!((name, at), (file_name(1), *start), "write {i}, offset {offset}");
        }
    }
    expect(&open(&disk), GROUP, 0..6, 5000);
}

#[test]
fn of_the_last_write_before_a_kill_a_wrong_bit_is_told_from_a_torn_write_and_a_lost_sector_is_not() {
    let (disk, starts) = six_writes(false);
    let last = starts[5];
    for bit in 0..(44 + 40 + 5000) * 8 {
        // Every bit of the heads, and some of the payload.
        if bit > 84 * 8 && bit % 997 != 0 {
            continue;
        }
        let rotten = disk.fork();
        rotten.flip(file(1), (last + bit / 8) as u64, 1 << (bit % 8)).expect("there");
        assert_eq!(damage(try_open(&rotten, &[])), (file_name(1), last + bit / 8), "bit {bit}");
    }
    // This is what a torn write looks like, so the entry goes: see docs/formats.md.
    disk.overwrite(file(1), (last + 512) as u64, &[0; 512]).expect("there");
    let (wal, report) = try_open(&disk, &[]).expect("opens");
    assert!(report.torn);
    expect(&wal, GROUP, 0..5, 5000);
}

#[test]
fn after_the_seal_of_an_idle_log_even_the_last_write_cannot_rot_unseen() {
    let (disk, starts) = six_writes(true);
    disk.overwrite(file(1), (starts[5] + 512) as u64, &[0; 512]).expect("there");
    assert_eq!(damage(try_open(&disk, &[])), (file_name(1), starts[5]));
}

#[test]
fn after_a_start_everything_that_it_found_is_marked() {
    let (disk, starts) = six_writes(false);
    let wal = open(&disk);
    assert_eq!(wal.step(), Step::Wrote, "the new file says where the old one ended");
    drop(wal);
    let disk = disk.crash();
    disk.overwrite(file(1), (starts[5] + 512) as u64, &[0; 512]).expect("there");
    assert_eq!(damage(try_open(&disk, &[])), (file_name(1), starts[5]));
}

#[test]
fn a_log_that_was_stopped_says_where_it_ends_and_is_not_searched_for_more() {
    let disk = SimDisk::new(9);
    let config = WalConfig { first_file_bytes: 16 << 20, file_bytes: 16 << 20, ..config() };
    let open = |disk: &SimDisk| {
        Wal::open_stepped(Arc::new(disk.clone()), config.clone(), &RecoveryBase::default())
            .map(|(wal, _)| wal)
    };
    let wal = open(&disk).expect("opens");
    write(&wal, GROUP, 0..3, 5000);
    let killed = disk.fork();
    wal.shutdown();
    let reads = |disk: &SimDisk| {
        expect(&open(disk).expect("opens"), GROUP, 0..3, 5000);
        disk.count(Op::Read)
    };
    let stopped = disk.kill();
    let (stopped_reads, killed_reads) = (reads(&stopped.fork()), reads(&killed.kill()));
    assert!(
        stopped_reads + 2 <= killed_reads,
        "{stopped_reads} reads after a stop, {killed_reads} after a kill"
    );
    // And its last write cannot rot unseen, seal or no seal.
    let end = FILE_HEAD_BYTES + 3 * 8192;
    stopped.overwrite(file(1), end as u64, &[0; 4096]).expect("there");
    assert_eq!(damage(open(&stopped).map(|wal| (wal, RecoveryReport::default()))), (file_name(1), end));
}

#[test]
fn a_torn_tail_is_cut_once_and_never_taken_up_again() {
    let (disk, starts) = six_writes(false);
    disk.overwrite(file(1), (starts[5] + 512) as u64, &[0; 512]).expect("there");
    let wal = open(&disk);
    write(&wal, GROUP, 5..7, 700);
    drop(wal);
    let disk = disk.crash();
    let (wal, report) = try_open(&disk, &[]).expect("opens");
    assert!(!report.torn, "an old torn tail is not a new one");
    let entries = wal.group(GROUP).read(0..8, usize::MAX).expect("readable");
    let lens: Vec<usize> = entries.iter().map(|entry| entry.payload.len()).collect();
    assert_eq!(lens, [5000, 5000, 5000, 5000, 5000, 700, 700]);
}

#[test]
fn a_file_that_is_cut_short_is_judged_as_a_torn_tail_is() {
    let (disk, starts) = six_writes(false);
    let whole = disk.read_file(file(1)).expect("there");
    let cut = |len: usize| {
        let cut = disk.fork();
        cut.write_file(file(1), &whole[..len]).expect("put");
        cut
    };
    for len in [0, 100, 4095] {
        assert_eq!(damage(try_open(&cut(len), &[])), (file_name(1), 0), "cut to {len}");
    }
    for (len, entries) in
        [(4096, 0), (starts[3], 3), (starts[5] + 100, 5), (starts[5] + 5000, 5), (whole.len() - 1, 6)]
    {
        expect(&open(&cut(len)), GROUP, 0..entries, 5000);
    }
    // A log that was stopped in order, or that goes on in another file, said where it ends.
    drop(open(&disk));
    for said in [stopped(), disk] {
        let whole = said.read_file(file(1)).expect("there");
        if said.files().len() > 1 {
            open(&said).step();
        }
        said.write_file(file(1), &whole[..starts[5]]).expect("cut");
        assert_eq!(damage(try_open(&said, &[])), (file_name(1), starts[5]));
    }
}

/// What [`six_writes`] has, stopped in order.
fn stopped() -> SimDisk {
    let disk = SimDisk::new(9);
    let config = WalConfig { first_file_bytes: 64 << 10, ..config() };
    let wal = Wal::open_stepped(Arc::new(disk.clone()), config, &RecoveryBase::default()).expect("opens").0;
    write(&wal, GROUP, 0..6, 5000);
    wal.shutdown();
    disk.kill()
}

#[test]
fn an_entry_that_does_not_follow_the_one_before_it_is_damage() {
    let (disk, starts) = six_writes(false);
    let at = starts[3] + 44;
    let mut frame = disk.read_file(file(1)).expect("there")[at..at + 5040].to_vec();
    frame[32] = 1;
    let crc = layout::crc(&[&frame[..4], &frame[8..]].concat());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(file(1), at as u64, &frame).expect("there");
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
    let kept =
        |log: &mut log::Log| log.group(GROUP).slots.iter().filter(|slot| slot.payload.is_some()).count();
    assert_eq!(wal.shared.with(kept), 1);
    expect(&wal, GROUP, 0..40, 3000);
    expect(&wal, OTHER, 0..1, 100);
}

#[test]
fn a_log_whose_last_file_is_full_starts_on_a_full_disk_with_a_spare_file() {
    let disk = SimDisk::new(2);
    let wal = open(&disk);
    write(&wal, GROUP, 0..40, 6000);
    wal.group(GROUP).purge(LogId::new(1, 35)).expect("purged");
    assert!(wal.reclaim().expect("reclaimed") > 1);
    drop(wal);
    let disk = disk.kill();
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_capacity(Some(used as u64));
    let wal = open(&disk);
    write(&wal, GROUP, 40..41, 6000);
    expect(&wal, GROUP, 36..41, 6000);
}

#[test]
fn a_header_that_rots_is_damage() {
    let (disk, _) = six_writes(false);
    for offset in [0, 9, 25, 35, 41] {
        let rotten = disk.fork();
        rotten.flip(file(1), offset, 0x10).expect("there");
        assert_eq!(damage(try_open(&rotten, &[])), (file_name(1), 0));
    }
}

/// A log of several files, the oldest of which were used again.
fn many_files() -> SimDisk {
    let disk = SimDisk::new(3);
    let wal = open(&disk);
    write(&wal, GROUP, 0..30, 6000);
    wal.group(GROUP).purge(LogId::new(1, 11)).expect("purged");
    assert!(wal.reclaim().expect("reclaimed") > 0);
    write(&wal, GROUP, 30..60, 6000);
    while wal.step_prepare() {}
    wal.step_seal();
    drop(wal);
    disk.kill()
}

fn log_files(disk: &SimDisk) -> Vec<u64> {
    let names = disk.files().into_keys();
    names.filter_map(|path| layout::file_seq(path.file_name()?.to_str()?)).collect()
}

#[test]
fn a_file_that_is_missing_anywhere_is_noticed() {
    let disk = many_files();
    let seqs = log_files(&disk);
    assert!(seqs.len() >= 6 && seqs[0] > 1, "{seqs:?}");
    for &seq in &seqs[..seqs.len() - 1] {
        let disk = disk.fork();
        disk.remove(&file(seq)).expect("removed");
        let result = try_open(&disk, &[]).map(|_| ());
        if seq == seqs[0] {
            assert!(
                matches!(result, Err(OpenError::EntriesMissing { group: GROUP, first: 12, .. })),
                "{result:?}"
            );
        } else {
            assert_eq!(result, Err(OpenError::Missing { file: file_name(seq) }));
        }
        assert_eq!(log_files(&disk).len(), seqs.len() - 1, "nothing else is touched");
    }
    expect(&open(&disk), GROUP, 12..60, 6000);
}

#[test]
fn a_log_that_is_gone_is_not_a_new_one_while_the_runs_have_entries() {
    let disk = many_files();
    let seqs = log_files(&disk);
    let last = seqs[seqs.len() - 1];
    for seq in &seqs[..seqs.len() - 1] {
        disk.remove(&file(*seq)).expect("removed");
    }
    let only_a_ready_file = try_open(&disk.fork(), &[]).map(|_| ());
    assert_eq!(only_a_ready_file, Err(OpenError::Missing { file: file_name(last - 1) }));
    disk.remove(&file(last)).expect("removed");
    let empty = try_open(&disk, &[(GROUP, 20)]).map(|_| ());
    assert_eq!(empty, Err(OpenError::GroupMissing { group: GROUP }));
    open(&SimDisk::new(4));
}

#[test]
fn a_file_of_a_newer_version_is_neither_damaged_nor_torn() {
    let (disk, starts) = six_writes(false);
    let newer = disk.fork();
    let mut head = newer.read_file(file(1)).expect("there")[..44].to_vec();
    head[7] = 2;
    let crc = layout::crc(&head[..40]);
    head[40..44].copy_from_slice(&crc.to_le_bytes());
    newer.overwrite(file(1), 0, &head).expect("there");
    let result = try_open(&newer, &[]).map(|_| ());
    assert_eq!(result, Err(OpenError::Unsupported { file: file_name(1), offset: 0, version: 2 }));
    // The same for a frame: the last one, where a torn tail would be cut.
    let at = starts[5] + 44;
    let mut frame = disk.read_file(file(1)).expect("there")[at..at + 5040].to_vec();
    frame[8] = 77;
    let crc = layout::crc(&[&frame[..4], &frame[8..]].concat());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(file(1), at as u64, &frame).expect("there");
    let result = try_open(&disk, &[]).map(|_| ());
    assert_eq!(result, Err(OpenError::Unsupported { file: file_name(1), offset: at, version: 1 }));
}

#[test]
fn what_an_earlier_life_of_a_file_left_is_never_taken_for_the_log() {
    let disk = SimDisk::new(5);
    let wal = open(&disk);
    write(&wal, GROUP, 0..60, 6000);
    wal.group(GROUP).purge(LogId::new(1, 59)).expect("purged");
    wal.reclaim().expect("reclaimed");
    drop(wal);
    // Even if the file gets the very number that it had before.
    let disk = disk.kill();
    let spare =
        disk.files().into_keys().find(|path| path.to_string_lossy().contains("spare-")).expect("one is free");
    let old = disk.read_file(&spare).expect("there");
    let wal = open(&disk);
    let current = wal.shared.with(|log| log.end().seq());
    wal.step();
    drop(wal);
    let disk = disk.kill();
    let mut mixed = disk.read_file(file(current)).expect("there");
    let seq = u64::from_le_bytes(old[8..16].try_into().expect("eight bytes"));
    assert_ne!(seq, current);
    let end = mixed.len().min(old.len());
    mixed[8192..end].copy_from_slice(&old[8192..end]);
    disk.write_file(file(current), &mixed).expect("put");
    let (wal, report) = try_open(&disk, &[]).expect("opens");
    assert!(!report.torn);
    assert_eq!(wal.group(GROUP).state().purged, Some(LogId::new(1, 59)));
}

#[test]
fn what_a_torn_write_left_in_a_file_is_not_taken_up_when_the_file_is_begun_again() {
    let disk = SimDisk::new(5);
    let config = WalConfig { chunk_bytes: 16 << 10, ..config() };
    let open = |disk: &SimDisk| {
        Wal::open_stepped(Arc::new(disk.clone()), config.clone(), &RecoveryBase::default()).expect("opens").0
    };
    let wal = open(&disk);
    write(&wal, GROUP, 0..2, 100);
    // One write of several segments, which begins the second file; its first segment does not get there.
    append(&wal, GROUP, 2..8, 4000, &Arc::default());
    assert_eq!(wal.step(), Step::Wrote);
    assert_eq!(log_files(&disk), [1, 2]);
    drop(wal);
    let disk = disk.kill();
    disk.overwrite(file(2), FILE_HEAD_BYTES as u64, &[0; 512]).expect("there");
    let wal = open(&disk);
    let before = wal.group(GROUP).state().last.expect("the first entries").index;
    // The new first segment ends where the old second one begins.
    assert_eq!(wal.step(), Step::Wrote);
    drop(wal);
    let last = open(&disk.crash()).group(GROUP).state().last.expect("the first entries").index;
    assert_eq!(last, before, "nobody was told of the others");
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
fn a_number_of_a_life_is_never_used_twice() {
    let mut disk = SimDisk::new(6);
    let mut lives = std::collections::HashSet::new();
    let mut seen = std::collections::HashMap::new();
    for round in 0..12 {
        let wal = open(&disk);
        let end =
            wal.group(GROUP).state().last.or(wal.group(GROUP).state().purged).map_or(0, |id| id.index + 1);
        write(&wal, GROUP, end..end + 10, 5000);
        if round % 2 == 1 {
            wal.group(GROUP).purge(LogId::new(1, end + 8)).expect("purged");
            wal.reclaim().expect("reclaimed");
        }
        wal.step_prepare();
        drop(wal);
        disk = if round % 3 == 0 { disk.crash() } else { disk.kill() };
        for (path, bytes) in disk.files() {
            let layout::FileHeadRead::Good(head) = layout::FileHead::read(&bytes) else { continue };
            // The same file may be seen again, in the same life and under either name.
            if lives.insert(head.life) {
                seen.insert(head.life, head.seq);
            }
            assert_eq!(seen[&head.life], head.seq, "{}", path.display());
        }
    }
    assert!(lives.len() > 15, "{} lives", lives.len());
}

#[test]
fn what_a_killed_process_left_in_the_page_cache_counts_only_once_it_is_synced() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.set_refuses_direct(true);
        let wal = open(&disk);
        write(&wal, GROUP, 0..2, 1000);
        append(&wal, GROUP, 2..3, 1000, &Arc::default());
        // The write gets into the cache, and the process ends before the sync.
        let inside = disk.clone();
        let killed = Arc::new(Mutex::new(None));
        let slot = killed.clone();
        disk.set_hook(move |op, _| {
            let mut slot = slot.lock().expect("no panic");
            if op == Op::Sync && slot.is_none() {
                *slot = Some(inside.kill());
            }
        });
        wal.step();
        let disk = killed.lock().expect("no panic").take().expect("the process ended in a sync");
        let wal = open(&disk);
        expect(&wal, GROUP, 0..3, 1000);
        write(&wal, GROUP, 3..4, 1000);
        drop(wal);
        expect(&open(&disk.crash()), GROUP, 0..4, 1000);
    }
}

#[test]
fn a_failed_write_is_final_and_nothing_is_acknowledged_from_then_on() {
    for (op, nth) in [(Op::Write, 1), (Op::Write, 2)] {
        let disk = SimDisk::new(7);
        let failures = Arc::new(AtomicUsize::new(0));
        let count = failures.clone();
        let on_failure = Arc::new(move |failed: &WalFailed| {
            assert!(failed.file.starts_with("wal-"), "{failed}");
            count.fetch_add(1, Relaxed);
        });
        let config = WalConfig { on_failure, ..config() };
        let (wal, _) =
            Wal::open_stepped(Arc::new(disk.clone()), config, &RecoveryBase::default()).expect("opens");
        let acknowledged = Arc::default();
        disk.fail(op, "wal-", nth, io::ErrorKind::Other);
        for index in 0..4 {
            append(&wal, GROUP, index..index + 1, 500, &acknowledged);
            wal.step();
        }
        assert_eq!(acknowledged.load(Relaxed), nth as usize - 1);
        assert!(matches!(wal.step(), Step::Failed(_)));
        assert_eq!(
            wal.failed().map(|failed| failed.reason),
            Some(io::Error::from(io::ErrorKind::Other).to_string())
        );
        assert!(matches!(wal.group(GROUP).purge(LogId::new(1, 0)), Err(AppendError::Failed(_))));
        assert!(matches!(wal.group(GROUP).save_vote(b"v", |_| {}), Err(AppendError::Failed(_))));
        assert_eq!(failures.load(Relaxed), 1);
        drop(wal);
        let state = open(&disk.crash()).group(GROUP).state();
        assert!(state.last.map_or(0, |id| id.index + 1) >= nth - 1);
    }
}

#[test]
fn a_failed_sync_of_a_new_file_or_its_name_ends_the_log_and_a_full_disk_does_not() {
    for (op, part) in [(Op::SyncDir, "wal"), (Op::Write, "spare-")] {
        let disk = SimDisk::new(8);
        let wal = open(&disk);
        write(&wal, GROUP, 0..20, 6000);
        wal.group(GROUP).purge(LogId::new(1, 18)).expect("purged");
        wal.reclaim().expect("reclaimed");
        while wal.step_prepare() {}
        disk.fail(op, part, 1, io::ErrorKind::Other);
        append(&wal, GROUP, 20..80, 6000, &Arc::default());
        assert!(matches!(wal.step(), Step::Failed(_)), "{op:?}");
    }
    let disk = SimDisk::new(8);
    let wal = open(&disk);
    write(&wal, GROUP, 0..3, 6000);
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_capacity(Some(used as u64 + 5000));
    let acknowledged = Arc::default();
    append(&wal, GROUP, 3..30, 6000, &acknowledged);
    assert!(!wal.waits_for_room(), "nothing was tried yet");
    assert_eq!(wal.step(), Step::Blocked);
    assert_eq!(wal.step(), Step::Blocked);
    assert!(wal.waits_for_room());
    assert_eq!(acknowledged.load(Relaxed), 0, "nobody is told before everything in front is durable");
    let now: usize = disk.files().values().map(Vec::len).sum();
    assert_eq!(now, used, "a file that could not be made takes no room");
    disk.set_capacity(None);
    assert_eq!((wal.step(), acknowledged.load(Relaxed)), (Step::Wrote, 27));
    assert!(!wal.waits_for_room());
    drop(wal);
    expect(&open(&disk.crash()), GROUP, 0..30, 6000);
}

#[test]
fn a_log_starts_on_a_full_disk() {
    let disk = many_files();
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_capacity(Some(used as u64));
    let wal = open(&disk);
    write(&wal, GROUP, 60..61, 6000);
    expect(&wal, GROUP, 12..61, 6000);
}

#[test]
fn a_log_on_a_full_disk_stops_when_it_is_told_to() {
    let disk = SimDisk::new(8);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), config(), &RecoveryBase::default()).expect("opens");
    disk.set_capacity(Some(0));
    let (tell, told) = mpsc::channel();
    for index in 0..40 {
        let tell = tell.clone();
        wal.group(GROUP)
            .append([draft(index, 6000)], move |result| drop(tell.send(result)))
            .expect("appended");
    }
    // Not before the writer is stuck: it has told about everything that fits, and no more comes.
    wal.shutdown();
    drop(tell);
    let results: Vec<_> = told.iter().collect();
    assert_eq!(results.len(), 40, "everybody is told");
    let durable = results.iter().filter(|result| result.is_ok()).count();
    assert!(results.iter().skip(durable).all(Result::is_err), "none behind the first that is not durable");
    disk.set_capacity(None);
    let state = open(&disk.crash()).group(GROUP).state();
    assert!(state.last.map_or(0, |id| id.index + 1) >= durable as u64);
}

#[test]
fn a_file_that_is_written_again_can_never_come_back_under_its_old_name() {
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let wal = open(&disk);
        write(&wal, GROUP, 0..30, 6000);
        wal.group(GROUP).purge(LogId::new(1, 20)).expect("purged");
        wal.reclaim().expect("reclaimed");
        let spare = disk.count(Op::Rename);
        write(&wal, GROUP, 30..31 + seed % 12, 6000);
        wal.step_prepare();
        drop(wal);
        assert!(spare > 0);
        expect(&open(&disk.crash()), GROUP, 21..31 + seed % 12, 6000);
    }
}

#[test]
fn a_spare_file_of_any_content_is_used_again_and_surplus_ones_go() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("wal")).expect("made");
    disk.write_file(in_dir(&spare_name(7)), &vec![0xaa; 64 << 10]).expect("put");
    disk.write_file(in_dir(&spare_name(8)), &[0xbb; 10]).expect("put");
    disk.write_file(in_dir("fresh.tmp"), &[0xcc; 5000]).expect("put");
    let wal = open(&disk);
    write(&wal, GROUP, 0..40, 6000);
    wal.group(GROUP).purge(LogId::new(1, 39)).expect("purged");
    wal.reclaim().expect("reclaimed");
    let spares = disk.files().into_keys().filter(|path| path.to_string_lossy().contains("spare-")).count();
    assert!(spares <= config().spare_files_max, "{spares} spare files");
    drop(wal);
    assert_eq!(open(&disk.crash()).group(GROUP).state().purged, Some(LogId::new(1, 39)));
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
    let (tell, told) = mpsc::channel();
    let mut append = |index| {
        let tell = tell.clone();
        wal.group(GROUP)
            .append([draft(index, 100)], move |result| drop(tell.send(result)))
            .expect("appended");
    };
    append(0);
    inside.recv().expect("the first write is under way");
    (1..20).for_each(&mut append);
    go.send(()).expect("the writer waits");
    (0..20).for_each(|_| told.recv().expect("told").expect("durable"));
    assert_eq!(wal.stats().syncs.read().count, 2);
}

#[test]
fn short_reads_do_not_shorten_the_log() {
    let disk = many_files();
    disk.set_short_reads(true);
    expect(&open(&disk), GROUP, 12..60, 6000);
}

#[test]
fn a_sector_that_cannot_be_read_is_an_error_and_not_the_end_of_the_log() {
    let (disk, starts) = six_writes(false);
    disk.spoil(file(1), starts[5] as u64..starts[5] as u64 + 1).expect("there");
    assert!(matches!(try_open(&disk, &[]).map(|_| ()), Err(OpenError::Io { .. })));
}
