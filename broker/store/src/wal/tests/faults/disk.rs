//! A disk that fails or is full.

use std::{io, sync::mpsc};

use super::*;

fn used_bytes(disk: &SimDisk) -> u64 {
    disk.files().values().map(|bytes| bytes.len() as u64).sum()
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
    disk.set_capacity(Some(used_bytes(&disk)));
    let wal = open(&disk);
    write(&wal, GROUP, 40..41, 6000);
    expect(&wal, GROUP, 36..41, 6000);
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
    let used = used_bytes(&disk);
    disk.set_capacity(Some(used + 5000));
    let acknowledged = Arc::default();
    append(&wal, GROUP, 3..30, 6000, &acknowledged);
    assert!(!wal.waits_for_room(), "nothing was tried yet");
    assert_eq!(wal.step(), Step::Blocked);
    assert_eq!(wal.step(), Step::Blocked);
    assert!(wal.waits_for_room());
    assert_eq!(
        acknowledged.load(Relaxed),
        0,
        "no append is acknowledged before everything before it is durable"
    );
    assert_eq!(used_bytes(&disk), used, "a file that could not be made takes no room");
    disk.set_capacity(None);
    assert_eq!((wal.step(), acknowledged.load(Relaxed)), (Step::Wrote, 27));
    assert!(!wal.waits_for_room());
    drop(wal);
    expect(&open(&disk.crash()), GROUP, 0..30, 6000);
}

#[test]
fn a_log_starts_on_a_full_disk() {
    let disk = many_files();
    disk.set_capacity(Some(used_bytes(&disk)));
    let wal = open(&disk);
    write(&wal, GROUP, 60..61, 6000);
    expect(&wal, GROUP, 12..61, 6000);
}

#[test]
fn a_log_on_a_full_disk_stops_when_it_is_told_to() {
    let disk = SimDisk::new(8);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), config(), &RecoveryBase::default()).expect("opens");
    disk.set_capacity(Some(0));
    let (result_tx, result_rx) = mpsc::channel();
    for index in 0..40 {
        let result_tx = result_tx.clone();
        wal.group(GROUP)
            .append([draft(index, 6000)], move |result| drop(result_tx.send(result)))
            .expect("appended");
    }
    // Not before the writer is stuck: it has acknowledged everything that fits, and nothing more arrives.
    wal.shutdown();
    drop(result_tx);
    let results: Vec<_> = result_rx.iter().collect();
    assert_eq!(results.len(), 40, "every append gets a result");
    let durable = results.iter().filter(|result| result.is_ok()).count();
    assert!(results.iter().skip(durable).all(Result::is_err), "none behind the first that is not durable");
    disk.set_capacity(None);
    let state = open(&disk.crash()).group(GROUP).state();
    assert!(state.last.map_or(0, |id| id.index + 1) >= durable as u64);
}
