//! Single operations.

use super::*;

#[test]
fn tails_come_from_memory_and_the_rest_from_runs() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for n in 0..10 {
        put(&tables, n, P1, batch(n as i64 * 10, 10, 20, 1000 + n as i64));
    }
    assert_eq!(tables.read_memory(P1, 0, 1).hits(), [0]);
    assert_eq!(tables.read_memory(P1, 95, usize::MAX).hits(), [90]);
    assert_eq!(tables.read_memory(P1, 100, usize::MAX), MemoryRead::Empty);
    assert_eq!(tables.read_memory(PartitionId(9), 0, 10), MemoryRead::Older);
    let flushed = tables.flush().expect("flushes");
    assert_eq!(flushed.groups, [(GROUP, LogId::new(1, 9))]);
    assert_eq!(tables.read_memory(P1, 0, 1), MemoryRead::Older);
    put(&tables, 10, P1, batch(100, 1, 20, 5));
    assert_eq!(tables.read_memory(P1, 99, 1), MemoryRead::Older);
    assert_eq!(tables.read_memory(P1, 100, 1).hits(), [100]);
    assert_eq!(
        bases(&fetch_all(&tables, P1, 0, 500).expect("reads")),
        (0..=10).map(|n| n * 10).collect::<Vec<_>>()
    );
}

trait Hits {
    fn hits(self) -> Vec<i64>;
}
impl Hits for MemoryRead {
    fn hits(self) -> Vec<i64> {
        match self {
            MemoryRead::Hit(batches) => bases(&batches),
            other => panic!("{other:?}"),
        }
    }
}

fn bases(batches: &[Bytes]) -> Vec<i64> {
    batches.iter().map(|batch| BatchHeader::parse(batch).expect("a header").base_offset).collect()
}

#[test]
fn a_read_in_the_middle_of_a_batch_gives_the_whole_batch_and_a_large_first_one_comes_all_the_same() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    put(&tables, 0, P1, batch(0, 5, 50, 1));
    put(&tables, 1, P1, batch(5, 50, 100, 2));
    put(&tables, 2, P1, batch(55, 5, 50, 3));
    for _ in 0..2 {
        assert_eq!(bases(&batches_of(&fetch(&tables, P1, 30, 1).expect("reads"))), [5]);
        assert_eq!(bases(&batches_of(&fetch(&tables, P1, 4, 1).expect("reads"))), [0]);
        assert_eq!(bases(&batches_of(&fetch(&tables, P1, 4, 1 << 20).expect("reads"))), [0, 5, 55]);
        tables.flush().expect("flushes");
    }
}

#[test]
fn what_is_in_the_cache_is_read_without_the_disk_and_what_is_not_does_not_block() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for n in 0..10 {
        put(&tables, n, P1, batch(n as i64 * 10, 10, 20, 1));
    }
    tables.flush().expect("flushes");
    assert_eq!(tables.read_runs_cached(P1, 0, 4000), None);
    let read = tables.read_runs(P1, 0, 4000).expect("reads");
    assert_eq!(batches_of(&read).len(), 10);
    assert!(read.len() < 10, "neighbours come as one slice");
    let before = disk.count(crate::disk::sim::Op::Read);
    let cached = tables.read_runs_cached(P1, 0, 4000).expect("in the cache");
    assert_eq!(cached, read);
    assert_eq!(disk.count(crate::disk::sim::Op::Read), before);
    assert_eq!(tables.read_runs_cached(PartitionId(5), 0, 10), Some(Vec::new()));
    let stats = tables.stats();
    assert!(stats.cache_hits > 0 && stats.cache_misses > 0 && stats.cache_bytes <= 16 << 10, "{stats:?}");
}

