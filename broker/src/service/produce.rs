//! Produce: checks batches, recompresses them if the topic requires it, orders and queues them, and waits for the result.
//!
//! Uncompressed records are checked at once, whatever their size. Decompression can take long, so a large compressed batch
//! is checked on a blocking thread, and later batches of the same client queue behind it: see [`Turns`]. A batch is
//! decompressed piece by piece to be checked, and completely only to be recompressed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::{Either, join_all, ready};
use millstream_model::{PartitionId, batch::StreamLimits, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Appended, Inner, ProduceError, ProducePart, Service, TopicView, Turns};
use crate::{
    clock,
    partition::{
        CheckError, CheckRules, Checked, CheckedBatch, DeferredCheck, Shard, Submission, check_batch,
    },
    telemetry::Meter,
};

/// A compressed batch of at most this size is checked at once if it expands to at most the next constant: that takes
/// about as long as a round trip to another thread.
const INLINE_SENT_BYTES_MAX: usize = 32 << 10;
const INLINE_BYTES_MAX: usize = 128 << 10;
const INLINE: StreamLimits =
    StreamLimits { memory_bytes_max: INLINE_BYTES_MAX, payload_bytes_max: INLINE_BYTES_MAX };
/// Larger batches that are decompressed at the same time; each may take as much memory as [`Decompression`] allows.
const DECOMPRESSIONS_MAX: usize = 2;

/// A warning is logged for a record that is ahead of the broker's clock by more than this.
const AHEAD_WARNED_MS: i64 = 3_600_000;
/// Minimum interval between these warnings.
const AHEAD_WARNINGS_INTERVAL_MS: i64 = 60_000;

/// Warns of producers whose clocks are far ahead, if the topic accepts them: lookups by time find their records after all
/// others. (Retention does not wait for that time: it counts from the append time.)
#[derive(Debug, Default)]
pub(super) struct AheadWarnings {
    last_ms: AtomicI64,
}

impl AheadWarnings {
    fn check(&self, topic: &str, batch: &CheckedBatch, now_ms: i64) {
        let ahead_ms = batch.header.max_timestamp.saturating_sub(now_ms);
        if ahead_ms > AHEAD_WARNED_MS && batch.log_append_ms.is_none() && self.is_due(now_ms) {
            let timestamp_ms = batch.header.max_timestamp;
            tracing::warn!(topic, timestamp_ms, ahead_ms, "a record's timestamp is far in the future");
        }
    }

    fn is_due(&self, now_ms: i64) -> bool {
        let last = self.last_ms.load(Relaxed);
        now_ms.saturating_sub(last) >= AHEAD_WARNINGS_INTERVAL_MS
            && self.last_ms.compare_exchange(last, now_ms, Relaxed, Relaxed).is_ok()
    }
}

/// Decompresses batches on blocking threads, a few at a time.
#[derive(Debug)]
pub(super) struct Decompression {
    permits: Arc<Semaphore>,
    limits: StreamLimits,
}

impl Decompression {
    /// At most `decompressed_bytes_max` of a decompressed batch are in memory at a time.
    pub(super) fn new(decompressed_bytes_max: usize) -> Decompression {
        let limits = StreamLimits {
            memory_bytes_max: decompressed_bytes_max,
            payload_bytes_max: limits::DECOMPRESSED_BYTES_MAX,
        };
        Decompression { permits: Arc::new(Semaphore::new(DECOMPRESSIONS_MAX)), limits }
    }

    /// Waits for a permit to decompress a batch. Never `None`: the semaphore is never closed.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_owned().await.ok()
    }

    async fn run(&self, check: DeferredCheck) -> Result<CheckedBatch, ProduceError> {
        let permit = self.permit().await.ok_or(ProduceError::Unavailable)?;
        let limits = self.limits;
        let checked = tokio::task::spawn_blocking(move || {
            let checked = check.run(limits);
            drop(permit);
            checked
        });
        match checked.await {
            Ok(checked) => checked.map_err(refusal),
            Err(error) => {
                tracing::error!(%error, "a batch could not be decompressed");
                Err(ProduceError::Unavailable)
            }
        }
    }
}

fn refusal(error: CheckError) -> ProduceError {
    match error {
        CheckError::Refused(error) => error,
        CheckError::TooLarge { bytes_max } => ProduceError::InvalidRecord(format!(
            "the batch has more than {bytes_max} bytes of records when it is decompressed"
        )),
    }
}

/// Whether the batches of a call are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queueing {
    /// All that are not refused are queued.
    Done,
    /// Large ones are decompressed first, or wait for those of an earlier call.
    Pending,
}

/// A checked batch with its partition and shard.
struct Prepared {
    topic: Arc<TopicView>,
    shard: Arc<Shard>,
    partition: PartitionId,
    epoch_base: i32,
    batch: Checked,
    now_ms: i64,
}

type PreparedBatch = Result<Prepared, ProduceError>;
/// A queued batch, with the receiver of its result.
type Queued = Result<(oneshot::Receiver<Result<Appended, ProduceError>>, Moved), ProduceError>;

