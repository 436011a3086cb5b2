//! Committed batches: the memtable, the runs that it is flushed to, the manifest that names them, the block
//! cache, merges, and the checkpoints of state machines.
//!
//! Invariants, each said as an absence:
//! 1. No batch leaves the memtable before the manifest names a durable run that has it.
//! 2. No run's file is removed before a manifest that does not name it is durable and nobody reads it.
//! 3. No byte of a run is given to anyone before its checksum was compared.
//! 4. No checkpoint is durable while batches that it counts on are in memory only.
//! 5. No lock that a reader or an insert takes is held during a disk access.
//! 6. Nothing is removed because something else is missing or damaged.
//!
//! Lock order: checkpoint, merge, flush, manifest or the writing of a state, then one of memory, directory, runs, marks; memory before
//! directory.

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

/// What a merge does after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Goes on.
    Go,
    /// Gives up; what it has written is removed, and nothing has changed.
    Stop,
}

/// Files of runs that are open at once, where the system allows it.
pub const OPEN_FILES_MAX: usize = 256;

/// Sizes and bounds.
#[derive(Clone)]
pub struct TablesConfig {
    /// Bytes of batches in memory from which a flush is needed.
    pub memtable_bytes_max: usize,
    /// Most bytes of the block cache.
    pub cache_bytes_max: usize,
    /// Bytes of batches that share one checksum, in parts of ordinary size.
    pub region_bytes: usize,
    /// Bytes of runs that are cached as one.
    pub block_bytes: usize,
    /// Bytes of one read from a run; what it reads ahead goes into the cache.
    pub read_bytes: usize,
    /// Files of runs that are open at once.
    pub open_files_max: usize,
    /// What a run has of one partition is small, and merges, below so many bytes.
    pub small_part_bytes: u64,
    /// What a run has of one partition is at most so many bytes.
    pub part_bytes_max: u64,
    /// A merge starts another run beyond so many bytes.
    pub run_bytes_max: u64,
    /// Bytes that one merge reads at most, unless a single partition has more; the rest waits for the next.
    pub merge_bytes_max: u64,
    /// So many runs of the same kind start a merge.
    pub merge_runs_min: usize,
    /// At most so many runs are merged at once.
    pub merge_runs_max: usize,
    /// Keys that a compaction holds in memory; a partition with more takes several rounds.
    pub compact_keys_max: usize,
    /// A batch that expands to more is left as it is.
    pub opened_bytes_max: usize,
    /// Called by merges with the bytes of each step: it may wait, to spread the load.
    pub pace: Arc<dyn Fn(u64) -> Pace + Send + Sync>,
    /// Called by an insert that makes a flush needed, once until there was a flush: it must not wait.
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
            opened_bytes_max: limits::DECOMPRESSED_BYTES_MAX,
            pace: Arc::new(|_| Pace::Go),
            full: Arc::new(|| {}),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl TablesConfig {
    /// Everything so small that every edge is met all the time.
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

/// How far one group is.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    applied: Option<LogId>,
    flushed: Option<LogId>,
    /// The last entry that brought a batch.
    inserted: Option<LogId>,
}

/// What the tables have done since they were opened.
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

/// What the tables hold and have done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablesStats {
    /// Bytes of batches in memory, and of what it takes to hold them.
    pub memtable_bytes: u64,
    /// Live runs.
    pub runs: u64,
    /// Bytes of batches in these.
    pub run_bytes: u64,
    /// Bytes of these that nobody can ask for any more.
    pub dead_bytes: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Blocks that were in the cache when they were wanted.
    pub cache_hits: u64,
    /// Blocks that were not.
    pub cache_misses: u64,
    /// Runs written from memory.
    pub flushes: u64,
    /// Bytes of these.
    pub flushed_bytes: u64,
    /// Merges that were done.
    pub merges: u64,
    /// Bytes that they wrote.
    pub merged_bytes: u64,
    /// Runs that were dropped because nothing in them was alive.
    pub dropped_runs: u64,
    /// Bytes that readers read from disk.
    pub read_bytes: u64,
    /// Batches that were applied again after a restart.
    pub ignored_batches: u64,
}

/// The indexes of very many runs are read by so many threads.
const OPEN_THREADS: usize = 8;
/// One thread reads so many, before another one is worth it.
const RUNS_PER_OPEN_THREAD_MIN: usize = 64;
/// Checkpoints of the groups are written under so many locks.
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
    /// The manifest that is on disk; held while it is written.
    manifest: Mutex<Manifest>,
    next_run: AtomicU64,
    flushing: Mutex<()>,
    merging: Mutex<MergeState>,
    /// Index of each group's newest checkpoint, as far as it was seen.
    checkpoints: Vec<Mutex<HashMap<RaftGroupId, u64>>>,
    /// Held while one checkpoint's state is written: what a state takes to be written is taken once.
    state_writing: Mutex<()>,
    /// Runs that no manifest names any more, kept until nobody reads them.
    retired: Mutex<Vec<Arc<Run>>>,
    /// Files of runs that a manifest may or may not name, because writing it failed.
    doubtful: Mutex<Vec<u64>>,
    counters: Counters,
    /// Counts what can make a merge due.
    changes: AtomicU64,
    compaction_due_ms: AtomicI64,
}

