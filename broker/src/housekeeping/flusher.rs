//! The housekeeper: writes what must leave memory and the log, and watches the disk.

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
    plan::{Bounds, Due, Load, Plan},
    reserve::Reserve,
};
use crate::{
    clock,
    service::{DiskSample, FlushTrouble, Service},
};

/// Time between two looks while something happens. A full memtable does not wait for a look.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time between two looks after a while in which nothing happened.
const LOOK_EVERY_IDLE: Duration = Duration::from_secs(1);
/// Time between two looks at the free disk space, and at which records are to be compacted soon.
const DISK_EVERY: Duration = Duration::from_secs(1);
/// Room that checkpoints and a manifest take, beside the memtable.
const SMALL_FILES_BYTES: u64 = 8 << 20;

/// Why something could not be written. It is in the log, and stays there.
#[derive(Debug, thiserror::Error)]
pub(super) enum HouseError {
    /// The memtable.
    #[error("the memtable cannot be written: {0}")]
    Flush(#[from] WriteError),
    /// The state of a group.
    #[error("no checkpoint: {0}")]
    Checkpoint(#[from] StartError),
    /// Log files cannot be used again.
    #[error("log files cannot be freed: {0}")]
    Reclaim(#[from] AppendError),
}

/// What the housekeeper works with.
pub(super) struct Flusher {
    service: Service,
    kept: StoreHandles,
    runtime: Handle,
    pacer: Arc<Pacer>,
    reserve: Reserve,
    /// How far each group is in runs.
    flushed: HashMap<RaftGroupId, LogId>,
    plan: Plan,
    /// The shortest time within which records in the memtable are to be compacted, as of the last look.
    compact_within: Option<Duration>,
    writing: Backoff,
    reserving: Backoff,
    disk_low: bool,
    log_waits: bool,
    /// The disk has become low, or the log waits: what can be freed is freed now.
    checkpoint_soon: bool,
    /// Bytes that were written and read when it last looked.
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
            plan: Plan::new(),
            compact_within: None,
            writing: Backoff::default(),
            reserving: Backoff::default(),
            disk_low: false,
            log_waits: false,
            checkpoint_soon: false,
            moved_bytes: 0,
        }
    }

    /// Keeps house until it is told to stop, and then writes everything.
    pub(super) fn run(&mut self, stopped: &AtomicBool, bell: &Wakeup) {
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
                bell.rest(pause);
            }
        }
        self.finish();
    }

    /// Whether somebody has written or read since the last look.
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

    /// The shortest `max.compaction.lag.ms` of the compacted topics that have records in the memtable.
    fn compact_within(&self) -> Option<Duration> {
        let tables = &self.kept.tables;
        if tables.memory_bytes() == 0 {
            return None;
        }
        let lags = self.service.compaction_lags().into_iter();
        let in_memory = lags.filter(|(_, partitions)| partitions.iter().any(|id| tables.has_in_memory(*id)));
        in_memory.map(|(lag, _)| lag).min()
    }

    /// Writes what is due, if it can be written; whether anything was.
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
            if self.checkpoint_soon { Due::Checkpoint } else { self.plan.due(&self.load(), &bounds, now) };
        let outcome = match due {
            Due::Nothing => return false,
            Due::Flush => self.flush(),
            Due::Checkpoint => self.flush().and_then(|()| self.checkpoint()),
        };
        self.tell(&outcome);
        if outcome.is_err() {
            return false;
        }
        self.checkpoint_soon = false;
        let left = self.load();
        self.plan.wrote(due, &left, clock::monotonic());
        true
    }

    /// Tells whoever asks for the broker's health, and the log.
    fn tell(&mut self, outcome: &Result<(), HouseError>) {
        let error = outcome.as_ref().err();
        let reason = |error: &HouseError| match self.service.disk_space() {
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
        match self.writing.note(clock::monotonic(), outcome) {
            Change::Works => tracing::info!("what could not be written is written"),
            // Nothing is lost: what is in memory is in the log too, and a later round tries again.
            Change::Fails => tracing::error!(error, "writing is tried again later"),
            Change::None => {}
        }
    }

    fn watch_disk(&mut self, now: Instant) {
        let free = match self.kept.disk.free_bytes() {
            Ok(free) => free,
            Err(error) => return tracing::warn!(%error, "the free disk space cannot be told"),
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
        // What the log waits for is not taken from it.
        if low || log_waits || !self.reserving.may_try(now) {
            return;
        }
        let covered = self.reserve.cover(memory, free, low_bytes);
        if self.reserving.note(now, &covered) == Change::Fails
            && let Err(error) = covered
        {
            tracing::warn!(%error, "no disk space can be reserved");
        }
    }

    /// Writes the memtable; into the reserved room, if there is no other.
    fn flush(&mut self) -> Result<(), HouseError> {
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

    /// Gives the reserved room back if the disk has too little; whether that made a difference.
    fn give_room(&mut self) -> bool {
        let needed = self.kept.tables.memory_bytes() as u64 + SMALL_FILES_BYTES;
        if self.reserve.bytes() == 0 || self.kept.disk.free_bytes().is_ok_and(|free| free >= needed) {
            return false;
        }
        match self.reserve.release() {
            Ok(released) => {
                tracing::warn!(
                    "the disk is full: what was reserved on it is used to write what is in memory"
                );
                released
            }
            Err(error) => {
                tracing::error!(%error, "the reserved disk space cannot be given back");
                false
            }
        }
    }

    /// Writes every group's state and lets the log forget what state and runs have.
    fn checkpoint(&mut self) -> Result<(), HouseError> {
        let first = self.checkpoint_groups();
        let written = if first.is_err() && self.give_room() { self.checkpoint_groups() } else { first };
        // Some groups may have theirs all the same.
        let files = self.kept.wal.reclaim()?;
        tracing::debug!(files, "log files are free again");
        Ok(written?)
    }

    fn checkpoint_groups(&self) -> Result<(), StartError> {
        let groups = self.service.shards().map(|shard| shard.group()).chain([self.service.metadata()]);
        let groups: Vec<&Group> = groups.collect();
        self.runtime.block_on(checkpoint_all(&groups, &self.flushed))
    }

    /// Writes all there is, so that the next start has nothing to do.
    fn finish(&mut self) {
        // Before anything is written: the log itself may be waiting for room.
        self.give_room();
        if let Err(error) = self.flush().and_then(|()| self.checkpoint()) {
            tracing::error!(%error, "the next start reads the log instead");
        }
    }
}

/// Checkpoints all groups at once: each needs the batches that it counts on in runs, and one flush has those of all.
/// Their states are written one after the other, and most of them is not copied for that.
/// The log forgets what both checkpoint and runs have. Those that can be written are, whatever happens to others.
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
