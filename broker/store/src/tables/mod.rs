//! Committed batches: the memtable, the runs that it is flushed to, their manifest, the block cache, merges,
//! and the checkpoints of state machines.
//!
//! Invariants:
//! 1. No batch leaves the memtable before the manifest names a durable run that has it.
//! 2. No run's file is removed before a manifest without it is durable and its last reader is gone.
//! 3. No byte of a run is returned before its checksum was verified.
//! 4. No checkpoint is durable while batches that it depends on are in memory only.
//! 5. No lock that a reader or an insert takes is held during disk I/O.
//! 6. Nothing is removed because something else is missing or damaged.
//!
//! Lock order: checkpoint, merge, flush, manifest or the writing of a state, then one of memory, directory,
//! runs, marks; memory before directory.

mod cache;
mod checkpoint;
mod compact;
mod directory;
mod error;
mod flush;
mod job;
mod layout;
mod manifest;
mod memory;
mod merge;
mod read;
mod run;
mod run_files;
mod times;
mod timestamps;
mod verify;
mod writer;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use millstream_model::{LogId, PartitionId, RaftGroupId, batch::BatchHeader, limits};
use parking_lot::{Mutex, RwLock};

use crate::disk::Disk;
use cache::Cache;
use directory::Directory;
use manifest::RunRecord;
use memory::Memory;
use merge::MergeState;
use run::{Index, Run};
use run_files::RunFiles;

pub use checkpoint::Checkpoint;
pub use error::{CheckpointError, Damage, DiskError, MergeError, OpenError, ReadError, WriteError};
pub use flush::Flushed;
pub use manifest::Manifest;
pub(crate) use manifest::lower_flushed;
pub use memory::{MemoryRead, StoredBatch};
pub use merge::{CompactPolicy, MergeOutcome, PartitionPolicy};
pub use read::Piece;
pub use verify::{Finding, Verified, verify};

/// The pace callback's decision after each step of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Continue.
    Go,
    /// Stop: what the merge has written is removed, and nothing has changed.
    Stop,
}

/// Open files of runs, where the system permits it.
pub const OPEN_FILES_MAX: usize = 256;

/// Sizes and bounds.
#[derive(Clone)]
pub struct TablesConfig {
    /// Bytes of batches in memory from which a flush is needed.
    pub memtable_bytes_max: usize,
    /// Most bytes of the block cache.
    pub cache_bytes_max: usize,
    /// Bytes of batches under one checksum, in parts of ordinary size.
    pub region_bytes: usize,
    /// Bytes of a cached block of a run.
    pub block_bytes: usize,
    /// Bytes of one read from a run; the read-ahead goes into the cache.
    pub read_bytes: usize,
    /// Most open files of runs.
    pub open_files_max: usize,
    /// A part below this size is small, and is merged.
    pub small_part_bytes: u64,
    /// Largest size of a part.
    pub part_bytes_max: u64,
    /// A merge starts another run beyond this size.
    pub run_bytes_max: u64,
    /// Most bytes that one merge reads, unless a single partition has more; the rest waits for the next.
    pub merge_bytes_max: u64,
    /// Number of runs of the same size class that starts a merge.
    pub merge_runs_min: usize,
    /// Most runs that are merged at once.
    pub merge_runs_max: usize,
    /// Keys that a compaction holds in memory; a partition with more takes several rounds.
    pub compact_keys_max: usize,
    /// A batch that expands to more is copied unchanged.
    pub decompressed_bytes_max: usize,
    /// Called by merges with the bytes of each step: it may wait, to limit the rate.
    pub pace: Arc<dyn Fn(u64) -> Pace + Send + Sync>,
    /// Called by an insert that makes a flush needed, once until the flush: it must not block.
    pub full: Arc<dyn Fn() + Send + Sync>,
}

