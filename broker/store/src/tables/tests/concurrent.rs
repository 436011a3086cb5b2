//! Concurrent inserts, reads, flushes, checkpoints and merges from several threads.

use std::sync::{
    Barrier,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
};

use super::*;

const PARTITIONS: u64 = 4;
const ROUNDS: i64 = 400;

fn entry(round: i64) -> StoredBatch {
    batch(round * 3, 3, 40, round)
}

/// State shared by the threads: the applied mark of each group.
struct TestState {
    tables: Tables,
    end: Vec<AtomicI64>,
    log_start: Vec<AtomicI64>,
    reads: AtomicU64,
    done: AtomicBool,
    start: Barrier,
}

fn group(partition: u64) -> RaftGroupId {
    RaftGroupId(1 + partition as u32)
}

fn write(shared: &TestState, partition: u64) {
    shared.start.wait();
    for round in 0..ROUNDS {
        let id = LogId::new(1, round as u64);
        shared.tables.insert(group(partition), id, PartitionId(partition), entry(round));
        shared.tables.applied(group(partition), id);
        shared.end[partition as usize].store(round * 3 + 3, SeqCst);
        if round % 8 == 7 {
            // Lets other threads run while data is in memory.
            let (reads, flushes) = (shared.reads.load(SeqCst), shared.tables.stats().flushes);
            let seen = || shared.reads.load(SeqCst) > reads && shared.tables.stats().flushes > flushes;
            (0..10_000).take_while(|_| !seen()).for_each(|_| std::thread::yield_now());
        }
        if round % 64 == 63 {
            shared.log_start[partition as usize].store(round - 30, SeqCst);
            shared.tables.set_log_start(PartitionId(partition), round - 30);
        }
    }
}

/// Reads everything repeatedly: no batch may be missing, duplicated or wrong.
fn read(shared: &TestState, seed: u64) {
    let mut rng = TestRng::new(seed);
    shared.start.wait();
    while !shared.done.load(SeqCst) {
        let partition = rng.roll(PARTITIONS);
        let end = shared.end[partition as usize].load(SeqCst);
        let low = shared.log_start[partition as usize].load(SeqCst);
        let mut offset = low + rng.roll((end - low).max(0) as u64 + 1) as i64;
        while offset < end {
            let slices = fetch(&shared.tables, PartitionId(partition), offset, 500).expect("reads");
            let batches = batches_of(&slices);
            if offset < shared.log_start[partition as usize].load(SeqCst) {
                break;
            }
            assert!(!batches.is_empty(), "{partition} has nothing at {offset} of {end}");
            for batch in batches {
                assert_eq!(batch, entry(offset / 3).bytes, "{partition} at {offset}");
                offset = offset / 3 * 3 + 3;
            }
            shared.reads.fetch_add(1, SeqCst);
        }
    }
}

fn flush_and_merge(shared: &TestState) {
    shared.start.wait();
    let policy = |id: PartitionId| PartitionPolicy {
        log_start: shared.log_start[id.0 as usize].load(SeqCst),
        ..keep(id)
    };
    while !shared.done.load(SeqCst) {
        shared.tables.flush().expect("flushes");
        shared.tables.merge_once(&policy).expect("merges");
    }
}

fn save_checkpoints(shared: &TestState) {
    shared.start.wait();
    while !shared.done.load(SeqCst) {
        for partition in 0..PARTITIONS {
            let end = shared.end[partition as usize].load(SeqCst);
            if end > 0 {
                let id = LogId::new(1, end as u64 / 3 - 1);
                shared.tables.save_state(group(partition), id, &end.to_le_bytes()).expect("saved");
            }
        }
    }
}

#[test]
fn readers_see_every_batch_while_everything_else_goes_on() {
    let disk = SimDisk::new(4);
    let shared = TestState {
        tables: open(&disk),
        end: (0..PARTITIONS).map(|_| AtomicI64::new(0)).collect(),
        log_start: (0..PARTITIONS).map(|_| AtomicI64::new(0)).collect(),
        reads: AtomicU64::new(0),
        done: AtomicBool::new(false),
        start: Barrier::new(PARTITIONS as usize + 4),
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..PARTITIONS)
            .map(|n| {
                scope.spawn({
                    let shared = &shared;
                    move || write(shared, n)
                })
            })
            .collect();
        for seed in 0..2 {
            let shared = &shared;
            scope.spawn(move || read(shared, seed));
        }
        scope.spawn(|| flush_and_merge(&shared));
        scope.spawn(|| save_checkpoints(&shared));
        writers.into_iter().for_each(|writer| writer.join().expect("writes"));
        shared.done.store(true, SeqCst);
    });
    assert!(shared.reads.load(SeqCst) > 0 && shared.tables.stats().flushes > 1);
    shared.tables.flush().expect("flushes");
    shared.tables.validate();
    let (tables, manifest) = Tables::open(Arc::new(disk.crash()), TablesConfig::tiny()).expect("opens");
    for partition in 0..PARTITIONS {
        assert_eq!(manifest.flushed.get(&group(partition)), Some(&LogId::new(1, ROUNDS as u64 - 1)));
        let low = shared.log_start[partition as usize].load(SeqCst);
        let all = fetch_all(&tables, PartitionId(partition), low, 5000).expect("reads");
        assert_eq!(all.len() as i64, ROUNDS - low / 3);
    }
}
