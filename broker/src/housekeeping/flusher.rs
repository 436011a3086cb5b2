//! The flusher: writes what must leave memory and the log, and watches the disk.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use millstream_model::{LogId, RaftGroupId};
use millstream_replica::{Group, StartError};
use millstream_store::{disk::Disk, tables::WriteError, wal::AppendError};
use tokio::runtime::Handle;

use super::{
    Pacer, StoreHandles, Wakeup,
    backoff::{Backoff, Change},
    reserve::Reserve,
    write_policy::{Bounds, Due, Load, WritePolicy},
};
use crate::{
    clock,
    service::{DiskSample, FlushTrouble, Service},
};

/// Interval of checks while the broker is busy. A full memtable does not wait for a check.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Interval of checks while the broker is idle.
const LOOK_EVERY_IDLE: Duration = Duration::from_secs(1);
/// Interval of checks of the free disk space, and of compaction lags.
const DISK_EVERY: Duration = Duration::from_secs(1);
/// Space that checkpoints and a manifest need, beside the memtable.
const SMALL_FILES_BYTES: u64 = 8 << 20;

/// Why something could not be written. It is in the log, and stays there.
#[derive(Debug, thiserror::Error)]
pub(super) enum MaintenanceError {
    /// The memtable.
    #[error("the memtable cannot be written: {0}")]
    Flush(#[from] WriteError),
    /// The state of a group.
    #[error("no checkpoint: {0}")]
    Checkpoint(#[from] StartError),
    /// Log files could not be recycled.
    #[error("log files cannot be freed: {0}")]
    Reclaim(#[from] AppendError),
}

/// The state of the flusher.
pub(super) struct Flusher {
    service: Service,
    kept: StoreHandles,
    runtime: Handle,
    pacer: Arc<Pacer>,
    reserve: Reserve,
    /// The flushed mark of each group.
    flushed: HashMap<RaftGroupId, LogId>,
    policy: WritePolicy,
    /// The smallest compaction lag of records in the memtable, as of the last check.
    compact_within: Option<Duration>,
    writing: Backoff,
    reserving: Backoff,
    disk_low: bool,
    log_waits: bool,
    /// The disk is low, or the log waits for space: everything reclaimable is freed now.
    checkpoint_soon: bool,
    /// Bytes written and read as of the last check.
    moved_bytes: u64,
}

impl Flusher {
    pub(super) fn new(
        service: Service,
        kept: StoreHandles,
        runtime: Handle,
        pacer: Arc<Pacer>,
        reserve: Reserve,
    ) -> Flusher {
        Flusher {
            service,
            kept,
            runtime,
            pacer,
            reserve,
            flushed: HashMap::new(),
            policy: WritePolicy::new(),
            compact_within: None,
            writing: Backoff::default(),
            reserving: Backoff::default(),
            disk_low: false,
            log_waits: false,
            checkpoint_soon: false,
            moved_bytes: 0,
        }
    }

    /// Runs until it is stopped, and then writes everything.
    pub(super) fn run(&mut self, stopped: &AtomicBool, wakeup: &Wakeup) {
        let (mut disk_at, mut pause) = (clock::monotonic(), LOOK_EVERY);
        while !stopped.load(Relaxed) {
            let now = clock::monotonic();
            let busy = self.has_moved();
            if now >= disk_at {
                disk_at = now + DISK_EVERY;
                self.watch_disk(now);
                self.compact_within = self.compact_within();
            }
            self.pacer.set(busy, self.kept.tables.run_count());
            if !self.write(now) {
                pause = if busy { LOOK_EVERY } else { (pause * 2).min(LOOK_EVERY_IDLE) };
                wakeup.sleep(pause);
            }
        }
        self.finish();
    }

    /// Whether anything was written or read since the last check.
    fn has_moved(&mut self) -> bool {
        let moved = self.kept.wal.written_bytes() + self.service.meter().total.fetched_bytes.load(Relaxed);
        std::mem::replace(&mut self.moved_bytes, moved) != moved
    }

    fn load(&self) -> Load {
        Load {
            memtable_full: self.kept.tables.needs_flush(),
            memtable_bytes: self.kept.tables.memory_bytes(),
            compact_within: self.compact_within,
            log_memory_bytes: self.kept.wal.memory_bytes(),
            log_bytes: self.kept.wal.size_bytes(),
            disk_low: self.disk_low,
        }
    }

    /// The smallest `max.compaction.lag.ms` of the compacted topics that have records in the memtable.
    fn compact_within(&self) -> Option<Duration> {
        let tables = &self.kept.tables;
        if tables.memory_bytes() == 0 {
            return None;
        }
        let lags = self.service.compaction_lags().into_iter();
        let in_memory = lags.filter(|(_, partitions)| partitions.iter().any(|id| tables.has_in_memory(*id)));
        in_memory.map(|(lag, _)| lag).min()
    }

    /// Writes what is due, if possible; returns whether anything was written.
    fn write(&mut self, now: Instant) -> bool {
        if !self.writing.may_try(now) {
            return false;
        }
        let config = self.service.broker_config();
        let bounds = Bounds {
            log_memory_bytes: config.log_memory_bytes,
            log_bytes: config.wal_checkpoint_bytes,
            log_file_bytes: self.kept.wal.file_bytes(),
        };
        let due =
            if self.checkpoint_soon { Due::Checkpoint } else { self.policy.due(&self.load(), &bounds, now) };
        let outcome = match due {
            Due::Nothing => return false,
            Due::Flush => self.flush(),
            Due::Checkpoint => self.flush().and_then(|()| self.checkpoint()),
        };
        self.report(&outcome);
        if outcome.is_err() {
            return false;
        }
        self.checkpoint_soon = false;
        let left = self.load();
        self.policy.wrote(due, &left, clock::monotonic());
        true
    }

    /// Updates the health status, and the log.
    fn report(&mut self, outcome: &Result<(), MaintenanceError>) {
        let error = outcome.as_ref().err();
        let reason = |error: &MaintenanceError| match self.service.disk_space() {
            Some(space) if space.lacks_inodes() => {
                format!(
                    "{error}: the volume has no inodes left, though {} MiB are free",
                    space.free_bytes >> 20
                )
            }
            _ => error.to_string(),
        };
        self.service.set_flush_trouble(error.map(|error| FlushTrouble { reason: reason(error) }));
        let error = error.map(tracing::field::display);
        match self.writing.record(clock::monotonic(), outcome) {
            Change::Works => tracing::info!("flush recovered"),
            // Nothing is lost: what is in memory is in the log too, and a later round retries.
            Change::Fails => tracing::error!(error, "flush failed; retrying"),
            Change::None => {}
        }
    }

    fn watch_disk(&mut self, now: Instant) {
        let free = match self.kept.disk.free_bytes() {
            Ok(free) => free,
            Err(error) => return tracing::warn!(%error, "cannot read the free disk space"),
        };
        let low_bytes = self.service.broker_config().disk_low_bytes;
        let (memory, log_waits) = (self.kept.tables.memory_bytes() as u64, self.kept.wal.waits_for_room());
        let owed_bytes = self.reserve.lacks(memory + SMALL_FILES_BYTES);
        let low =
            self.service.set_disk_space(DiskSample { free_bytes: free, owed_bytes, log_waits }, low_bytes);
        let was =
            (std::mem::replace(&mut self.disk_low, low), std::mem::replace(&mut self.log_waits, log_waits));
        if was != (low, log_waits) {
            self.checkpoint_soon |= low || log_waits;
            self.writing.try_soon(now);
        }
        // The space that the log waits for is not reserved.
        if low || log_waits || !self.reserving.may_try(now) {
            return;
        }
        let covered = self.reserve.cover(memory, free, low_bytes);
        if self.reserving.record(now, &covered) == Change::Fails
            && let Err(error) = covered
        {
            tracing::warn!(%error, "cannot reserve disk space");
        }
    }

    /// Writes the memtable, using the reserved space if necessary.
    fn flush(&mut self) -> Result<(), MaintenanceError> {
        let flushed = match self.kept.tables.flush() {
            Err(_) if self.give_room() => self.kept.tables.flush(),
            first => first,
        }?;
        for (group, id) in flushed.groups {
            self.kept.wal.group(group).release_memory(id.index);
            self.flushed.insert(group, id);
        }
        Ok(())
    }

    /// Releases the reserved space if the disk has too little; returns whether that made a difference.
    fn give_room(&mut self) -> bool {
        let needed = self.kept.tables.memory_bytes() as u64 + SMALL_FILES_BYTES;
        if self.reserve.bytes() == 0 || self.kept.disk.free_bytes().is_ok_and(|free| free >= needed) {
            return false;
        }
        match self.reserve.release() {
            Ok(released) => {
                tracing::warn!("disk full; releasing the reserved space to flush memory");
                released
            }
            Err(error) => {
                tracing::error!(%error, "cannot release the reserved disk space");
                false
            }
        }
    }

    /// Writes every group's state and purges the log up to what checkpoints and runs cover.
    fn checkpoint(&mut self) -> Result<(), MaintenanceError> {
        let first = self.checkpoint_groups();
        let written = if first.is_err() && self.give_room() { self.checkpoint_groups() } else { first };
        // Some groups may have theirs all the same.
        let files = self.kept.wal.reclaim()?;
        tracing::debug!(files, "log files recycled");
        Ok(written?)
    }

    fn checkpoint_groups(&self) -> Result<(), StartError> {
        let groups = self.service.shards().map(|shard| shard.group()).chain([self.service.metadata()]);
        let groups: Vec<&Group> = groups.collect();
        self.runtime.block_on(checkpoint_all(&groups, &self.flushed))
    }

    /// Writes everything, so that the next start has nothing to replay.
    fn finish(&mut self) {
        // Before anything is written: the log itself may be waiting for space.
        self.give_room();
        if let Err(error) = self.flush().and_then(|()| self.checkpoint()) {
            tracing::error!(%error, "final flush failed; the next start replays the log");
        }
    }
}

/// Checkpoints all groups at once: each needs its batches in runs, and one flush covers those of all. The
/// states are written one after the other, and most of them are not copied for that. The log is purged up to
/// what both checkpoint and runs cover. A failure of some groups does not affect the others.
pub(super) async fn checkpoint_all(
    groups: &[&Group],
    flushed: &HashMap<RaftGroupId, LogId>,
) -> Result<(), StartError> {
    let each = groups.iter().map(|group| checkpoint_one(group, flushed.get(&group.id())));
    futures::future::join_all(each).await.into_iter().collect()
}

async fn checkpoint_one(group: &Group, flushed: Option<&LogId>) -> Result<(), StartError> {
    let Some(at) = group.checkpoint().await? else { return Ok(()) };
    match flushed {
        Some(flushed) => group.purge(at.index.min(flushed.index)).await,
        None => Ok(()),
    }
}