impl Default for TablesConfig {
    fn default() -> Self {
        TablesConfig {
            memtable_bytes_max: 64 << 20,
            cache_bytes_max: 64 << 20,
            region_bytes: 64 << 10,
            block_bytes: 256 << 10,
            read_bytes: 512 << 10,
            open_files_max: OPEN_FILES_MAX,
            small_part_bytes: 1 << 20,
            part_bytes_max: 1 << 30,
            run_bytes_max: 1 << 30,
            merge_bytes_max: 256 << 20,
            merge_runs_min: 4,
            merge_runs_max: 16,
            compact_keys_max: (1 << 19) / 8 * 7,
            decompressed_bytes_max: limits::DECOMPRESSED_BYTES_MAX,
            pace: Arc::new(|_| Pace::Go),
            full: Arc::new(|| {}),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl TablesConfig {
    /// Sizes so small that edge cases occur constantly.
    pub fn tiny() -> TablesConfig {
        TablesConfig {
            memtable_bytes_max: 16 << 10,
            cache_bytes_max: 16 << 10,
            region_bytes: 300,
            block_bytes: 1000,
            read_bytes: 2500,
            open_files_max: 2,
            small_part_bytes: 3000,
            part_bytes_max: 5000,
            run_bytes_max: 12_000,
            merge_bytes_max: 9000,
            merge_runs_min: 3,
            merge_runs_max: 5,
            compact_keys_max: 40,
            ..TablesConfig::default()
        }
    }
}

impl std::fmt::Debug for TablesConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TablesConfig")
            .field("memtable_bytes_max", &self.memtable_bytes_max)
            .field("cache_bytes_max", &self.cache_bytes_max)
            .finish_non_exhaustive()
    }
}

/// The progress of one group.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    applied: Option<LogId>,
    flushed: Option<LogId>,
    /// The last entry that contained a batch.
    inserted: Option<LogId>,
}

/// Counters since the tables were opened.
#[derive(Debug, Default)]
struct Counters {
    flushes: AtomicU64,
    flushed_bytes: AtomicU64,
    merges: AtomicU64,
    merged_bytes: AtomicU64,
    dropped_runs: AtomicU64,
    read_bytes: AtomicU64,
    ignored_batches: AtomicU64,
}

/// Gauges and counters for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablesStats {
    /// Bytes of batches in memory with their overhead.
    pub memtable_bytes: u64,
    /// Live runs.
    pub runs: u64,
    /// Bytes of batches in live runs.
    pub run_bytes: u64,
    /// Dead bytes of these.
    pub dead_bytes: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Cache hits.
    pub cache_hits: u64,
    /// Cache misses.
    pub cache_misses: u64,
    /// Runs written by flushes.
    pub flushes: u64,
    /// Bytes of these.
    pub flushed_bytes: u64,
    /// Merges done.
    pub merges: u64,
    /// Bytes written by merges.
    pub merged_bytes: u64,
    /// Runs dropped because they had no live parts.
    pub dropped_runs: u64,
    /// Bytes that readers read from disk.
    pub read_bytes: u64,
    /// Batches applied again after a restart.
    pub ignored_batches: u64,
}

/// Most threads that read the indexes of runs at a start.
const OPEN_THREADS: usize = 8;
/// Runs for one thread, before another one is worth it.
const RUNS_PER_OPEN_THREAD_MIN: usize = 64;
/// Number of locks for writing checkpoints; each group uses one of them.
const CHECKPOINT_LOCKS: usize = 16;

/// The committed batches of one store.
pub struct Tables {
    disk: Arc<dyn Disk>,
    config: TablesConfig,
    memory: Memory,
    directory: Directory,
    cache: Cache,
    files: RunFiles,
    marks: Vec<Mutex<HashMap<RaftGroupId, Marks>>>,
    runs: RwLock<BTreeMap<u64, Arc<Run>>>,
    /// The manifest on disk; held while it is written.
    manifest: Mutex<Manifest>,
    next_run: AtomicU64,
    flushing: Mutex<()>,
    merging: Mutex<MergeState>,
    /// Index of each group's newest checkpoint, as far as known.
    checkpoints: Vec<Mutex<HashMap<RaftGroupId, u64>>>,
    /// Held while one checkpoint's state is written, so that the memory for encoding a state is used once.
    state_writing: Mutex<()>,
    /// Runs that no manifest names any more, kept until their last reader is gone.
    retired: Mutex<Vec<Arc<Run>>>,
    /// Files of runs that may or may not be in the manifest, because writing it failed.
    doubtful: Mutex<Vec<u64>>,
    counters: Counters,
    /// Counts the events that can make a merge due.
    changes: AtomicU64,
    compaction_due_ms: AtomicI64,
}

