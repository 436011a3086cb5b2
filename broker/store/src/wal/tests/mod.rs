//! The log through its public interface: what was acknowledged comes back, and damage is distinguished from a
//! torn tail.

use std::{
    fs::{self, OpenOptions},
    ops::Range,
    os::unix::fs::FileExt,
    sync::mpsc,
};

use tempfile::TempDir;

use super::{
    layout::{FILE_HEAD_BYTES, FileHead},
    *,
};
use crate::disk::OsDisk;

// The control switches these off on purpose; a separate simulation shows that this is caught.
#[cfg(not(feature = "unsafe-ack-before-sync"))]
mod faults;

const GROUP: RaftGroupId = RaftGroupId(3);

fn config() -> WalConfig {
    WalConfig {
        file_bytes: 256 << 10,
        first_file_bytes: 64 << 10,
        chunk_bytes: 64 << 10,
        ..WalConfig::default()
    }
}

fn open(dir: &TempDir) -> Result<(Wal, RecoveryReport), OpenError> {
    let disk = Arc::new(OsDisk::new(dir.path()).expect("a directory"));
    Wal::open(disk, config(), &RecoveryBase::default())
}

fn append(log: &GroupLog, from: u64, count: u64, bytes: usize) {
    let (result_tx, result_rx) = mpsc::channel();
    let drafts = (from..from + count).map(|index| Draft {
        id: LogId::new(1, index),
        kind: 7,
        payload: Bytes::from(vec![index as u8; bytes]),
    });
    log.append(drafts, move |result| result_tx.send(result).expect("the test waits")).expect("an append");
    result_rx.recv().expect("an answer").expect("durable");
}

fn check(log: &GroupLog, indexes: Range<u64>, bytes: usize) {
    let entries = log.read(indexes.clone(), usize::MAX).expect("readable");
    assert_eq!(entries.len() as u64, indexes.end - indexes.start);
    for (entry, index) in entries.into_iter().zip(indexes) {
        assert_eq!((entry.id, entry.kind), (LogId::new(1, index), 7));
        assert_eq!(entry.payload, vec![index as u8; bytes]);
    }
}

#[test]
fn what_was_durable_comes_back_over_many_files_and_starts() {
    let dir = TempDir::new().expect("a directory");
    let mut next = 0u64;
    for round in 0..5 {
        let (wal, report) = open(&dir).expect("opens");
        assert_eq!(report.frames == 0, round == 0);
        let log = wal.group(GROUP);
        assert_eq!(log.state().last, next.checked_sub(1).map(|index| LogId::new(1, index)));
        check(&log, 0..next, 3000);
        append(&log, next, 100, 3000);
        next += 100;
        log.release_memory(next);
        check(&log, 0..next, 3000);
        log.shared.with(|log| log.groups.values().for_each(GroupIndexCheck::check));
    }
}

trait GroupIndexCheck {
    fn check(&self);
}
impl GroupIndexCheck for group::GroupIndex {
    fn check(&self) {
        self.validate();
    }
}

#[test]
fn votes_marks_truncations_and_purges_come_back() {
    let dir = TempDir::new().expect("a directory");
    {
        let (wal, _) = open(&dir).expect("opens");
        let log = wal.group(GROUP);
        log.save_vote(b"first", |_| {}).expect("a vote");
        append(&log, 0, 20, 10);
        log.save_committed(LogId::new(1, 15));
        log.truncate_after(Some(LogId::new(1, 17))).expect("truncated");
        log.purge(LogId::new(1, 4)).expect("purged");
        log.save_vote(b"second", |_| {}).expect("a vote");
        append(&log, 18, 1, 10);
    }
    let (wal, _) = open(&dir).expect("opens again");
    let state = wal.group(GROUP).state();
    assert_eq!(state.vote.as_deref(), Some(&b"second"[..]));
    assert_eq!(state.purged, Some(LogId::new(1, 4)));
    assert_eq!(state.last, Some(LogId::new(1, 18)));
    assert_eq!(state.committed, Some(LogId::new(1, 15)));
    check(&wal.group(GROUP), 5..19, 10);
    assert!(matches!(wal.group(GROUP).read(0..3, 10), Err(ReadError::Purged { .. })));
}