#[test]
fn times_are_found_over_runs_and_memory() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for (n, timestamp) in [50, 10, 70, 70, 20, 90, 30].into_iter().enumerate() {
        put(&tables, n as u64, P1, batch(n as i64 * 10, 10, 40, timestamp));
        if n == 1 || n == 4 {
            tables.flush().expect("flushes");
        }
    }
    let at = |time, log_start| {
        let found = tables.first_batch_at_or_after_time(P1, time, log_start).expect("reads");
        found.map(|batch| bases(&batches_of(&[batch]))[0])
    };
    assert_eq!((at(0, 0), at(50, 0), at(51, 0), at(70, 0)), (Some(0), Some(0), Some(20), Some(20)));
    assert_eq!((at(71, 0), at(90, 0), at(91, 0)), (Some(50), Some(50), None));
    assert_eq!((at(0, 9), at(0, 10), at(15, 15), at(60, 30)), (Some(0), Some(10), Some(20), Some(30)));
    let latest_above = |from| tables.max_timestamp_batch(P1, from).expect("reads").expect("there");
    let latest = || bases(&batches_of(&[latest_above(0)]))[0];
    assert_eq!(latest(), 50);
    tables.flush().expect("flushes");
    assert_eq!(latest(), 50);
    assert_eq!((at(71, 0), at(91, 0), at(25, 55)), (Some(50), None, Some(50)));
    assert_eq!(bases(&batches_of(&[latest_above(60), latest_above(59)])), [60, 50]);
    assert_eq!(tables.max_timestamp_batch(P1, 70), Ok(None));
    assert_eq!(tables.max_timestamp_batch(PartitionId(2), 0), Ok(None));
}

#[test]
fn pieces_tell_every_byte_once_and_as_finely_as_regions() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    let mut bytes = 0;
    for n in 0..40 {
        let batch = batch(n * 10, 10, 20, 1000 + n);
        bytes += batch.bytes.len() as u64;
        put(&tables, n as u64, P1, batch);
        if n % 15 == 14 {
            tables.flush().expect("flushes");
        }
    }
    let pieces = tables.pieces(P1);
    assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u64>(), bytes);
    assert!(pieces.len() >= 30, "{} pieces", pieces.len());
    assert!(pieces.is_sorted_by_key(|piece| piece.next_offset));
    assert!(pieces.is_sorted_by_key(|piece| piece.age_from_ms));
    assert_eq!(pieces.last().map(|piece| (piece.next_offset, piece.age_from_ms)), Some((400, 1039)));
    tables.set_log_start(P1, 200);
    let after = tables.pieces(P1);
    assert!(after.len() < pieces.len() && after[0].next_offset > 200, "{after:?}");
}

#[test]
fn what_is_applied_again_after_a_start_is_there_once() {
    let disk = SimDisk::new(1);
    let all: Vec<StoredBatch> = (0..8).map(|n| batch(n * 10, 10, 20, n)).collect();
    let tables = open(&disk);
    for (n, batch) in all.iter().enumerate().take(6) {
        put(&tables, n as u64, P1, batch.clone());
        if n == 3 {
            tables.flush().expect("flushes");
        }
    }
    drop(tables);
    let (tables, manifest) = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).expect("opens");
    assert_eq!(manifest.flushed, [(GROUP, LogId::new(1, 3))].into());
    assert_eq!(tables.read_memory(P1, 0, 1), MemoryRead::Older);
    all.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
    assert_eq!(tables.stats().ignored_batches, 4);
    assert_eq!(fetch_all(&tables, P1, 0, 300).expect("reads"), bytes_of(&all));
    tables.flush().expect("flushes");
    assert_eq!(fetch_all(&open(&disk), P1, 0, 300).expect("reads"), bytes_of(&all));
}

fn bytes_of(batches: &[StoredBatch]) -> Vec<Bytes> {
    batches.iter().map(|batch| batch.bytes.clone()).collect()
}

