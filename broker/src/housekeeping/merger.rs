//! The merger: retention, idle producers and merges. All of it can wait, and none of it delays the flusher.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_model::PartitionId;
use millstream_replica::ProposeError;
use millstream_state::partition as commands;
use millstream_store::tables::{CompactPolicy, PartitionPolicy, Tables};
use tokio::runtime::Handle;

use super::{
    Pacer, Wakeup,
    backoff::{Backoff, Change},
    retention,
};
use crate::{clock, partition::Shard, service::Service};

/// Interval of checks for due work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval of checks for merges after changes.
pub(super) const MERGE_EVERY: Duration = Duration::from_secs(5);
/// Interval of checks for merges without known changes: a topic's configuration may have changed.
const MERGE_EVERY_IDLE: Duration = Duration::from_secs(60);
/// Interval of retention while the disk is low.
const RETENTION_EVERY_LOW: Duration = Duration::from_secs(5);
/// Timeout of a command: the log may have no space for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the merger.
pub(super) struct Merger {
    service: Service,
    tables: Arc<Tables>,
    runtime: Handle,
    pacer: Arc<Pacer>,
    merging: Backoff,
    /// The tables' change counter at the last check that found nothing to merge, and its time.
    settled: (u64, Instant),
    retained_at: Instant,
    producers_at: Instant,
}

/// Why a command took no effect, as far as known.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("the log did not take it in time")]
    Timeout,
}

impl Merger {
    pub(super) fn new(service: Service, tables: Arc<Tables>, runtime: Handle, pacer: Arc<Pacer>) -> Merger {
        let now = clock::monotonic();
        pacer.settled(tables.run_count());
        let settled = (u64::MAX, now);
        let merging = Backoff::default();
        Merger { service, tables, runtime, pacer, merging, settled, retained_at: now, producers_at: now }
    }

    /// Does what is due until it is stopped.
    pub(super) fn run(&mut self, stopped: &AtomicBool, wakeup: &Wakeup) {
        while !stopped.load(Relaxed) {
            let now = clock::monotonic();
            if now >= self.retained_at + self.retention_every() {
                self.retained_at = now;
                self.retain(stopped);
            }
            if now >= self.producers_at + self.expiry_every() {
                self.producers_at = now;
                self.expire_producers(stopped);
            }
            if !(self.merge_is_due(now) && self.merge(now)) {
                wakeup.sleep(LOOK_EVERY);
            }
        }
    }

    fn retention_every(&self) -> Duration {
        let usual = Duration::from_millis(self.service.broker_config().retention_check_ms);
        if self.service.disk_is_low() { usual.min(RETENTION_EVERY_LOW) } else { usual }
    }

    fn expiry_every(&self) -> Duration {
        Duration::from_millis(self.service.broker_config().producer_id_check_ms)
    }

    /// Moves log starts by the topics' retention, with replicated commands.
    fn retain(&self, stopped: &AtomicBool) {
        let now_ms = clock::now_ms();
        for shard in self.service.shards() {
            if stopped.load(Relaxed) {
                return;
            }
            let moves = retention::moves(&self.service, &self.tables, shard, now_ms);
            if moves.is_empty() {
                continue;
            }
            if let Err(error) = self.write(shard, commands::encode_set_log_start(&moves)) {
                tracing::warn!(shard = %shard.id(), %error, "retention failed; retrying in the next round");
            }
        }
    }

    /// Removes idle producers, with replicated commands; a shard without any writes nothing.
    fn expire_producers(&self, stopped: &AtomicBool) {
        let (now_ms, idle_ms) = (clock::now_ms(), self.service.broker_config().producer_id_expiration_ms);
        for shard in self.service.shards() {
            if stopped.load(Relaxed) {
                return;
            }
            if !shard.host.inspect(|machine| machine.has_expired_producers(now_ms, idle_ms)) {
                continue;
            }
            if let Err(error) = self.write(shard, commands::encode_expire_producers(now_ms, idle_ms)) {
                tracing::warn!(shard = %shard.id(), %error, "expiry of idle producers failed; retrying in the next round");
            }
        }
    }

    fn write(&self, shard: &Shard, command: Bytes) -> Result<(), CommandError> {
        let written = async { tokio::time::timeout(WRITE_TIMEOUT, shard.write(command)).await };
        self.runtime.block_on(written).map_err(|_| CommandError::Timeout)??;
        Ok(())
    }

    /// Whether a check for merges is worthwhile: it iterates over all partitions.
    fn merge_is_due(&self, now: Instant) -> bool {
        let (seen, at) = self.settled;
        let every = if self.service.disk_is_low() { LOOK_EVERY } else { MERGE_EVERY };
        let is_new = self.tables.changes() != seen || self.tables.compaction_due_ms() <= clock::now_ms();
        self.merging.may_try(now) && (now >= at + MERGE_EVERY_IDLE || (is_new && now >= at + every))
    }

    /// Runs one merge; `false` if nothing is due.
    fn merge(&mut self, now: Instant) -> bool {
        let (changes, now_ms) = (self.tables.changes(), clock::now_ms());
        let merged = self.tables.merge_once(&|id| self.policy(id, now_ms));
        let outcome = merged.as_ref().map(|_| ());
        match self.merging.record(clock::monotonic(), &outcome) {
            Change::Works => tracing::info!("merges recovered"),
            Change::Fails => tracing::error!(error = ?outcome.err(), "merge failed; retrying"),
            Change::None => {}
        }
        match merged {
            Ok(done) if done.merged_runs > 0 || done.dropped_runs > 0 => {
                tracing::debug!(?done, "runs merged");
                true
            }
            Ok(_) => {
                self.settled = (changes, now);
                self.pacer.settled(self.tables.run_count());
                false
            }
            Err(_) => false,
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
