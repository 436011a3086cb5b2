//! One test for each failure mode of a log, over the simulated disk.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    disk::sim::{Op, SimDisk},
    wal::{
        layout::{file_name, in_dir},
        sim_tests::config,
        *,
    },
};

mod damage;
mod disk;
mod entries;
mod files;
mod power;

const GROUP: RaftGroupId = RaftGroupId(1);
const OTHER: RaftGroupId = RaftGroupId(2);

fn try_open(disk: &SimDisk, flushed: &[(RaftGroupId, u64)]) -> Result<(Wal, RecoveryReport), OpenError> {
    let base = RecoveryBase { flushed: flushed.iter().copied().collect() };
    Wal::open_stepped(Arc::new(disk.clone()), config(), &base)
}

fn open(disk: &SimDisk) -> Wal {
    try_open(disk, &[]).unwrap_or_else(|e| panic!("{e}")).0
}

fn draft(index: u64, bytes: usize) -> Draft<Bytes> {
    Draft { id: LogId::new(1, index), kind: 1, payload: Bytes::from(vec![index as u8; bytes]) }
}

/// Appends entries without writing them; the counter goes up when they are acknowledged.
fn append(wal: &Wal, group: RaftGroupId, indexes: Range<u64>, bytes: usize, acknowledged: &Arc<AtomicUsize>) {
    for index in indexes {
        let acknowledged = acknowledged.clone();
        let done = move |result: Result<(), WalFailed>| {
            if result.is_ok() {
                acknowledged.fetch_add(1, Relaxed);
            }
        };
        // An error means that the log has failed: nothing is acknowledged.
        let _ = wal.group(group).append([draft(index, bytes)], done);
    }
}

/// Appends entries, each with its own write.
fn write(wal: &Wal, group: RaftGroupId, indexes: Range<u64>, bytes: usize) {
    for index in indexes {
        let acknowledged = Arc::default();
        append(wal, group, index..index + 1, bytes, &acknowledged);
        assert_eq!((wal.step(), acknowledged.load(Relaxed)), (Step::Wrote, 1), "entry {index}");
    }
}

/// Asserts that the group has exactly these entries, all of `bytes`.
fn expect(wal: &Wal, group: RaftGroupId, indexes: Range<u64>, bytes: usize) {
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

/// A log with six acknowledged writes of two blocks each, its disk, and where each begins.
fn log_of_six_writes() -> (Wal, SimDisk, Vec<usize>) {
    let disk = SimDisk::new(9);
    let config = WalConfig { first_file_bytes: 64 << 10, ..config() };
    let wal = Wal::open_stepped(Arc::new(disk.clone()), config, &RecoveryBase::default()).expect("opens").0;
    let mut starts = Vec::new();
    for index in 0..6 {
        starts.push(wal.shared.with(|log| log.end().offset()));
        write(&wal, GROUP, index..index + 1, 5000);
    }
    (wal, disk, starts)
}

/// The disk of [`log_of_six_writes`], killed right after them, and where each begins.
fn six_writes(sealed: bool) -> (SimDisk, Vec<usize>) {
    let (wal, disk, starts) = log_of_six_writes();
    if sealed {
        assert_eq!(wal.step_seal(), Step::Wrote);
    }
    drop(wal);
    (disk.kill(), starts)
}

/// The same, stopped cleanly.
fn stopped() -> SimDisk {
    let (wal, disk, _) = log_of_six_writes();
    wal.shutdown();
    disk.kill()
}

/// Changes the frame of [`six_writes`] at `at`, and corrects its checksum.
fn forge_frame(disk: &SimDisk, at: usize, change: impl FnOnce(&mut [u8])) {
    let mut frame = disk.read_file(file(1)).expect("there")[at..at + 5040].to_vec();
    change(&mut frame);
    let crc = layout::crc(&[&frame[..4], &frame[8..]].concat());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(file(1), at as u64, &frame).expect("there");
}

/// A log of several files, the oldest of which were recycled.
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
