//! The write-ahead log: one per store, shared by all groups, written by one thread.
//!
//! Invariants:
//! 1. `done` is never called with success before the bytes of everything appended before it are on stable
//!    storage.
//! 2. No file is written before the previous one is durable to its end.
//! 3. No failed write is ever retried: the log stays failed.
//! 4. No file is recycled while a group needs an entry of it, and none is ever removed because another one is
//!    missing or damaged.

mod files;
mod gather;
mod group;
pub(crate) mod inspect;
mod layout;
mod log;
mod memory;
mod priority;
pub(crate) mod rebuild;
mod recovery;
pub(crate) mod salvage;
mod scan;
mod writer;

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use millstream_model::{Histogram, LogId, RaftGroupId};
use parking_lot::Mutex;

pub use group::{GroupLog, GroupState};
pub use layout::{FILE_BYTES_MAX, Position, payload_bytes_max};
pub use recovery::{OpenError, RecoveryReport};
pub use writer::Step;

use crate::disk::Disk;
use writer::Writer;

/// Sizes and timeouts of the log.
#[derive(Clone)]
pub struct WalConfig {
    /// Length of a log file in bytes, a multiple of 4096.
    pub file_bytes: u64,
    /// Length of the first file of a new log, which is created before the log can be used; the next ones
    /// double in length, up to `file_bytes`.
    pub first_file_bytes: u64,
    /// Length of a chunk of log memory in bytes, when the log is busy.
    pub chunk_bytes: usize,
    /// Bytes of unused log memory that are kept until the log is idle.
    pub spare_bytes_max: usize,
    /// Most spare files.
    pub spare_files_max: usize,
    /// The longest that a write waits for more calls, where calls follow each other closely; three times as
    /// long after a long write. Zero disables it.
    pub gather: Duration,
    /// Real-time priority of the writer's thread while writes are short, from 1 to 99, where the system
    /// permits it; 0 leaves the default.
    pub writer_priority: u8,
    /// After this long without an append the durable mark of the last one is written.
    pub seal_after: Duration,
    /// After this long again unused memory is released.
    pub trim_after: Duration,
    /// Random value from the caller: it marks this log's files, so that a client cannot forge records that
    /// look like a part of the log.
    pub salt: u32,
    /// Called once, from the writer thread, when a write has failed; nothing is acknowledged after that.
    pub on_failure: Arc<dyn Fn(&WalFailed) + Send + Sync>,
}

impl Default for WalConfig {
    fn default() -> Self {
        WalConfig {
            file_bytes: 64 << 20,
            first_file_bytes: 4 << 20,
            chunk_bytes: 4 << 20,
            spare_bytes_max: 160 << 20,
            spare_files_max: 4,
            gather: Duration::from_micros(300),
            writer_priority: 0,
            seal_after: Duration::from_millis(50),
            trim_after: Duration::from_secs(1),
            salt: 0,
            on_failure: Arc::new(|_| {}),
        }
    }
}

/// What the log must know of the store when it opens.
#[derive(Clone, Debug, Default)]
pub struct RecoveryBase {
    /// Entries above this index keep their payload in memory: the runs do not have them yet. A group that is
    /// not listed keeps all.
    pub flushed: HashMap<RaftGroupId, u64>,
}

/// A payload that is encoded directly into the memory of the log: the same bytes each time.
pub trait FramePayload {
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether the payload is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `out`, whose length is [`len`](FramePayload::len).
    fn write(&self, out: &mut [u8]);
}

impl FramePayload for Bytes {
    fn len(&self) -> usize {
        Bytes::len(self)
    }
    fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }
}

/// An entry to append.
#[derive(Clone, Debug)]
pub struct Draft<P> {
    /// Log id of the entry.
    pub id: LogId,
    /// The payload's kind, opaque to the log.
    pub kind: u8,
    /// The payload.
    pub payload: P,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Log id of the entry.
    pub id: LogId,
    /// The payload's kind, opaque to the log.
    pub kind: u8,
    /// The payload: a part of the log's memory, or read back from the disk.
    pub payload: Bytes,
}

/// The log can no longer be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be written: {file} at {offset}: {reason}")]
pub struct WalFailed {
    /// Name of the file.
    pub file: String,
    /// Bytes from its start.
    pub offset: usize,
    /// The operating system's error.
    pub reason: String,
}