impl Service {
    /// Checks, orders and queues the batches before it returns, unless large ones must be decompressed; the future gives
    /// the result of each. Batches of two calls with the same turns for one partition are appended in the order of the
    /// calls.
    ///
    /// Dropping the future of queued batches only loses the results. Dropping it while their queueing is pending drops all
    /// of them, never some: run it as a change if they must be appended nevertheless.
    pub fn produce(
        &self,
        turns: &Turns,
        parts: Vec<ProducePart>,
        transactional: bool,
        timeout: Duration,
    ) -> (Queueing, impl Future<Output = Vec<Result<Appended, ProduceError>>> + Send + 'static) {
        let (now_ms, begun) = (clock::now_ms(), clock::monotonic());
        let prepared: Vec<_> =
            parts.into_iter().map(|part| self.prepare(part, transactional, now_ms)).collect();
        let takes_time =
            |one: &PreparedBatch| matches!(one, Ok(Prepared { batch: Checked::Deferred(_), .. }));
        let turn = turns.take(prepared.iter().any(takes_time));
        let inner = self.inner.clone();
        let (queueing, queued) = match turn {
            None => {
                let (queued, touched) = inner.queue(prepared);
                inner.meter.stages.produce_check.record(clock::monotonic().saturating_duration_since(begun));
                touched.iter().for_each(|shard| shard.push());
                (Queueing::Done, Either::Left(ready(queued)))
            }
            Some(mut turn) => {
                let inner = inner.clone();
                let checking = async move {
                    let checked = join_all(prepared.into_iter().map(|one| inner.finish_check(one))).await;
                    turn.comes().await;
                    let (queued, touched) = inner.queue(checked);
                    touched.iter().for_each(|shard| shard.push());
                    queued
                };
                (Queueing::Pending, Either::Right(checking))
            }
        };
        let deadline = tokio::time::Instant::from_std(clock::deadline(timeout));
        let outcomes = async move {
            let mut results = Vec::new();
            for one in queued.await {
                let result = inner.outcome(one, deadline).await;
                if result.is_err() {
                    inner.meter.refused();
                }
                results.push(result);
            }
            results
        };
        (queueing, outcomes)
    }

    fn prepare(&self, part: ProducePart, transactional: bool, now_ms: i64) -> PreparedBatch {
        if transactional {
            return Err(ProduceError::TransactionalUnsupported("transactions are not supported".into()));
        }
        // A batch that waits for a log file gets no reply: it is refused while the existing files still have space.
        if self.disk_is_low() {
            return Err(ProduceError::StorageFull);
        }
        if self.inner.log.waits_for_room() {
            return Err(ProduceError::LogWaits);
        }
        let ProducePart { topic, partition, records } = part;
        let place = topic.partitions.get(partition).ok_or(ProduceError::UnknownPartition)?;
        let shard = self.inner.shards.get(&place.group).ok_or(ProduceError::NotLeader)?.clone();
        let (partition, epoch_base) = (place.id, place.epoch_base);
        let batch = check_if_small(check_batch(&records, CheckRules { topic: &topic.config, now_ms })?)?;
        Ok(Prepared { topic, shard, partition, epoch_base, batch, now_ms })
    }
}

fn check_if_small(batch: Checked) -> Result<Checked, ProduceError> {
    match &batch {
        Checked::Deferred(deferred) if deferred.sent_bytes() <= INLINE_SENT_BYTES_MAX => {
            match deferred.run(INLINE) {
                Ok(checked) => Ok(Checked::Ready(checked)),
                Err(CheckError::TooLarge { .. }) => Ok(batch),
                Err(CheckError::Refused(error)) => Err(error),
            }
        }
        _ => Ok(batch),
    }
}

impl Inner {
    async fn finish_check(&self, prepared: PreparedBatch) -> PreparedBatch {
        let prepared = prepared?;
        match prepared.batch {
            Checked::Ready(_) => Ok(prepared),
            Checked::Deferred(deferred) => {
                let batch = Checked::Ready(self.decompression.run(deferred).await?);
                Ok(Prepared { batch, ..prepared })
            }
        }
    }

    /// Orders the batches and submits them to their shards, which the caller must push.
    fn queue(&self, prepared: Vec<PreparedBatch>) -> (Vec<Queued>, Vec<Arc<Shard>>) {
        let mut touched: Vec<Arc<Shard>> = Vec::new();
        let queued = prepared.into_iter().map(|one| {
            let Prepared { topic, shard, partition, epoch_base, batch, now_ms } = one?;
            // All are checked by now.
            let Checked::Ready(batch) = batch else { return Err(ProduceError::Unavailable) };
            self.ahead_warnings.check(&topic.name, &batch, now_ms);
            // A refused batch takes no space.
            if !self.disk_headroom.take(batch.bytes.len()) {
                return Err(ProduceError::StorageFull);
            }
            let moved = Moved { topic, bytes: batch.bytes.len(), records: batch.header.record_count };
            let reply = shard.submit(Submission { partition, epoch_base, batch });
            if !touched.iter().any(|other| Arc::ptr_eq(other, &shard)) {
                touched.push(shard);
            }
            Ok((reply, moved))
        });
        (queued.collect(), touched)
    }

    async fn outcome(
        &self,
        queued: Queued,
        deadline: tokio::time::Instant,
    ) -> Result<Appended, ProduceError> {
        let (reply, moved) = queued?;
        match tokio::time::timeout_at(deadline, reply).await {
            Ok(Ok(result)) => result.inspect(|_| moved.count(&self.meter)),
            Ok(Err(_)) => Err(ProduceError::NotLeader),
            Err(_) => Err(ProduceError::Timeout),
        }
    }
}

/// What a batch adds to the counters once it is appended.
struct Moved {
    topic: Arc<TopicView>,
    bytes: usize,
    records: i32,
}

impl Moved {
    fn count(&self, meter: &Meter) {
        meter.total.produced(self.bytes, self.records);
        self.topic.meter.produced(self.bytes, self.records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_records_from_the_future_is_one_warning_a_minute() {
        let warnings = AheadWarnings::default();
        let due: Vec<i64> =
            (0..180).map(|s| 1_000_000 + s * 1000).filter(|&now| warnings.is_due(now)).collect();
        assert_eq!(due, [1_000_000, 1_060_000, 1_120_000]);
    }
}