impl Tables {
    /// Opens the tables of a store, creating them if the store is new.
    ///
    /// An error changes nothing. Files that no manifest names, left by a crash, are removed only once
    /// everything that it names is present and intact.
    pub fn open(disk: Arc<dyn Disk>, config: TablesConfig) -> Result<(Tables, Manifest), OpenError> {
        let dir = Path::new(layout::DIR);
        let disk_error = |e| OpenError::from(DiskError::new(dir, &e));
        disk.create_dir(dir).map_err(disk_error)?;
        let names = disk.list(dir).map_err(disk_error)?;
        let ids: Vec<u64> = names.iter().filter_map(|(name, _)| layout::run_id(name)).collect();
        let manifest = match manifest::load(&*disk)? {
            Some(manifest) => manifest,
            None if is_new(&*disk, &names) => {
                let manifest = Manifest::default();
                manifest::save(&*disk, &manifest)?;
                manifest
            }
            None => return Err(manifest::missing()),
        };
        let (runs, directory) = open_runs(&*disk, &manifest)?;
        let next_run = ids.iter().map(|id| id + 1).fold(manifest.next_run, u64::max);
        let strays: Vec<u64> = ids.into_iter().filter(|id| !manifest.runs.contains_key(id)).collect();
        let tables = Tables {
            memory: Memory::new(config.memtable_bytes_max, config.full.clone()),
            directory,
            cache: Cache::new(config.cache_bytes_max),
            files: RunFiles::new(disk.clone(), config.read_bytes, config.open_files_max),
            marks: (0..memory::SHARDS).map(|_| Mutex::default()).collect(),
            runs: RwLock::new(runs),
            manifest: Mutex::new(manifest.clone()),
            next_run: AtomicU64::new(next_run),
            flushing: Mutex::default(),
            merging: Mutex::default(),
            checkpoints: (0..CHECKPOINT_LOCKS).map(|_| Mutex::default()).collect(),
            state_writing: Mutex::default(),
            retired: Mutex::default(),
            doubtful: Mutex::default(),
            counters: Counters::default(),
            changes: AtomicU64::new(0),
            compaction_due_ms: AtomicI64::new(i64::MAX),
            disk,
            config,
        };
        for (group, id) in &manifest.flushed {
            tables.mark(*group, |marks| marks.flushed = Some(*id));
        }
        strays.into_iter().for_each(|id| tables.remove_file(id));
        Ok((tables, manifest))
    }

    /// Most bytes to which a batch may expand when it is decoded.
    pub fn decompressed_bytes_max(&self) -> usize {
        self.config.decompressed_bytes_max
    }

    fn mark<R>(&self, group: RaftGroupId, change: impl FnOnce(&mut Marks) -> R) -> R {
        change(self.marks[group.0 as usize % self.marks.len()].lock().entry(group).or_default())
    }

    /// Inserts a batch of the log entry `id` of the group. Its offsets follow the partition's last.
    ///
    /// After a restart entries are applied again: a batch that a run already has is ignored.
    pub fn insert(&self, group: RaftGroupId, id: LogId, partition: PartitionId, batch: StoredBatch) {
        let flushed = self.mark(group, |marks| {
            let flushed = marks.flushed.is_some_and(|flushed| id.index <= flushed.index);
            if !flushed {
                marks.inserted = Some(id);
            }
            flushed
        });
        let end_in_runs = || self.directory.end(partition).unwrap_or(i64::MIN);
        if flushed || !self.memory.insert((group, id), partition, batch, end_in_runs) {
            self.counters.ignored_batches.fetch_add(1, Relaxed);
        }
    }