/// Why an append was refused; nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log has failed before.
    #[error(transparent)]
    Failed(#[from] WalFailed),
    /// The payload or vote is larger than the log takes.
    #[error("{bytes} bytes exceed the limit of a log entry ({bytes_max} bytes)")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
        /// Largest length.
        bytes_max: usize,
    },
    /// A log file has no space for the state of another group.
    #[error("the log is limited to {groups_max} Raft groups")]
    TooManyGroups {
        /// Most groups.
        groups_max: usize,
    },
    /// The numbers of log files are exhausted.
    #[error("the log has used all {files_max} file numbers; move its data to a new directory")]
    Exhausted {
        /// Most files in the life of a log.
        files_max: u64,
    },
    /// The entry does not follow the last one.
    #[error("{group}: entry {index} does not follow the last one; expected {expected}")]
    Gap {
        /// The group.
        group: RaftGroupId,
        /// The entry's index.
        index: u64,
        /// The index that would follow.
        expected: u64,
    },
}

/// Why an entry could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It has been purged.
    #[error("{group}: entry {index} is purged; the log begins at {first}")]
    Purged {
        /// The group.
        group: RaftGroupId,
        /// The entry's index.
        index: u64,
        /// First index in the log.
        first: u64,
    },
    /// The disk does not return what was written.
    #[error("{group}: entry {id} in {file} is damaged: {reason}")]
    Damaged {
        /// The group.
        group: RaftGroupId,
        /// The entry.
        id: LogId,
        /// Name of the file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// Counters since the log was opened.
#[derive(Debug, Default)]
pub struct WalStats {
    /// Durable writes, and how long each took.
    pub syncs: Histogram,
    /// Bytes written by these, padding included.
    pub bytes: AtomicU64,
}

impl fmt::Debug for WalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalConfig").field("file_bytes", &self.file_bytes).finish_non_exhaustive()
    }
}

/// An open write-ahead log.
pub struct Wal {
    shared: Arc<log::SharedLog>,
    driver: Driver,
    /// One caller at a time recycles files.
    reclaiming: Mutex<()>,
}

/// Who writes.
enum Driver {
    Thread(Option<JoinHandle<()>>),
    /// The caller of [`Wal::step`].
    Steps(Mutex<Writer>),
}

