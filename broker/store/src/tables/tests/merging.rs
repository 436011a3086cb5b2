//! How merges treat many small parts, few large ones, and dead ones.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

fn id(n: u64) -> PartitionId {
    PartitionId(n)
}

/// Flushes `rounds` times one batch of each of `partitions`.
fn many_small(tables: &Tables, partitions: u64, rounds: i64) {
    for round in 0..rounds {
        for partition in 0..partitions {
            let index = round as u64 * partitions + partition;
            put(tables, index, id(partition), batch(round * 10, 10, 10, 1000 + round));
        }
        tables.flush().expect("flushes");
    }
}

fn parts(tables: &Tables, partition: PartitionId) -> usize {
    tables.directory.look(partition, |parts, _| parts.len())
}

#[test]
fn small_parts_move_together() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    many_small(&tables, 30, 9);
    let before: Vec<_> = (0..30).map(|n| fetch_all(&tables, id(n), 0, 400).expect("reads")).collect();
    assert_eq!(parts(&tables, id(3)), 9);
    merge_all(&tables, &keep);
    assert!(parts(&tables, id(3)) <= 3, "{} parts", parts(&tables, id(3)));
    for tables in [tables, open(&disk)] {
        tables.validate();
        let after: Vec<_> = (0..30).map(|n| fetch_all(&tables, id(n), 0, 400).expect("reads")).collect();
        assert!(after == before);
    }
    assert!(run_files(&disk).len() <= 12, "{} files", run_files(&disk).len());
}

#[test]
fn large_parts_stay_where_they_are_while_their_small_neighbours_move() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for round in 0..6 {
        put(&tables, round * 2, id(1), batch(round as i64 * 40, 40, 100, 1));
        put(&tables, round * 2 + 1, id(2), batch(round as i64, 1, 10, 1));
        tables.flush().expect("flushes");
    }
    let runs_of =
        |n| tables.directory.look(id(n), |parts, _| parts.iter().map(|p| p.run.id).collect::<Vec<_>>());
    let before = runs_of(1);
    assert_eq!(before.len(), 6);
    merge_all(&tables, &keep);
    assert_eq!(runs_of(1), before, "a busy partition is never written twice");
    assert!(runs_of(2).len() <= 3, "{:?}", runs_of(2));
    assert_eq!(fetch_all(&tables, id(2), 0, 400).expect("reads").len(), 6);
}

#[test]
fn runs_of_which_nothing_is_alive_are_dropped_and_their_files_when_nobody_reads_them() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    many_small(&tables, 2, 2);
    let reader = tables.directory.all(id(1)).0;
    let policy = |n: PartitionId| match n.0 {
        0 => PartitionPolicy { live: false, log_start: i64::MAX, compact: None },
        _ => PartitionPolicy { live: true, log_start: 10, compact: None },
    };
    let outcome = tables.merge_once(&policy).expect("merges");
    assert_eq!(outcome.dropped_runs, 1);
    assert_eq!(run_files(&disk).len(), 2, "someone may be reading the other file");
    drop(reader);
    tables.drop_partition(id(1));
    assert_eq!(tables.merge_once(&policy).expect("merges").dropped_runs, 1);
    tables.merge_once(&policy).expect("merges");
    assert_eq!(run_files(&disk), Vec::<PathBuf>::new());
    assert_eq!((tables.stats().runs, tables.stats().run_bytes), (0, 0));
    assert_eq!(tables.stats().dropped_runs, 2);
}

#[test]
fn what_is_mostly_dead_is_emptied() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    // Large parts, which do not merge for locality.
    for n in 0..4 {
        put(&tables, n, id(n), batch(0, 40, 100, 1));
    }
    tables.flush().expect("flushes");
    let live = |n: PartitionId| PartitionPolicy { live: n.0 == 2, ..keep(n) };
    let before = tables.stats();
    let outcome = tables.merge_once(&live).expect("merges");
    assert_eq!((outcome.merged_runs, outcome.dropped_runs), (1, 1));
    let after = tables.stats();
    assert!(after.run_bytes * 3 < before.run_bytes && after.dead_bytes == 0, "{after:?}");
    assert_eq!(fetch_all(&tables, id(2), 0, 400).expect("reads").len(), 1);
}

#[test]
fn a_log_start_in_the_middle_of_a_part_frees_what_is_below() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for n in 0..40 {
        put(&tables, n, P1, batch(n as i64 * 10, 10, 10, 1));
    }
    tables.flush().expect("flushes");
    let before = tables.stats().run_bytes;
    let policy = |n| PartitionPolicy { log_start: 305, ..keep(n) };
    merge_all(&tables, &policy);
    let after = tables.stats().run_bytes;
    assert!(after * 3 < before, "{before} bytes, then {after}");
    let all = fetch_all(&tables, P1, 305, 400).expect("reads");
    assert_eq!(BatchHeader::parse(&all[0]).expect("a header").base_offset, 300);
    assert_eq!(all.len(), 10);
}

