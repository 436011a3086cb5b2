//! What goes on behind the requests: flushes, checkpoints, retention, merges, watching the disk.
//!
//! One thread does all that blocks. It looks around a few times a second; nothing here has a timer of its own
//! per partition or per group.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_model::{GroupId, LogId, PartitionId};
use millstream_replica::Group;
use millstream_state::partition as commands;
use millstream_store::{
    disk::{Disk, OsDisk},
    tables::{CompactPolicy, PartitionPolicy, Tables},
    wal::Wal,
};
use tokio::runtime::Handle;

use crate::{clock, partition::Shard, service::Service};

/// Time between two looks at what is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time between two looks at the free disk space.
const DISK_EVERY: Duration = Duration::from_secs(1);
/// Time between two tries to write what could not be written, for instance because the disk is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Time between two rounds of retention and merging.
const RETENTION_EVERY: Duration = Duration::from_secs(5);
/// Time between two looks for producers that have been idle for too long.
const PRODUCERS_EVERY: Duration = Duration::from_secs(60);

/// The thread that keeps house.
pub struct Housekeeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

struct House {
    service: Service,
    disk: Arc<OsDisk>,
    wal: Arc<Wal>,
    tables: Arc<Tables>,
    runtime: Handle,
    /// Where each group's runs and checkpoint are.
    flushed: HashMap<GroupId, LogId>,
}

impl Housekeeper {
    /// Starts keeping house; call it on the runtime that the groups run on.
    pub fn start(service: Service, disk: Arc<OsDisk>, wal: Arc<Wal>, tables: Arc<Tables>) -> io::Result<Housekeeper> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let flushed = HashMap::new();
        let mut house = House { service, disk, wal, tables, runtime: Handle::current(), flushed };
        let thread = std::thread::Builder::new().name("housekeeper".into()).spawn(move || house.run(&stopped))?;
        Ok(Housekeeper { stop, thread })
    }

    /// Flushes and checkpoints everything, so that the next start has nothing to do, and ends the thread.
    pub async fn shutdown(self) {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the housekeeper ended badly; the next start reads the log instead");
        }
    }
}

