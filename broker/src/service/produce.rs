//! Produce: batches are checked, opened where the topic wants that, ordered and queued; then their outcome is waited for.
//!
//! Records that are not compressed are checked at once, whatever their size. To open a compressed batch may take long, so
//! a large one is opened on a thread for such work, and all that the same client sends meanwhile queues behind it: see
//! [`Turns`]. A batch is decompressed piece by piece to check it, and as a whole only to compress it anew.

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
    partition::{CheckRules, Checked, CheckedBatch, ClosedBatch, OpenError, Shard, Submission, check_batch},
    telemetry::Meter,
};

/// A batch that is sent with at most as many bytes is opened at once, if it has not more when it is open: that takes
/// about as long as the way to another thread and back.
const SENT_AT_ONCE_BYTES_MAX: usize = 32 << 10;
const OPENED_AT_ONCE_BYTES_MAX: usize = 128 << 10;
const OPENED_AT_ONCE: StreamLimits =
    StreamLimits { memory_bytes_max: OPENED_AT_ONCE_BYTES_MAX, payload_bytes_max: OPENED_AT_ONCE_BYTES_MAX };
/// Larger ones that are open at the same time; each may take as much memory as [`Opener`] allows.
const OPEN_AT_ONCE_MAX: usize = 2;

/// A record that is later than the broker's clock by more than this is worth a warning.
const AHEAD_WARNED_MS: i64 = 3_600_000;
/// One of these warnings comes at most so often.
const AHEAD_WARNINGS_INTERVAL_MS: i64 = 60_000;

/// Warns of producers whose clocks are far ahead, where the topic lets them be: lookups by time find their records later
/// than everything else. (Retention does not wait for that time: it counts from when they were appended.)
#[derive(Debug, Default)]
pub(super) struct AheadWarnings {
    last_ms: AtomicI64,
}

impl AheadWarnings {
    fn look_at(&self, topic: &str, batch: &CheckedBatch, now_ms: i64) {
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

/// Opens batches away from the threads that serve connections.
#[derive(Debug)]
pub(super) struct Opener {
    places: Arc<Semaphore>,
    limits: StreamLimits,
}

impl Opener {
    /// Each batch that is open takes at most that much memory.
    pub(super) fn new(opened_bytes_max: usize) -> Opener {
        let limits = StreamLimits {
            memory_bytes_max: opened_bytes_max,
            payload_bytes_max: limits::DECOMPRESSED_BYTES_MAX,
        };
        Opener { places: Arc::new(Semaphore::new(OPEN_AT_ONCE_MAX)), limits }
    }

    /// Waits for its turn to have a batch open. Never `None`: nobody closes the semaphore.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }

    async fn open(&self, batch: ClosedBatch) -> Result<CheckedBatch, ProduceError> {
        let place = self.place().await.ok_or(ProduceError::Unavailable)?;
        let limits = self.limits;
        let opened = tokio::task::spawn_blocking(move || {
            let opened = batch.open(limits);
            drop(place);
            opened
        });
        match opened.await {
            Ok(opened) => opened.map_err(refusal),
            Err(error) => {
                tracing::error!(%error, "a batch could not be opened");
                Err(ProduceError::Unavailable)
            }
        }
    }
}

fn refusal(error: OpenError) -> ProduceError {
    match error {
        OpenError::Refused(error) => error,
        OpenError::TooLarge { bytes_max } => ProduceError::InvalidRecord(format!(
            "the batch has more than {bytes_max} bytes of records when it is decompressed"
        )),
    }
}

/// Whether the batches of a call are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queueing {
    /// All that are not refused are.
    Done,
    /// Large ones are opened first, or wait for those of an earlier call.
    Pending,
}

/// A batch with its place.
struct Prepared {
    topic: Arc<TopicView>,
    shard: Arc<Shard>,
    partition: PartitionId,
    epoch_base: i32,
    batch: Checked,
    now_ms: i64,
}

type PreparedBatch = Result<Prepared, ProduceError>;
/// A batch that is queued, and who tells what became of it.
type Queued = Result<(oneshot::Receiver<Result<Appended, ProduceError>>, Moved), ProduceError>;

impl Service {
    /// Checks, orders and queues the batches before it returns, unless some must be opened that are large; the future
    /// tells what became of each. Batches of two calls with the same turns for one partition are appended in the order
    /// of the calls.
    ///
    /// Dropping the future of queued batches only loses the answer. Dropping it while their queueing is pending drops all
    /// of them, never some: run it as a change where they are to be appended all the same.
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
        let takes_time = |one: &PreparedBatch| matches!(one, Ok(Prepared { batch: Checked::Closed(_), .. }));
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
                let opening = async move {
                    let opened = join_all(prepared.into_iter().map(|one| inner.open(one))).await;
                    turn.comes().await;
                    let (queued, touched) = inner.queue(opened);
                    touched.iter().for_each(|shard| shard.push());
                    queued
                };
                (Queueing::Pending, Either::Right(opening))
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
        // What waits for a log file is answered by nobody: it is refused while those that are there have room.
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
        let batch = open_if_small(check_batch(&records, CheckRules { topic: &topic.config, now_ms })?)?;
        Ok(Prepared { topic, shard, partition, epoch_base, batch, now_ms })
    }
}