#[test]
fn a_merge_that_is_told_to_stop_changes_nothing_and_leaves_nothing() {
    let disk = SimDisk::new(1);
    let steps = Arc::new(AtomicU64::new(0));
    let counted = steps.clone();
    let pace = move |_| match counted.fetch_add(1, Relaxed) {
        0 => Pace::Stop,
        _ => Pace::Go,
    };
    let config = TablesConfig {
        pace: Arc::new(pace),
        small_part_bytes: 1 << 20,
        merge_bytes_max: 1 << 30,
        memtable_bytes_max: 1 << 20,
        ..TablesConfig::tiny()
    };
    let (tables, _) = Tables::open(Arc::new(disk.clone()), config).expect("opens");
    for round in 0..3 {
        for n in 0..10 {
            put(&tables, round * 10 + n, id(n), batch(round as i64 * 10, 10, 3000, 1));
        }
        tables.flush().expect("flushes");
    }
    let before = run_files(&disk);
    let outcome = tables.merge_once(&keep).expect("no failure");
    assert!(outcome.stopped && outcome.merged_runs == 0, "{outcome:?}");
    assert_eq!(run_files(&disk), before);
    tables.validate();
    assert_eq!(fetch_all(&tables, id(3), 0, 4000).expect("reads").len(), 3);
    let outcome = tables.merge_once(&keep).expect("merges");
    assert_eq!((outcome.merged_runs, outcome.dropped_runs, outcome.stopped), (3, 3, false));
    assert!(steps.load(Relaxed) > 1);
    assert_eq!(fetch_all(&tables, id(3), 0, 4000).expect("reads").len(), 3);
}

#[test]
fn a_merge_does_not_undo_a_drop_or_a_log_start_that_came_while_it_ran() {
    let disk = SimDisk::new(1);
    let tables = Arc::new(open(&disk));
    many_small(&tables, 3, 3);
    let (during, once) = (tables.clone(), AtomicU64::new(0));
    disk.set_hook(move |op, path| {
        let writes_a_run = op == crate::disk::sim::Op::Sync && path.extension().is_some_and(|e| e == "run");
        if writes_a_run && once.fetch_add(1, Relaxed) == 0 {
            during.drop_partition(id(0));
            during.set_log_start(id(1), 30);
            during.set_log_start(id(2), 15);
        }
    });
    assert_eq!(tables.merge_once(&keep).expect("merges").merged_runs, 3);
    disk.set_hook(|_, _| {});
    tables.validate();
    assert_eq!((parts(&tables, id(0)), parts(&tables, id(1)), parts(&tables, id(2))), (0, 0, 1));
    assert_eq!(fetch_all(&tables, id(2), 15, 400).expect("reads").len(), 2);
}

#[test]
fn merging_comes_to_an_end_whatever_the_parts_are_like() {
    for seed in 0..60 {
        let mut rng = TestRng::new(seed);
        let disk = SimDisk::new(seed);
        let tables = open(&disk);
        let mut next = [0i64; 24];
        let spread = 1 + rng.roll(24);
        for index in 0..40 + rng.roll(200) {
            let partition = rng.roll(24).min(rng.roll(spread)) as usize;
            let batch = batch(next[partition], 1 + rng.roll(4) as usize, rng.roll(400) as usize, 1);
            next[partition] = batch.next_offset;
            put(&tables, index, id(partition as u64), batch);
            if rng.roll(12) == 0 {
                tables.flush().expect("flushes");
            }
        }
        tables.flush().expect("flushes");
        let before: Vec<_> = (0..24).map(|n| fetch_all(&tables, id(n), 0, 900).expect("reads")).collect();
        let rounds = merge_all(&tables, &keep);
        let after: Vec<_> = (0..24).map(|n| fetch_all(&tables, id(n), 0, 900).expect("reads")).collect();
        assert!(before == after, "seed {seed} after {rounds} merges");
        let written = tables.stats().merged_bytes;
        assert!(
            written < 12 * (tables.stats().flushed_bytes + (40 << 10)),
            "seed {seed}: {:?}",
            tables.stats()
        );
    }
}

#[test]
fn compaction_does_not_keep_locality_waiting() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    let policy = |n: PartitionId| PartitionPolicy {
        compact: (n.0 == 9).then_some(CompactPolicy {
            now_ms: 1,
            delete_retention_ms: 1,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            min_dirty_ratio: 0.0,
        }),
        ..keep(n)
    };
    for round in 0..8 {
        for (n, partition) in [9, 1, 2, 3].into_iter().enumerate() {
            put(&tables, round * 4 + n as u64, id(partition), batch(round as i64 * 3, 3, 30, 1));
        }
        tables.flush().expect("flushes");
        tables.merge_once(&policy).expect("merges");
    }
    assert!(parts(&tables, id(1)) < 8, "{} parts", parts(&tables, id(1)));
    merge_all(&tables, &policy);
    assert_eq!(fetch_all(&tables, id(9), 0, 900).expect("reads").len(), 1, "one key, one value");
}