    /// Makes the header's largest timestamp that of the records. An entry of an earlier version may have another one, and
    /// the log keeps such entries until they are flushed.
    pub fn with_true_times(&self, batch: StoredBatch) -> StoredBatch {
        let Ok(header) = BatchHeader::parse(&batch.bytes) else { return batch };
        let (bytes, header) =
            timestamps::corrected(&batch.bytes, &header, self.config.decompressed_bytes_max);
        match bytes {
            Cow::Borrowed(_) => batch,
            Cow::Owned(bytes) => {
                StoredBatch { bytes: bytes.into(), max_timestamp: header.max_timestamp, ..batch }
            }
        }
    }

    /// Declares that every batch of the group's entries up to `id` was inserted.
    pub fn applied(&self, group: RaftGroupId, id: LogId) {
        self.mark(group, |marks| {
            assert!(marks.applied <= Some(id), "{group}: {id} is applied after {:?}", marks.applied);
            assert!(
                marks.inserted <= Some(id),
                "{group}: {:?} was inserted, only {id} is applied",
                marks.inserted
            );
            marks.applied = Some(id);
        });
    }

    /// Deletes the offsets below `offset`. A log start only moves up.
    pub fn set_log_start(&self, partition: PartitionId, offset: i64) {
        self.directory.set_log_start(partition, offset);
        self.memory.drop_below(partition, offset);
        self.changes.fetch_add(1, Relaxed);
    }

    /// Drops a partition for good: its id does not return.
    pub fn drop_partition(&self, partition: PartitionId) {
        self.memory.drop_partition(partition);
        self.directory.drop_partition(partition);
        self.changes.fetch_add(1, Relaxed);
    }

    /// Changes with each flush, log start and drop. While it does not change, a merge that was not due
    /// becomes due only with time: see [`compaction_due_ms`](Tables::compaction_due_ms).
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// When the next record in runs must be compacted because of its age, or the next tombstone must be
    /// removed, in milliseconds since the Unix epoch; `i64::MAX` if time alone makes nothing due. As of the
    /// last merge.
    pub fn compaction_due_ms(&self) -> i64 {
        self.compaction_due_ms.load(Relaxed)
    }

    /// Bytes of batches in memory with their overhead.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Whether batches of a partition are in memory. Merges do not see them before a flush.
    pub fn has_in_memory(&self, partition: PartitionId) -> bool {
        self.memory.has(partition)
    }

    /// Number of live runs.
    pub fn run_count(&self) -> usize {
        self.runs.read().len()
    }

    /// Makes the state of a group's machine at `id`, which `write` writes in pieces, durable. Flushes batches
    /// up to there first if they are not in runs yet. Blocks. A checkpoint older than the newest one is not
    /// written, and the result is `None`.
    pub fn save_checkpoint(
        &self,
        group: RaftGroupId,
        id: LogId,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut newest = self.checkpoints[group.0 as usize % CHECKPOINT_LOCKS].lock();
        if newest.get(&group).is_some_and(|&index| index > id.index) {
            return Ok(None);
        }
        self.flush_up_to(group, id)?;
        let write = |out: &mut dyn Write| {
            let _one_at_a_time = self.state_writing.lock();
            write(out)
        };
        let saved = checkpoint::save(&*self.disk, group, id, write)?;
        newest.insert(group, id.index);
        Ok(Some(saved))
    }