impl Tables {
    /// Opens the tables of a store, making them if the store is new.
    ///
    /// An error leaves everything as it was. Files that no manifest names, left by a crash, are removed only when
    /// everything that it does name is there and whole.
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

    /// Most bytes that whoever looks into a batch lets it expand to.
    pub fn opened_bytes_max(&self) -> usize {
        self.config.opened_bytes_max
    }

    fn mark<R>(&self, group: RaftGroupId, change: impl FnOnce(&mut Marks) -> R) -> R {
        change(self.marks[group.0 as usize % self.marks.len()].lock().entry(group).or_default())
    }

    /// Takes a batch that the entry `id` of the group's log brought. Its offsets follow the partition's last.
    ///
    /// After a restart entries are applied again: a batch that a run has is ignored.
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
        let (bytes, header) = timestamps::corrected(&batch.bytes, &header, self.config.opened_bytes_max);
        match bytes {
            Cow::Borrowed(_) => batch,
            Cow::Owned(bytes) => {
                StoredBatch { bytes: bytes.into(), max_timestamp: header.max_timestamp, ..batch }
            }
        }
    }

    /// Says that every batch of the group's entries up to `id` was inserted.
    pub fn applied(&self, group: RaftGroupId, id: LogId) {
        self.mark(group, |marks| marks.applied = Some(id));
    }

    /// Says that nobody will ask for offsets below `offset` any more. A log start only moves up.
    pub fn set_log_start(&self, partition: PartitionId, offset: i64) {
        self.directory.set_log_start(partition, offset);
        self.memory.drop_below(partition, offset);
        self.changes.fetch_add(1, Relaxed);
    }

    /// Forgets a partition, for good: its id does not come again.
    pub fn drop_partition(&self, partition: PartitionId) {
        self.memory.drop_partition(partition);
        self.directory.drop_partition(partition);
        self.changes.fetch_add(1, Relaxed);
    }

    /// Moves with each flush, log start and drop. While it stands still, a merge that was not due becomes due only
    /// with time: see [`compaction_due_ms`](Tables::compaction_due_ms).
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// When the next record in runs becomes too old to stay uncompacted, or the next tombstone to stay, in milliseconds
    /// since the Unix epoch; `i64::MAX` if time alone makes nothing due. As of the last merge.
    pub fn compaction_due_ms(&self) -> i64 {
        self.compaction_due_ms.load(Relaxed)
    }

    /// Bytes of batches in memory, and of what it takes to hold them.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Whether there are batches of a partition in memory. No merge sees them before a flush.
    pub fn has_in_memory(&self, partition: PartitionId) -> bool {
        self.memory.has(partition)
    }

    /// Number of live runs.
    pub fn run_count(&self) -> usize {
        self.runs.read().len()
    }

    /// Makes the state of a group's machine at `id`, which `write` writes in pieces, durable. Batches up to there are
    /// flushed first if they are not in runs yet. Blocks. A checkpoint that is older than the newest one is not written:
    /// then there is `None`.
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

    /// A group's newest checkpoint, checked to its last byte; `None` if there never was one. Blocks.
    pub fn open_checkpoint(&self, group: RaftGroupId) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut newest = self.checkpoints[group.0 as usize % CHECKPOINT_LOCKS].lock();
        let found = checkpoint::open(&*self.disk, group)?;
        if let Some(found) = &found {
            newest.insert(group, found.id().index);
        }
        Ok(found)
    }

    /// Where a group's checkpoint is, or would be, in the store's directory.
    pub fn checkpoint_path(group: RaftGroupId) -> PathBuf {
        checkpoint::path(group)
    }

    /// Offset behind the last of a partition that is in a run.
    pub fn end_in_runs(&self, partition: PartitionId) -> Option<i64> {
        self.directory.end(partition)
    }

    /// Every partition that a run has something of, sorted.
    pub fn partitions_in_runs(&self) -> Vec<PartitionId> {
        self.directory.partitions()
    }

    /// What the tables hold and have done.
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
            tracing::warn!(file = %file.display(), %error, "a run that is not needed could not be removed");
        }
    }

    /// Checks the invariants that can be checked at any time; for tests.
    #[cfg(test)]
    fn validate(&self) {
        self.directory.validate();
        let manifest = self.manifest.lock();
        let runs = self.runs.read();
        assert!(runs.keys().eq(manifest.runs.keys()), "the manifest names other runs than are in use");
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

/// Whether a store without a manifest never had one: it has no other file either.
fn is_new(disk: &dyn Disk, names: &[(String, u64)]) -> bool {
    let no_log = disk.list(Path::new("wal")).map_or(true, |files| files.is_empty());
    no_log && names.iter().all(|(name, _)| name == "manifest.new")
}

type OpenRuns = (BTreeMap<u64, Arc<Run>>, Directory);

fn open_runs(disk: &dyn Disk, manifest: &Manifest) -> Result<OpenRuns, OpenError> {
    let mut runs = BTreeMap::new();
    let mut all_parts = Vec::new();
    // The newest first, as the directory wants them.
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

/// Reads the indexes of runs; of very many, several at once.
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
