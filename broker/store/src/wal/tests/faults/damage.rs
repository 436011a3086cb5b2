//! Bytes that differ from what was written: bit rot is distinguished from a torn write.

use super::*;
use crate::wal::layout::FILE_HEAD_BYTES;

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
    // A torn write looks the same, so the entry is dropped: see docs/formats.md.
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
    // Rot in its last write is detected, with or without a seal.
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
    // A log that was stopped cleanly, or that continues in another file, has recorded where it ends.
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

#[test]
fn a_header_that_rots_is_damage() {
    let (disk, _) = six_writes(false);
    for offset in [0, 9, 25, 35, 41] {
        let rotten = disk.fork();
        rotten.flip(file(1), offset, 0x10).expect("there");
        assert_eq!(damage(try_open(&rotten, &[])), (file_name(1), 0));
    }
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