impl House {
    fn run(&mut self, stopped: &AtomicBool) {
        let start = clock::monotonic();
        let (mut disk_at, mut retention_at) = (start, start + RETENTION_EVERY);
        let (mut producers_at, mut write_at) = (start + PRODUCERS_EVERY, start);
        while !stopped.load(Relaxed) {
            let now = clock::monotonic();
            if due(&mut disk_at, now, DISK_EVERY) {
                self.watch_disk();
            }
            if now >= write_at && !self.write() {
                write_at = now + RETRY_AFTER;
            }
            if due(&mut retention_at, now, RETENTION_EVERY) {
                self.retain();
                self.merge(stopped);
            }
            if due(&mut producers_at, now, PRODUCERS_EVERY) {
                self.expire_producers();
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        // What cannot be written now is in the log, and the next start reads it there.
        if self.flush() {
            self.checkpoint();
        }
    }

    /// Writes what has become large; `false` if it could not be written.
    fn write(&mut self) -> bool {
        if self.wal.size_bytes() > self.service.broker_config().wal_checkpoint_bytes {
            return self.flush() && self.checkpoint();
        }
        !self.tables.needs_flush() || self.flush()
    }

    fn watch_disk(&self) {
        match self.disk.free_bytes() {
            Ok(free) => self.service.set_disk_low(free < self.service.broker_config().disk_low_bytes),
            Err(error) => tracing::warn!(%error, "the free disk space cannot be told"),
        }
    }

    fn flush(&mut self) -> bool {
        match self.tables.flush() {
            Ok(flushed) => {
                for (group, id) in flushed.groups {
                    self.wal.group(group).release_memory(id.index);
                    self.flushed.insert(group, id);
                }
                true
            }
            // The memtable stays as it was: nothing is lost, and a later round tries again.
            Err(error) => {
                tracing::error!(%error, "the memtable cannot be written");
                false
            }
        }
    }

    /// Writes every group's state and lets the log forget what state and runs have; `false` if any could not be
    /// written.
    fn checkpoint(&self) -> bool {
        let groups = self.service.shards().map(|shard| shard.group()).chain([self.service.metadata()]);
        let groups: Vec<&Group> = groups.collect();
        let mut written = true;
        self.runtime.block_on(async {
            for group in &groups {
                if let Err(error) = self.checkpoint_one(group).await {
                    tracing::error!(group = %group.id(), %error, "no checkpoint");
                    written = false;
                }
            }
        });
        match self.wal.reclaim() {
            Ok(files) => tracing::debug!(files, "log files are free again"),
            Err(error) => tracing::error!(%error, "log files cannot be freed"),
        }
        written
    }

    async fn checkpoint_one(&self, group: &Group) -> Result<(), millstream_replica::StartError> {
        let Some(at) = group.checkpoint().await? else { return Ok(()) };
        if let Some(flushed) = self.flushed.get(&group.id()) {
            group.purge(at.index.min(flushed.index)).await?;
        }
        Ok(())
    }

    /// Moves log starts as the topics' retention says, by replicated command.
    fn retain(&self) {
        let now_ms = clock::now_ms();
        for shard in self.service.shards() {
            let moves = self.expired(shard, now_ms);
            if moves.is_empty() {
                continue;
            }
            let command = commands::encode_set_log_start(&moves);
            if let Err(error) = self.runtime.block_on(shard.write(command)) {
                tracing::warn!(shard = %shard.id(), %error, "retention waits for the next round");
            }
        }
    }

    /// Forgets idle producers, by replicated command; a shard that has none writes nothing.
    fn expire_producers(&self) {
        let (now_ms, idle_ms) = (clock::now_ms(), self.service.broker_config().producer_id_expiration_ms);
        for shard in self.service.shards() {
            if !shard.host.inspect(|machine| machine.has_expired_producers(now_ms, idle_ms)) {
                continue;
            }
            let command = commands::encode_expire_producers(now_ms, idle_ms);
            if let Err(error) = self.runtime.block_on(shard.write(command)) {
                tracing::warn!(shard = %shard.id(), %error, "idle producers are kept until the next round");
            }
        }
    }

    fn expired(&self, shard: &Arc<Shard>, now_ms: i64) -> Vec<(PartitionId, i64)> {
        let bounds: Vec<_> = shard.host.inspect(|machine| {
            machine.partitions().map(|(id, p)| (id, p.log_start(), p.next_offset())).collect()
        });
        let mut moves = Vec::new();
        for (id, log_start, next_offset) in bounds {
            let Some(config) = self.service.topic_config_of(id) else { continue };
            if !config.delete || log_start == next_offset {
                continue;
            }
            let pieces = self.tables.pieces(id);
            let mut size: u64 = pieces.iter().map(|piece| piece.bytes).sum();
            let mut start = log_start;
            for piece in pieces {
                let too_old = config.retention_ms.is_some_and(|ms| piece.max_timestamp < now_ms.saturating_sub(ms));
                let too_much = config.retention_bytes.is_some_and(|most| size.saturating_sub(piece.bytes) >= most);
                if !too_old && !too_much {
                    break;
                }
                size -= piece.bytes;
                start = start.max(piece.next_offset);
            }
            if start > log_start {
                moves.push((id, start.min(next_offset)));
            }
        }
        moves
    }

    fn merge(&self, stopped: &AtomicBool) {
        let now_ms = clock::now_ms();
        let policy = |id: PartitionId| self.policy(id, now_ms);
        while !stopped.load(Relaxed) {
            match self.tables.merge_once(&policy) {
                Ok(outcome) if outcome.merged_runs > 0 || outcome.dropped_runs > 0 => {
                    tracing::debug!(?outcome, "runs merged");
                    if self.tables.needs_flush() {
                        return;
                    }
                }
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(%error, "runs cannot be merged");
                    return;
                }
            }
        }
    }

    fn policy(&self, id: PartitionId, now_ms: i64) -> PartitionPolicy {
        match self.service.topic_config_of(id) {
            None => PartitionPolicy { live: false, log_start: i64::MAX, compact: None },
            Some(config) => PartitionPolicy {
                live: true,
                log_start: self.service.log_start_of(id).unwrap_or(0),
                compact: config.compact.then(|| CompactPolicy {
                    now_ms,
                    delete_retention_ms: config.delete_retention_ms,
                    min_lag_ms: config.min_compaction_lag_ms,
                    max_lag_ms: config.max_compaction_lag_ms,
                    min_dirty_ratio: config.min_cleanable_dirty_ratio,
                }),
            },
        }
    }
}

fn due(at: &mut Instant, now: Instant, every: Duration) -> bool {
    if now < *at {
        return false;
    }
    *at = now + every;
    true
}