#[test]
fn a_flush_takes_only_entries_that_are_wholly_applied() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    put(&tables, 0, P1, batch(0, 10, 20, 1));
    tables.insert(GROUP, LogId::new(1, 1), P1, batch(10, 10, 20, 1));
    assert_eq!(tables.flush().expect("flushes").groups, [(GROUP, LogId::new(1, 0))]);
    assert_eq!(tables.read_memory(P1, 10, 1).hits(), [10]);
    tables.applied(GROUP, LogId::new(1, 1));
    assert_eq!(tables.flush().expect("flushes").groups, [(GROUP, LogId::new(1, 1))]);
    assert_eq!(tables.read_memory(P1, 10, 1), MemoryRead::Older);
}

#[test]
fn a_partition_that_moves_to_another_group_is_flushed_in_order() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    let (old, new) = (RaftGroupId(1), RaftGroupId(2));
    tables.insert(old, LogId::new(1, 5), P1, batch(0, 10, 20, 1));
    tables.insert(new, LogId::new(1, 1), P1, batch(10, 10, 20, 1));
    tables.applied(new, LogId::new(1, 1));
    // The old group's entry is not known to be complete: nothing after it may be flushed before it.
    assert_eq!(tables.flush().expect("flushes").groups, []);
    tables.applied(old, LogId::new(1, 5));
    assert_eq!(tables.flush().expect("flushes").groups, [(old, LogId::new(1, 5)), (new, LogId::new(1, 1))]);
    assert_eq!(bases(&fetch_all(&tables, P1, 0, 10).expect("reads")), [0, 10]);
}

#[test]
fn a_failed_flush_loses_nothing_and_the_next_one_does_it() {
    use crate::disk::sim::Op;
    let all: Vec<StoredBatch> = (0..8).map(|n| batch(n * 10, 10, 20, n)).collect();
    for op in [Op::Open, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
        for nth in 1..3 {
            let disk = SimDisk::new(7);
            let tables = open(&disk);
            all.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
            disk.fail(op, "", nth, std::io::ErrorKind::Other);
            let first = tables.flush();
            assert!(first.is_err() || nth == 2, "{op:?} {nth}");
            assert_eq!(fetch_all(&tables, P1, 0, 300).expect("reads"), bytes_of(&all));
            tables.flush().expect("the second try");
            assert_eq!(tables.stats().memtable_bytes, 0);
            assert_eq!(fetch_all(&tables, P1, 0, 300).expect("reads"), bytes_of(&all));
            tables.validate();
            drop(tables);
            let disk = disk.crash();
            let tables = open(&disk);
            assert_eq!(fetch_all(&tables, P1, 0, 300).expect("reads"), bytes_of(&all));
            assert_eq!(run_files(&disk).len(), 1, "{op:?} {nth}");
        }
    }
}

#[test]
fn a_manifest_of_which_it_is_not_known_whether_it_is_there_names_only_what_is_there() {
    use crate::disk::sim::Op;
    let all: Vec<StoredBatch> = (0..8).map(|n| batch(n * 10, 10, 20, n)).collect();
    let mut outcomes = Vec::new();
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let tables = open(&disk);
        all.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
        // A manifest's rename and the sync after it: either may or may not have taken effect.
        let (op, nth) = if seed % 2 == 0 { (Op::Rename, 1) } else { (Op::SyncDir, 2) };
        disk.fail(op, "", nth, std::io::ErrorKind::Other);
        tables.flush().expect_err("an injected fault");
        drop(tables);
        let (tables, manifest) = Tables::open(Arc::new(disk.kill()), TablesConfig::tiny()).expect("opens");
        outcomes.push(manifest.runs());
        all.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
        assert_eq!(fetch_all(&tables, P1, 0, 300).expect("reads"), bytes_of(&all));
    }
    assert!(outcomes.contains(&0) && outcomes.contains(&1), "{outcomes:?}");
}

