//! Every flipped bit is detected: damaged bytes are never returned, and never removed.

use super::*;

fn id(n: u64) -> PartitionId {
    PartitionId(n)
}

/// A store with a run of three partitions and a checkpoint.
fn store() -> (SimDisk, Vec<Vec<Bytes>>) {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for n in 0..9 {
        put(&tables, n, id(n % 3), batch((n / 3) as i64 * 4, 4, 30, n as i64));
    }
    tables.flush().expect("flushes");
    tables.save_state(GROUP, LogId::new(1, 8), b"the state of a machine").expect("saved");
    let all = (0..3).map(|n| fetch_all(&tables, id(n), 0, 200).expect("reads")).collect();
    (disk, all)
}

#[test]
fn a_flipped_byte_anywhere_in_a_run_is_damage_in_one_partition_or_stops_the_start() {
    let (disk, whole) = store();
    let run = run_files(&disk)[0].clone();
    let len = disk.read_file(&run).expect("readable").len() as u64;
    let mut damaged_parts = 0;
    for at in 0..len {
        disk.flip(&run, at, 1 << (at % 8)).expect("flipped");
        let before = disk.files();
        match Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()) {
            Err(OpenError::Damaged(damage)) => assert_eq!(damage.file, run.display().to_string(), "{at}"),
            Err(other) => panic!("{at}: {other}"),
            Ok((tables, _)) => {
                let reads: Vec<_> = (0..3).map(|n| fetch_all(&tables, id(n), 0, 200)).collect();
                let damaged = reads.iter().filter(|read| read.is_err()).count();
                assert_eq!(damaged, 1, "byte {at} of {len}: {reads:?}");
                damaged_parts += 1;
                for (n, read) in reads.into_iter().enumerate() {
                    match read {
                        Ok(batches) => assert_eq!(batches, whole[n], "{at}"),
                        Err(ReadError::Damaged { partition, damage }) => {
                            assert_eq!((partition, damage.file), (id(n as u64), run.display().to_string()));
                            assert!(
                                damage.offset <= at && at < damage.offset + 1000,
                                "{at}: {}",
                                damage.offset
                            );
                        }
                        Err(other) => panic!("{at}: {other}"),
                    }
                }
            }
        }
        assert!(disk.files() == before, "{at}: something was changed or removed");
        disk.flip(&run, at, 1 << (at % 8)).expect("flipped back");
    }
    let data: usize = whole.iter().flatten().map(Bytes::len).sum();
    assert_eq!(damaged_parts, data, "every byte of a batch is read, and no other one");
}

#[test]
fn a_flipped_byte_anywhere_in_the_manifest_stops_the_start() {
    let (disk, _) = store();
    let len = disk.read_file("tables/manifest").expect("readable").len() as u64;
    for at in 0..len {
        disk.flip("tables/manifest", at, 0x80).expect("flipped");
        let opened = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny());
        assert!(matches!(opened, Err(OpenError::Damaged(_))), "{at}");
        disk.flip("tables/manifest", at, 0x80).expect("flipped back");
    }
    open(&disk);
}

#[test]
fn a_flipped_byte_anywhere_in_a_checkpoint_is_an_error_and_not_an_absence() {
    let (disk, _) = store();
    let path = "tables/checkpoint-00000001";
    let len = disk.read_file(path).expect("readable").len() as u64;
    for at in 0..len {
        disk.flip(path, at, 1).expect("flipped");
        let loaded = open(&disk).load_state(GROUP);
        assert!(matches!(loaded, Err(CheckpointError::Damaged { group: GROUP, .. })), "{at}: {loaded:?}");
        disk.flip(path, at, 1).expect("flipped back");
    }
    assert!(open(&disk).load_state(GROUP).expect("loads").is_some());
}

#[test]
fn a_run_that_is_cut_or_gone_or_another_one_stops_the_start() {
    let (disk, _) = store();
    let run = run_files(&disk)[0].clone();
    let whole = disk.read_file(&run).expect("readable");
    let opened = || Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).map(drop);
    for len in [0, 100, whole.len() - 4096, whole.len() - 1] {
        disk.write_file(&run, &whole[..len]).expect("written");
        assert!(matches!(opened(), Err(OpenError::Damaged(_))), "{len}");
    }
    // A whole run, but not the one that the manifest names.
    let (other, _) = {
        let disk = SimDisk::new(2);
        let tables = open(&disk);
        put(&tables, 0, id(0), batch(0, 4, 30, 1));
        tables.flush().expect("flushes");
        (disk.read_file(&run).expect("readable"), ())
    };
    disk.write_file(&run, &other).expect("written");
    assert!(matches!(opened(), Err(OpenError::Damaged(_))));
    disk.write_file(&run, &whole).expect("written");
    opened().expect("opens");
}