impl Wal {
    /// Opens the log of a store, creating it if absent, and recovers its content.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: WalConfig,
        base: &RecoveryBase,
    ) -> Result<(Wal, RecoveryReport), OpenError> {
        let (shared, report) = recovery::recover(disk, config, base)?;
        let shared = Arc::new(shared);
        let no_thread = |e: io::Error| OpenError::Io { what: "a thread".to_string(), reason: e.to_string() };
        let writer = Writer::new(shared.clone(), false);
        shared.files.start().map_err(no_thread)?;
        let thread = std::thread::Builder::new().name("wal-writer".to_string());
        let spawned = shared.pool.start().and_then(|()| thread.spawn(move || writer.run()));
        if spawned.is_err() {
            shared.pool.stop();
            shared.files.stop();
        }
        Ok((Wal::new(shared, Driver::Thread(Some(spawned.map_err(no_thread)?))), report))
    }

    /// Opens the log without threads: [`step`](Wal::step) writes what is pending on the caller's thread and
    /// creates files when they are needed. The behaviour follows from the calls alone.
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        config: WalConfig,
        base: &RecoveryBase,
    ) -> Result<(Wal, RecoveryReport), OpenError> {
        let (shared, report) = recovery::recover(disk, config, base)?;
        Ok((Wal::stepped(shared), report))
    }

    /// Creates an empty log without threads, for a repair.
    fn create_stepped(
        disk: Arc<dyn Disk>,
        config: WalConfig,
        seq: u64,
        lives: files::Lives,
    ) -> Result<Wal, OpenError> {
        Ok(Wal::stepped(recovery::create(disk, config, seq, lives)?))
    }

    fn stepped(shared: log::SharedLog) -> Wal {
        let shared = Arc::new(shared);
        let writer = Writer::new(shared.clone(), true);
        Wal::new(shared, Driver::Steps(Mutex::new(writer)))
    }

    fn new(shared: Arc<log::SharedLog>, driver: Driver) -> Wal {
        Wal { shared, driver, reclaiming: Mutex::new(()) }
    }

    /// Writes what is pending, in a log that was opened without threads.
    pub fn step(&self) -> Step {
        match &self.driver {
            Driver::Thread(_) => Step::Idle,
            Driver::Steps(writer) => writer.lock().step(),
        }
    }

    /// Writes what a log with threads writes when it becomes idle.
    pub fn step_seal(&self) -> Step {
        match &self.driver {
            Driver::Thread(_) => Step::Idle,
            Driver::Steps(writer) => writer.lock().seal(),
        }
    }

    /// Creates one file ahead, as a log with threads does in the background; returns whether one was due.
    pub fn step_prepare(&self) -> bool {
        match &self.driver {
            Driver::Thread(_) => false,
            // A failure is reported when the file is needed.
            Driver::Steps(_) => self.shared.files.make_next().unwrap_or(false),
        }
    }

    /// A handle to one group's part of the log.
    pub fn group(&self, group: RaftGroupId) -> GroupLog {
        GroupLog { shared: self.shared.clone(), group }
    }

    /// The groups in the log, sorted.
    pub fn groups(&self) -> Vec<RaftGroupId> {
        let mut groups: Vec<RaftGroupId> = self.shared.with(|log| log.groups.keys().copied().collect());
        groups.sort();
        groups
    }

    /// Bytes of log memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.shared.pool.in_use_bytes()
    }

    /// Bytes of spare log memory.
    pub fn spare_memory_bytes(&self) -> usize {
        self.shared.pool.spare_bytes()
    }

    /// Length of a chunk of log memory in bytes.
    pub fn chunk_bytes(&self) -> usize {
        self.shared.config.chunk_bytes
    }

    /// Bytes of the log files that a group still needs.
    pub fn size_bytes(&self) -> u64 {
        self.shared.with(|log| log.size_bytes())
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> &WalStats {
        &self.shared.stats
    }

    /// Why the log can no longer be written, if it has failed.
    pub fn failed(&self) -> Option<WalFailed> {
        self.shared.with(|log| log.failed.clone())
    }

    /// Length in bytes of the log's files, except for the first ones.
    pub fn file_bytes(&self) -> u64 {
        self.shared.config.file_bytes
    }

    /// Whether the next log file cannot be created because the disk is full: appends will block once the
    /// current file is full.
    pub fn waits_for_room(&self) -> bool {
        self.shared.files.is_waiting()
    }

    /// Releases unused memory; an idle log does so by itself.
    pub fn trim_memory(&self) {
        self.shared.with(|log| log.close_chunk());
        self.shared.pool.trim();
    }

    /// Recycles files whose entries every group has purged; returns how many. Blocks until the purge marks
    /// are durable.
    pub fn reclaim(&self) -> Result<usize, AppendError> {
        let _one = self.reclaiming.lock();
        let unneeded = self.shared.with(|log| log.unneeded_files());
        if unneeded.is_empty() {
            return Ok(0);
        }
        self.sync_states()?;
        self.shared.with(|log| unneeded.iter().for_each(|seq| drop(log.files.remove(seq))));
        self.shared.files.recycle(&unneeded);
        Ok(unneeded.len())
    }

    /// Writes every group's vote and marks and waits until they are durable.
    fn sync_states(&self) -> Result<(), AppendError> {
        let (result_tx, result_rx) = mpsc::channel();
        self.shared.change(|log| {
            log.admit(RaftGroupId::METADATA, 0)?;
            log.put_states();
            // The receiver is waiting, or has already got the failure of the log.
            log.when_durable(Box::new(move |result| drop(result_tx.send(result))));
            Ok::<(), AppendError>(())
        })?;
        let result = match &self.driver {
            Driver::Thread(_) => result_rx.recv().ok(),
            Driver::Steps(writer) => {
                writer.lock().step();
                result_rx.try_recv().ok()
            }
        };
        result.unwrap_or_else(|| Err(self.stopped())).map_err(AppendError::Failed)
    }

    fn stopped(&self) -> WalFailed {
        let reason = "its writer has stopped".to_string();
        self.failed().unwrap_or(WalFailed { file: "the log".to_string(), offset: 0, reason })
    }

    /// Writes everything and a seal, in a log without threads; returns the reason if that fails.
    fn finish(&self) -> Option<WalFailed> {
        let disk_full =
            WalFailed { file: "the log".to_string(), offset: 0, reason: "the disk is full".to_string() };
        self.shared.with(|log| log.put_seal());
        match self.step() {
            Step::Failed(failed) => Some(failed),
            Step::Blocked => Some(disk_full),
            Step::Idle | Step::Wrote => None,
        }
    }

    /// Writes what is pending and stops the writer. Dropping a log without threads writes nothing.
    pub fn shutdown(mut self) {
        if let Driver::Steps(writer) = &self.driver {
            let mut writer = writer.lock();
            // What is pending, then its durable mark.
            if [writer.step(), writer.seal()].iter().all(|step| matches!(step, Step::Idle | Step::Wrote)) {
                writer.close();
            }
        }
        self.stop();
    }

    fn stop(&mut self) {
        self.shared.with(|log| log.stopping = true);
        self.shared.work.notify_all();
        self.shared.files.close();
        if let Driver::Thread(writer) = &mut self.driver
            && let Some(writer) = writer.take()
        {
            // A panic of the writer has been reported already; nothing can be written any more.
            let _ = writer.join();
        }
        self.shared.pool.stop();
        self.shared.files.stop();
    }

    /// Total bytes written, for rates.
    pub fn written_bytes(&self) -> u64 {
        self.shared.stats.bytes.load(Relaxed)
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod tests;
