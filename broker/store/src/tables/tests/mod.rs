//! The tables through their public interface.

mod basics;
mod compaction;
mod concurrent;
mod crash;
mod damage;
mod merging;
mod model;
mod timestamps;

use std::{io::Read, path::PathBuf, sync::Arc};

use bytes::Bytes;
use millstream_model::{
    LogId, PartitionId, RaftGroupId,
    batch::{BatchBuilder, BatchHeader, Codec, NewRecord, check_crc, split, stamp},
};

use super::*;
use crate::disk::sim::SimDisk;

pub(super) const GROUP: RaftGroupId = RaftGroupId(1);
pub(super) const P1: PartitionId = PartitionId(1);

impl Tables {
    /// Writes a checkpoint of an in-memory state.
    pub(crate) fn save_state(
        &self,
        group: RaftGroupId,
        id: LogId,
        state: &[u8],
    ) -> Result<(), CheckpointError> {
        self.save_checkpoint(group, id, |out| out.write_all(state)).map(drop)
    }

    /// The newest checkpoint with its whole state.
    pub(crate) fn load_state(&self, group: RaftGroupId) -> Result<Option<(LogId, Bytes)>, CheckpointError> {
        let Some(found) = self.open_checkpoint(group)? else { return Ok(None) };
        let mut state = Vec::new();
        found.state().read_to_end(&mut state).expect("it was checked");
        Ok(Some((found.id(), state.into())))
    }
}

/// A seeded source of random numbers.
#[derive(Clone, Debug)]
pub(super) struct TestRng(u64);

impl TestRng {
    pub(super) fn new(seed: u64) -> TestRng {
        TestRng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// A batch of `count` records of about `bytes` each from `base` on, its leader epoch stamped.
pub(super) fn batch(base: i64, count: usize, bytes: usize, timestamp_ms: i64) -> StoredBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for n in 0..count {
        let value = vec![(base as usize + n) as u8; bytes];
        let record = NewRecord { timestamp_ms, key: Some(b"key"), value: Some(&value), headers: &[] };
        builder.push(record);
    }
    stored(&builder.build().expect("a batch"), base)
}

/// A batch as applied at `base`.
pub(super) fn stored(batch: &[u8], base: i64) -> StoredBatch {
    let mut bytes = batch.to_vec();
    stamp(&mut bytes, base, 3);
    let header = BatchHeader::parse(&bytes).expect("a header");
    StoredBatch {
        bytes: bytes.into(),
        base_offset: base,
        next_offset: header.next_offset(),
        max_timestamp: header.max_timestamp,
        // Later than every timestamp, so that the timestamps count.
        appended_ms: i64::MAX,
    }
}

pub(super) fn open(disk: &SimDisk) -> Tables {
    Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).expect("opens").0
}

/// Inserts a batch as the group's next entry.
pub(super) fn put(tables: &Tables, index: u64, partition: PartitionId, batch: StoredBatch) {
    let id = LogId::new(1, index);
    tables.insert(GROUP, id, partition, batch);
    tables.applied(GROUP, id);
}

/// Reads in the order of a fetch: memory, then the cache, then the disk.
pub(super) fn fetch(
    tables: &Tables,
    partition: PartitionId,
    offset: i64,
    max_bytes: usize,
) -> Result<Vec<Bytes>, ReadError> {
    match tables.read_memory(partition, offset, max_bytes) {
        MemoryRead::Hit(batches) => return Ok(batches),
        MemoryRead::Empty => return Ok(Vec::new()),
        MemoryRead::Older => {}
    }
    match tables.read_runs_cached(partition, offset, max_bytes) {
        Some(batches) => Ok(batches),
        None => tables.read_runs(partition, offset, max_bytes),
    }
}

/// The batches of slices that may hold several.
pub(super) fn batches_of(slices: &[Bytes]) -> Vec<Bytes> {
    slices.iter().flat_map(split).map(|batch| batch.expect("a whole batch")).collect()
}

/// All batches from `offset` on, fetched in small reads. Checks each one, and that there are no duplicates.
pub(super) fn fetch_all(
    tables: &Tables,
    partition: PartitionId,
    mut offset: i64,
    max_bytes: usize,
) -> Result<Vec<Bytes>, ReadError> {
    let mut all = Vec::new();
    loop {
        let slices = fetch(tables, partition, offset, max_bytes)?;
        let batches = batches_of(&slices);
        let bytes: usize = slices.iter().map(Bytes::len).sum();
        assert!(bytes <= max_bytes || batches.len() == 1, "{bytes} of {max_bytes} bytes");
        let Some(last) = batches.last() else { return Ok(all) };
        let next = BatchHeader::parse(last).expect("a header").next_offset();
        assert!(next > offset, "{partition} stays at {offset}");
        for batch in batches {
            check_crc(&batch).expect("what was written");
            let header = BatchHeader::parse(&batch).expect("a header");
            assert!(header.next_offset() > offset, "{partition}: a batch below {offset}");
            offset = header.next_offset();
            all.push(batch);
        }
    }
}

/// The policy of topics without compaction and deletion.
pub(super) fn keep(_: PartitionId) -> PartitionPolicy {
    PartitionPolicy { live: true, log_start: 0, compact: None }
}

/// Merges until nothing is due.
pub(super) fn merge_all(tables: &Tables, policy: &dyn Fn(PartitionId) -> PartitionPolicy) -> usize {
    for round in 0..100 {
        let outcome = tables.merge_once(policy).expect("merges");
        tables.validate();
        if outcome == MergeOutcome::default() {
            return round;
        }
    }
    panic!("merging does not come to an end");
}

/// Paths of all runs.
pub(super) fn run_files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files().into_keys().filter(|path| path.extension().is_some_and(|e| e == "run")).collect()
}