#[test]
fn a_merge_leaves_a_damaged_run_alone_and_goes_on_with_the_others() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for n in 0..8 {
        put(&tables, n * 2, id(0), batch(n as i64, 1, 30, 1));
        put(&tables, n * 2 + 1, id(1), batch(n as i64, 1, 30, 1));
        tables.flush().expect("flushes");
    }
    let runs = run_files(&disk);
    disk.flip(&runs[1], 50, 1).expect("flipped");
    let error = tables.merge_once(&keep).expect_err("the damage is reported");
    assert!(matches!(error, MergeError::Read(ReadError::Damaged { .. })), "{error}");
    tables.validate();
    merge_all(&tables, &keep);
    assert!(run_files(&disk).contains(&runs[1]), "what is damaged is not removed");
    assert!(run_files(&disk).len() < 8, "the others are merged");
    assert_eq!(fetch_all(&tables, id(1), 0, 400).expect("reads").len(), 8);
    assert!(fetch_all(&tables, id(0), 0, 400).is_err());
    assert_eq!(fetch_all(&tables, id(0), 2, 400).expect("reads").len(), 6);
}

#[test]
fn a_part_that_the_disk_cannot_read_is_told_and_the_others_come() {
    let (disk, whole) = store();
    let run = run_files(&disk)[0].clone();
    let tables = open(&disk);
    // Retried once, without read-ahead.
    for _ in 0..2 {
        disk.fail(crate::disk::sim::Op::Read, "run-", 1, std::io::ErrorKind::Other);
    }
    let error = fetch_all(&tables, id(1), 0, 200).expect_err("the disk refuses");
    let ReadError::Disk { partition, error } = error else { panic!("{error}") };
    assert_eq!((partition, error.file), (id(1), run.display().to_string()));
    assert_eq!(fetch_all(&tables, id(0), 0, 200).as_ref(), Ok(&whole[0]));
    assert_eq!(fetch_all(&tables, id(1), 0, 200).as_ref(), Ok(&whole[1]), "it can again");
}

#[test]
fn what_lies_in_front_of_damage_is_given() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    let all: Vec<StoredBatch> = (0..20).map(|n| batch(n * 5, 5, 40, 1)).collect();
    all.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
    tables.flush().expect("flushes");
    let at: usize = all[..10].iter().map(|batch| batch.bytes.len()).sum();
    disk.flip(&run_files(&disk)[0], 32 + at as u64 + 30, 4).expect("flipped");
    let tables = open(&disk);
    let mut offset = 0;
    let error = loop {
        match tables.read_runs(P1, offset, 100_000) {
            Ok(slices) => {
                let last = batches_of(&slices).pop().expect("a batch");
                offset = BatchHeader::parse(&last).expect("a header").next_offset();
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Damaged { partition: P1, .. }), "{error}");
    assert_eq!(offset, 50, "everything in front of it");
    assert_eq!(
        batches_of(&tables.read_runs(P1, 55, 100_000).expect("reads")).len(),
        9,
        "and what lies behind"
    );
}

#[test]
fn a_full_check_finds_each_flipped_byte_and_changes_nothing() {
    let (disk, whole) = store();
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let good = verify(&as_disk);
    let batches: Vec<&Bytes> = whole.iter().flatten().collect();
    let bytes: usize = batches.iter().map(|batch| batch.len()).sum();
    assert_eq!((good.runs, good.partitions, good.checkpoints), (1, 3, 1));
    assert_eq!((good.batches, good.bytes), (batches.len() as u64, bytes as u64));
    assert_eq!(good.findings, []);
    for (path, content) in disk.files() {
        for at in (0..content.len() as u64).step_by(7) {
            disk.flip(&path, at, 8).expect("flipped");
            let before = disk.files();
            let found = verify(&as_disk).findings;
            assert!(!found.is_empty(), "{} at {at}", path.display());
            // Without a manifest no run is known, so nothing else is found.
            assert!(
                found[0].to_string().contains(&path.display().to_string()),
                "{} at {at}: {found:?}",
                path.display()
            );
            assert!(disk.files() == before);
            disk.flip(&path, at, 8).expect("flipped back");
        }
    }
    disk.write_file("tables/run-00000000000000ff.run", b"half a run").expect("written");
    let stray = Finding::Stray { file: "tables/run-00000000000000ff.run".to_string() };
    assert_eq!(verify(&as_disk).findings, [stray]);
}
