//! Files that are missing, recycled, or left by something else.

use std::path::Path;

use super::*;
use crate::wal::layout::{FILE_HEAD_BYTES, spare_name};

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
    forge_frame(&disk, at, |frame| frame[8] = 77);
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
    // Even if the file gets the same number as before.
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
    // One write of several segments, which begins the second file; its first segment is not written.
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
    assert_eq!(last, before, "the others were not acknowledged");
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