fn open_if_small(batch: Checked) -> Result<Checked, ProduceError> {
    match &batch {
        Checked::Closed(closed) if closed.sent_bytes() <= SENT_AT_ONCE_BYTES_MAX => {
            match closed.open(OPENED_AT_ONCE) {
                Ok(opened) => Ok(Checked::Ready(opened)),
                Err(OpenError::TooLarge { .. }) => Ok(batch),
                Err(OpenError::Refused(error)) => Err(error),
            }
        }
        _ => Ok(batch),
    }
}

impl Inner {
    async fn open(&self, prepared: PreparedBatch) -> PreparedBatch {
        let prepared = prepared?;
        match prepared.batch {
            Checked::Ready(_) => Ok(prepared),
            Checked::Closed(closed) => {
                let batch = Checked::Ready(self.opener.open(closed).await?);
                Ok(Prepared { batch, ..prepared })
            }
        }
    }

    /// Orders the batches and gives them to their shards, which are to be pushed then.
    fn queue(&self, prepared: Vec<PreparedBatch>) -> (Vec<Queued>, Vec<Arc<Shard>>) {
        let mut touched: Vec<Arc<Shard>> = Vec::new();
        let queued = prepared.into_iter().map(|one| {
            let Prepared { topic, shard, partition, epoch_base, batch, now_ms } = one?;
            // All are open by now.
            let Checked::Ready(batch) = batch else { return Err(ProduceError::Unavailable) };
            self.ahead_warnings.look_at(&topic.name, &batch, now_ms);
            // What is refused takes no room.
            if !self.disk_headroom.take(batch.bytes.len()) {
                return Err(ProduceError::StorageFull);
            }
            let moved = Moved { topic, bytes: batch.bytes.len(), records: batch.header.record_count };
            let told = shard.submit(Submission { partition, epoch_base, batch });
            if !touched.iter().any(|other| Arc::ptr_eq(other, &shard)) {
                touched.push(shard);
            }
            Ok((told, moved))
        });
        (queued.collect(), touched)
    }

    async fn outcome(
        &self,
        queued: Queued,
        deadline: tokio::time::Instant,
    ) -> Result<Appended, ProduceError> {
        let (told, moved) = queued?;
        match tokio::time::timeout_at(deadline, told).await {
            Ok(Ok(result)) => result.inspect(|_| moved.count(&self.meter)),
            Ok(Err(_)) => Err(ProduceError::NotLeader),
            Err(_) => Err(ProduceError::Timeout),
        }
    }
}

/// A batch that is on its way.
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