#[test]
fn files_that_nobody_needs_are_used_again_and_the_vote_stays() {
    let dir = TempDir::new().expect("a directory");
    {
        let (wal, _) = open(&dir).expect("opens");
        let log = wal.group(GROUP);
        log.save_vote(b"vote", |_| {}).expect("a vote");
        for round in 0..20 {
            append(&log, round * 100, 100, 3000);
            log.purge(LogId::new(1, round * 100 + 99)).expect("purged");
            wal.reclaim().expect("reclaimed");
        }
        assert!(wal.size_bytes() <= 2 * config().file_bytes, "{} bytes", wal.size_bytes());
    }
    let files = fs::read_dir(dir.path().join("wal")).expect("a directory").count();
    assert!(files <= 8, "{files} files for one that is needed");
    let (wal, _) = open(&dir).expect("opens again");
    let state = wal.group(GROUP).state();
    assert_eq!(state.vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(state.purged, Some(LogId::new(1, 1999)));
}

/// A directory whose log has six acknowledged appends in its first file, as a kill leaves it.
fn six_appends() -> (TempDir, std::path::PathBuf, usize) {
    let dir = TempDir::new().expect("a directory");
    let (wal, _) = open(&dir).expect("opens");
    let log = wal.group(GROUP);
    for index in 0..6 {
        append(&log, index, 1, 5000);
    }
    let end = wal.shared.with(|log| log.end().offset());
    // As if killed: no seal or shutdown touches the files.
    let copy = TempDir::new().expect("a directory");
    fs::create_dir(copy.path().join("wal")).expect("a directory");
    let path = copy.path().join("wal").join(layout::file_name(1));
    fs::copy(dir.path().join("wal").join(layout::file_name(1)), &path).expect("a copy");
    (copy, path, end)
}

#[test]
fn a_tail_that_is_torn_at_any_block_is_cut_and_everything_before_it_stays() {
    let (dir, path, end) = six_appends();
    let whole = fs::read(&path).expect("readable");
    // The last append takes two blocks.
    let head_end = end - 8192 + layout::SEGMENT_HEAD_BYTES;
    for cut in [end - 8192, head_end, end - 8000, end - 4096, end - 3200] {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        if cut == head_end {
            // As if torn in the last byte of the head's checksum, so that only one bit of it is wrong.
            torn[cut - 1] ^= 1;
        }
        fs::write(&path, &torn).expect("writable");
        fs::read_dir(dir.path().join("wal")).expect("a directory").flatten().for_each(|entry| {
            if entry.path() != path {
                fs::remove_file(entry.path()).expect("removable");
            }
        });
        let (wal, _) = open(&dir).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        check(&wal.group(GROUP), 0..5, 5000);
        assert_eq!(wal.group(GROUP).state().last, Some(LogId::new(1, 4)), "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_in_the_middle_is_damage_and_nothing_is_changed() {
    let (dir, path, end) = six_appends();
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
    for at in [FILE_HEAD + 10, FILE_HEAD + 300, FILE_HEAD + 8192 + 50, end - 3 * 8192 + 60] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).expect("readable");
        file.write_all_at(&[byte[0] ^ 4], at as u64).expect("writable");
        let before = fs::read(&path).expect("readable");
        match open(&dir).err() {
            Some(OpenError::Damaged { file, offset, .. }) => {
                assert_eq!(file, layout::file_name(1));
                assert!(offset <= at && at < offset + 8192, "flipped {at}, reported {offset}");
            }
            other => panic!("flipped {at}: {other:?}"),
        }
        assert_eq!(fs::read(&path).expect("readable"), before);
        file.write_all_at(&byte, at as u64).expect("writable");
    }
    open(&dir).expect("the undamaged log opens");
}

const FILE_HEAD: usize = layout::FILE_HEAD_BYTES;

#[test]
fn a_missing_file_in_the_middle_is_named() {
    let dir = TempDir::new().expect("a directory");
    {
        let (wal, _) = open(&dir).expect("opens");
        append(&wal.group(GROUP), 0, 400, 3000);
    }
    fs::remove_file(dir.path().join("wal").join(layout::file_name(2))).expect("removable");
    assert_eq!(open(&dir).err(), Some(OpenError::Missing { file: layout::file_name(2) }));
}

#[test]
fn an_entry_that_does_not_follow_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let (wal, _) = open(&dir).expect("opens");
    let log = wal.group(GROUP);
    append(&log, 0, 3, 10);
    let draft = Draft { id: LogId::new(1, 7), kind: 0, payload: Bytes::new() };
    let refused = log.append([draft], |_| {});
    assert_eq!(refused, Err(AppendError::Gap { group: GROUP, index: 7, expected: 3 }));
}

#[test]
fn a_file_with_the_number_that_no_log_file_has_is_passed_over() {
    let dir = TempDir::new().expect("a directory");
    let mut bytes = vec![0; 64 << 10];
    FileHead { seq: 0, file_bytes: 64 << 10, life: 1, closed_at: 0 }.write(&mut bytes[..FILE_HEAD_BYTES]);
    fs::create_dir(dir.path().join("wal")).expect("made");
    fs::write(dir.path().join("wal").join("wal-0000000000000000.log"), bytes).expect("written");
    let (wal, report) = open(&dir).expect("opens");
    assert_eq!(report.frames, 0);
    append(&wal.group(GROUP), 0, 1, 10);
}
