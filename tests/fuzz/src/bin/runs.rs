//! Runs: with any content, the store opens or reports an error; reads and merges return batches or an error,
//! and terminate.
#![no_main]

use std::{path::Path, sync::Arc};

use libfuzzer_sys::fuzz_target;
use millstream_batch::{BatchHeader, split};
use millstream_fuzz::image;
use millstream_model::PartitionId;
use millstream_store::{
    disk::{Disk, sim::SimDisk},
    tables::{CompactPolicy, PartitionPolicy, Tables, TablesConfig, verify},
};

/// More rounds than any input needs: each read continues after the last one, each merge leaves less to do.
const ROUNDS_MAX: usize = 300;

/// Reads a partition to its end, or until a read fails.
fn read_all(tables: &Tables, partition: PartitionId) {
    let mut offset = i64::MIN;
    for _ in 0..ROUNDS_MAX {
        let Ok(slices) = tables.read_runs(partition, offset, 1000) else { return };
        let _ = tables.read_runs_cached(partition, offset, 1000);
        let before = offset;
        for batch in slices.iter().flat_map(split) {
            let batch = batch.expect("whole batches come");
            offset = offset.max(BatchHeader::parse(&batch).expect("with a header").next_offset());
        }
        if slices.is_empty() || offset == i64::MAX {
            return;
        }
        assert!(offset > before, "{partition} stays at {offset}");
    }
    panic!("reading {partition} does not come to an end");
}

fn merge_all(tables: &Tables, compact: Option<CompactPolicy>) {
    for _ in 0..ROUNDS_MAX {
        let outcome = tables.merge_once(&|_| PartitionPolicy { live: true, log_start: 0, compact });
        if !outcome.is_ok_and(|done| done != Default::default()) {
            return;
        }
    }
    panic!("merging does not come to an end");
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let disk = SimDisk::new(1);
    let mut runs = image::run_files(data);
    runs.sort_by_key(|run| run.number);
    runs.dedup_by_key(|run| run.number);
    disk.create_dir(Path::new("tables")).expect("made");
    for run in &runs {
        disk.write_file(Path::new("tables").join(format!("run-{:016x}.run", run.number)), &run.bytes)
            .expect("written");
    }
    disk.write_file("tables/manifest", &image::manifest(&runs)).expect("written");
    let shared: Arc<dyn Disk> = Arc::new(disk);
    verify(&shared);
    let Ok((tables, _)) = Tables::open(shared.clone(), TablesConfig::tiny()) else { return };
    let partitions = || (0..8).map(PartitionId);
    partitions().for_each(|partition| {
        read_all(&tables, partition);
        tables.pieces(partition);
    });
    let compact = CompactPolicy {
        now_ms: 2000,
        delete_retention_ms: 100,
        min_lag_ms: 0,
        max_lag_ms: 1000,
        min_dirty_ratio: 0.1,
    };
    merge_all(&tables, (mode & 1 == 1).then_some(compact));
    partitions().for_each(|partition| read_all(&tables, partition));
    drop(tables);
    Tables::open(shared, TablesConfig::tiny()).expect("what opened once opens again");
});