    /// A group's newest checkpoint, fully verified; `None` if there never was one. Blocks.
    pub fn open_checkpoint(&self, group: RaftGroupId) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut newest = self.checkpoints[group.0 as usize % CHECKPOINT_LOCKS].lock();
        let found = checkpoint::open(&*self.disk, group)?;
        if let Some(found) = &found {
            newest.insert(group, found.id().index);
        }
        Ok(found)
    }

    /// Path of a group's checkpoint in the store's directory.
    pub fn checkpoint_path(group: RaftGroupId) -> PathBuf {
        checkpoint::path(group)
    }

    /// Offset after the last of a partition that is in a run.
    pub fn end_in_runs(&self, partition: PartitionId) -> Option<i64> {
        self.directory.end(partition)
    }

    /// Every partition that has a part in a run, sorted.
    pub fn partitions_in_runs(&self) -> Vec<PartitionId> {
        self.directory.partitions()
    }

    /// Gauges and counters for metrics.
    pub fn stats(&self) -> TablesStats {
        let (cache_hits, cache_misses) = self.cache.hits_and_misses();
        let runs = self.runs.read();
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        TablesStats {
            memtable_bytes: self.memory.bytes() as u64,
            runs: runs.len() as u64,
            run_bytes: runs.values().map(|run| run.data_bytes).sum(),
            dead_bytes: runs.values().map(|run| run.dead_bytes()).sum(),
            cache_bytes: self.cache.bytes() as u64,
            cache_hits,
            cache_misses,
            flushes: count(&self.counters.flushes),
            flushed_bytes: count(&self.counters.flushed_bytes),
            merges: count(&self.counters.merges),
            merged_bytes: count(&self.counters.merged_bytes),
            dropped_runs: count(&self.counters.dropped_runs),
            read_bytes: count(&self.counters.read_bytes),
            ignored_batches: count(&self.counters.ignored_batches),
        }
    }

    fn remove_file(&self, id: u64) {
        if let Err(error) = self.files.remove(id) {
            let file = layout::run_path(id);
            tracing::warn!(file = %file.display(), %error, "cannot remove an obsolete run");
        }
    }

    /// Checks the invariants that can be checked at any time; for tests.
    #[cfg(test)]
    fn validate(&self) {
        self.directory.validate();
        let manifest = self.manifest.lock();
        let runs = self.runs.read();
        assert!(runs.keys().eq(manifest.runs.keys()), "the manifest must name exactly the runs in use");
        let live: u64 = self
            .directory
            .partitions()
            .into_iter()
            .map(|id| {
                self.directory
                    .look(id, |parts, _| parts.iter().map(|part| u64::from(part.bytes)).sum::<u64>())
            })
            .sum();
        assert_eq!(live, runs.values().map(|run| run.live_bytes.load(Relaxed)).sum::<u64>(), "live bytes");
    }
}

/// Whether a store without a manifest is new: it has no other file either.
fn is_new(disk: &dyn Disk, names: &[(String, u64)]) -> bool {
    let no_log = disk.list(Path::new("wal")).map_or(true, |files| files.is_empty());
    no_log && names.iter().all(|(name, _)| name == "manifest.new")
}

type OpenRuns = (BTreeMap<u64, Arc<Run>>, Directory);

fn open_runs(disk: &dyn Disk, manifest: &Manifest) -> Result<OpenRuns, OpenError> {
    let mut runs = BTreeMap::new();
    let mut all_parts = Vec::new();
    // The newest first, as the directory requires.
    let records: Vec<(u64, RunRecord)> =
        manifest.runs.iter().rev().map(|(id, record)| (*id, *record)).collect();
    for (index, (id, record)) in read_indexes(disk, &records)?.into_iter().zip(&records) {
        let (run, parts) = index.into_run(record.file_bytes);
        runs.insert(*id, run);
        all_parts.push(parts);
    }
    let directory = Directory::open(all_parts.into_iter().flatten());
    Ok((runs, directory))
}

/// Reads the indexes of runs, in several threads if there are very many.
fn read_indexes(disk: &dyn Disk, records: &[(u64, RunRecord)]) -> Result<Vec<Index>, OpenError> {
    let one = |(id, record): &(u64, RunRecord)| run::read_index(disk, *id, record);
    let per_thread = records.len().div_ceil(OPEN_THREADS).max(RUNS_PER_OPEN_THREAD_MIN);
    if records.len() <= per_thread {
        return records.iter().map(one).collect();
    }
    std::thread::scope(|scope| {
        let some = |records: &'_ [_]| records.iter().map(one).collect::<Result<Vec<Index>, OpenError>>();
        let threads: Vec<_> =
            records.chunks(per_thread).map(|records| scope.spawn(move || some(records))).collect();
        let mut indexes = Vec::with_capacity(records.len());
        for thread in threads {
            match thread.join() {
                Ok(read) => indexes.extend(read?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(indexes)
    })
}

#[cfg(test)]
mod tests;