#[test]
fn more_runs_than_files_may_be_open_are_read_all_the_same() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    let all: Vec<StoredBatch> = (0..300).map(|n| batch(n * 2, 2, 5, n)).collect();
    for (n, batch) in all.iter().enumerate() {
        put(&tables, n as u64, P1, batch.clone());
        tables.flush().expect("flushes");
    }
    assert_eq!(fetch_all(&tables, P1, 0, 1000).expect("reads"), bytes_of(&all));
    drop(tables);
    assert_eq!(fetch_all(&open(&disk), P1, 0, 1000).expect("reads"), bytes_of(&all));
    disk.flip(&run_files(&disk)[123], 5000, 1).expect_err("a small run");
    disk.flip(&run_files(&disk)[123], 4095, 1).expect("flipped");
    let error = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).err();
    assert!(matches!(error, Some(OpenError::Damaged(Damage { file, .. })) if file.contains("7b")));
}

#[test]
fn large_parts_have_large_regions_and_small_ones_have_small_ones() {
    let disk = SimDisk::new(1);
    let larger =
        TablesConfig { part_bytes_max: 1 << 20, memtable_bytes_max: 1 << 20, ..TablesConfig::tiny() };
    let (tables, _) = Tables::open(Arc::new(disk.clone()), larger).expect("opens");
    for n in 0..600 {
        put(&tables, n, P1, batch(n as i64, 1, 200, 1));
        if n < 20 {
            put(&tables, n, PartitionId(2), batch(n as i64, 1, 200, 1));
        }
    }
    tables.flush().expect("flushes");
    let region_bytes = |id| {
        tables.directory.look(id, |parts, _| {
            assert_eq!(parts.len(), 1);
            parts[0].bytes / parts[0].regions
        })
    };
    // The bound of TablesConfig::tiny() is 300 bytes for small parts, and four times that.
    assert!((300..600).contains(&region_bytes(PartitionId(2))), "{}", region_bytes(PartitionId(2)));
    assert!((1200..1500).contains(&region_bytes(P1)), "{}", region_bytes(P1));
    assert_eq!(fetch_all(&tables, P1, 0, 3000).expect("reads").len(), 600);
}

#[test]
fn a_checkpoint_flushes_what_it_counts_on_and_an_older_one_does_not_replace_it() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    assert_eq!(tables.load_state(GROUP), Ok(None));
    put(&tables, 0, P1, batch(0, 10, 20, 1));
    tables.save_state(GROUP, LogId::new(1, 0), b"state").expect("saved");
    assert_eq!(tables.read_memory(P1, 0, 1), MemoryRead::Older, "the batch is in a run");
    put(&tables, 1, P1, batch(10, 10, 20, 1));
    tables.save_state(GROUP, LogId::new(1, 1), b"newer").expect("saved");
    let flushes = tables.stats().flushes;
    tables.save_state(GROUP, LogId::new(1, 0), b"older").expect("ignored");
    tables.save_state(RaftGroupId(0), LogId::new(4, 4), b"cluster").expect("saved");
    assert_eq!(tables.stats().flushes, flushes, "nothing was in memory only");
    let check = |tables: Tables| {
        let loaded = |group| tables.load_state(group).expect("loads").expect("there");
        assert_eq!(loaded(GROUP), (LogId::new(1, 1), Bytes::from_static(b"newer")));
        assert_eq!(loaded(RaftGroupId(0)), (LogId::new(4, 4), Bytes::from_static(b"cluster")));
    };
    check(tables);
    check(open(&disk.crash()));
}

#[test]
fn a_store_whose_manifest_is_gone_is_not_taken_for_a_new_one() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    put(&tables, 0, P1, batch(0, 10, 20, 1));
    tables.flush().expect("flushes");
    drop(tables);
    let before = disk.files();
    disk.remove(Path::new("tables/manifest")).expect("removed");
    let error = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).err();
    assert_eq!(error, Some(OpenError::Missing { file: "tables/manifest".to_string() }));
    assert_eq!(disk.files().len(), before.len() - 1, "nothing else was touched");

    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("wal")).expect("made");
    disk.write_file("wal/wal-0000000000000001.log", b"entries").expect("written");
    assert!(matches!(Tables::open(Arc::new(disk), TablesConfig::tiny()), Err(OpenError::Missing { .. })));
}

#[test]
fn runs_that_no_manifest_names_are_removed_only_when_everything_else_is_there() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    put(&tables, 0, P1, batch(0, 10, 20, 1));
    tables.flush().expect("flushes");
    drop(tables);
    let run = run_files(&disk)[0].clone();
    let bytes = disk.read_file(&run).expect("readable");
    disk.write_file("tables/run-00000000000000ff.run", b"half a run").expect("written");
    disk.flip(&run, 40, 1).expect("flipped");
    disk.remove(&run).expect("removed");
    assert!(matches!(
        Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()),
        Err(OpenError::Missing { .. })
    ));
    assert_eq!(run_files(&disk).len(), 1, "the stray stays while something is missing");
    disk.write_file(&run, &bytes).expect("written");
    let tables = open(&disk);
    assert_eq!(run_files(&disk), [run]);
    assert_eq!(bases(&fetch_all(&tables, P1, 0, 300).expect("reads")), [0]);
    put(&tables, 1, P1, batch(10, 10, 20, 1));
    tables.flush().expect("flushes");
    assert!(run_files(&disk)[1].ends_with("run-0000000000000100.run"), "no id is used twice");
}

#[test]
fn a_store_on_the_real_disk_opens_again() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let all: Vec<StoredBatch> = (0..50).map(|n| batch(n * 10, 10, 100, n)).collect();
    for round in 0..3 {
        let disk = Arc::new(crate::disk::OsDisk::new(dir.path()).expect("a directory"));
        let (tables, _) = Tables::open(disk, TablesConfig::tiny()).expect("opens");
        all.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
        assert_eq!(tables.stats().ignored_batches, if round == 0 { 0 } else { 50 });
        tables.flush().expect("flushes");
        assert_eq!(fetch_all(&tables, P1, 0, 2000).expect("reads"), bytes_of(&all));
        tables.save_state(GROUP, LogId::new(1, 49), b"state").expect("saved");
        merge_all(&tables, &keep);
    }
}

#[test]
fn a_run_of_several_writes_is_whole() {
    let disk = SimDisk::new(1);
    let (tables, _) = Tables::open(Arc::new(disk.clone()), TablesConfig::default()).expect("opens");
    let mut expected = Vec::new();
    for n in 0..40u64 {
        let batch = batch(n as i64 * 10, 10, 1000 * (n as usize % 17), 1);
        put(&tables, n, P1, batch.clone());
        expected.push(batch);
    }
    tables.flush().expect("flushes");
    assert!(tables.stats().run_bytes > 2 << 20, "{:?}", tables.stats());
    assert_eq!(verify(&(Arc::new(disk.clone()) as Arc<dyn Disk>)).findings, []);
    assert_eq!(fetch_all(&tables, P1, 0, 300_000).expect("reads"), bytes_of(&expected));
}

#[test]
fn the_largest_timestamp_is_found_without_reading_everything() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for n in 0..60 {
        put(&tables, n, P1, batch(n as i64 * 10, 10, 40, 1000 + n as i64));
    }
    tables.flush().expect("flushes");
    let latest = tables.max_timestamp_batch(P1, 0).expect("reads").expect("there");
    assert_eq!(bases(&[latest]), [590]);
    let stats = tables.stats();
    assert!(stats.read_bytes * 5 < stats.run_bytes, "{stats:?}");
    let found = tables.first_batch_at_or_after_time(P1, 1040, 0).expect("reads").expect("there");
    assert_eq!(bases(&[found]), [400]);
    assert!(tables.stats().read_bytes * 3 < stats.run_bytes, "{:?}", tables.stats());
}
