//! Fetches, with long polls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_model::{
    PartitionId, RaftGroupId,
    batch::{BatchHeader, empty_batch, split},
};
use millstream_state::partition::PartitionState;
use millstream_store::tables::{MemoryRead, ReadError};
use tokio::sync::Notify;

use super::{
    ShardHost,
    read_ahead::Next,
    replies::{Allowance, Replies, SMALL_BYTES_MAX},
    shard::leader_epoch,
    view::PartitionView,
};

/// Read-ahead in multiples of the fetch size: with less, a consumer that is as fast as the disk would have to wait.
const AHEAD_PORTIONS: usize = 4;
/// Maximum read-ahead of one partition.
const AHEAD_BYTES_MAX: usize = 4 << 20;
/// Concurrent reads for one fetch: the throughput of a disk grows with its queue depth.
const READS_MAX: usize = 3;

/// The part of a fetch that concerns one partition.
#[derive(Clone, Copy, Debug)]
pub struct FetchPart {
    pub partition: PartitionView,
    /// First offset to read.
    pub offset: i64,
    /// A larger first batch is still returned whole.
    pub max_bytes: usize,
    /// The leader epoch known to the client, or -1.
    pub current_leader_epoch: i32,
}

/// The result of a fetch for one partition.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Whole batches; the first may begin below the fetch offset. Where compaction has removed all records from the fetch
    /// offset to the end, one batch without records that ends there.
    pub records: Vec<Bytes>,
    /// Offset after the last committed record.
    pub high_watermark: i64,
    /// Offset up to which no transaction is open.
    pub last_stable_offset: i64,
    /// First offset of the partition.
    pub log_start_offset: i64,
}

impl Fetched {
    /// Bytes of all batches.
    pub fn len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Why a partition cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("the partition does not exist")]
    UnknownPartition,
    #[error("this node does not lead the partition")]
    NotLeader,
    /// Below the log start or above the end.
    #[error("the offset is outside of {log_start_offset}..={high_watermark}")]
    OffsetOutOfRange {
        /// First offset of the partition.
        log_start_offset: i64,
        /// Offset after the last record.
        high_watermark: i64,
    },
    /// The client's epoch is older than the leader's.
    #[error("the client's leader epoch is fenced")]
    FencedLeaderEpoch,
    /// The client's epoch is newer than the leader's.
    #[error("the client's leader epoch is not known here yet")]
    UnknownLeaderEpoch,
    /// The stored bytes differ from those written.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// Retry later.
    #[error("the partition cannot be read now")]
    Unavailable,
}

/// Bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchBounds {
    /// Maximum bytes of all partitions together.
    pub max_bytes: usize,
    /// Bytes that end the wait.
    pub min_bytes: usize,
    /// End of the wait.
    pub deadline: Instant,
}

/// Finds the local replica of a shard.
pub trait Locate {
    /// The shard's host and the term in which this node leads it.
    fn locate(&self, group: RaftGroupId) -> Result<(&Arc<ShardHost>, u64), FetchError>;
}

/// Answers a fetch as soon as enough data is available, at the latest at the deadline. Adds the time spent waiting for
/// records to `waited`.
pub async fn fetch<L: Locate + Sync>(
    shards: &L,
    parts: &[FetchPart],
    bounds: FetchBounds,
    replies: &Replies,
    waited: &mut Duration,
) -> Vec<Result<Fetched, FetchError>> {
    let (results, enough) = pass(shards, parts, &bounds, replies).await;
    if enough || bounds.deadline <= crate::clock::monotonic() {
        return results;
    }
    // A waiting fetch holds no memory.
    drop(results);
    let waiter = Arc::new(Notify::new());
    let parked = Parked { hosts: hosts(shards, parts), waiter: waiter.clone() };
    let until = tokio::time::Instant::from_std(bounds.deadline);
    loop {
        // Parked before the next read, so that records that arrive after it wake this fetch.
        parked.park();
        let (results, enough) = pass(shards, parts, &bounds, replies).await;
        if enough {
            return results;
        }
        let parked_at = crate::clock::monotonic();
        let woken = tokio::time::timeout_at(until, waiter.notified()).await;
        *waited += crate::clock::monotonic().saturating_duration_since(parked_at);
        if woken.is_err() {
            return results;
        }
        parked.leave();
    }
}

/// Whether a fetch must be answered now: an error, or at least `min_bytes`.
fn enough(results: &[Result<Fetched, FetchError>], min_bytes: usize) -> bool {
    let mut bytes = 0;
    for result in results {
        match result {
            Ok(fetched) => bytes += fetched.len(),
            Err(_) => return true,
        }
    }
    bytes >= min_bytes
}

fn hosts<L: Locate>(shards: &L, parts: &[FetchPart]) -> Vec<(Arc<ShardHost>, PartitionId)> {
    let host =
        |part: &FetchPart| Some((shards.locate(part.partition.group).ok()?.0.clone(), part.partition.id));
    parts.iter().filter_map(host).collect()
}

/// Removes the waiter from its partitions when the fetch ends or is dropped.
struct Parked {
    hosts: Vec<(Arc<ShardHost>, PartitionId)>,
    waiter: Arc<Notify>,
}

impl Parked {
    fn park(&self) {
        self.hosts.iter().for_each(|(host, partition)| host.waiters.park(*partition, &self.waiter));
    }

    fn leave(&self) {
        self.hosts.iter().for_each(|(host, partition)| host.waiters.leave(*partition, &self.waiter));
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A part of a fetch, with the host and the term of its shard.
type Located = (Result<(Arc<ShardHost>, u64), FetchError>, FetchPart);

/// The progress of one read of all parts.
struct Pass {
    bytes_left: usize,
    /// Whether a part had records: the first batch of a fetch is returned whole, whatever its size.
    any_records: bool,
    results: Vec<Result<Fetched, FetchError>>,
    /// The expected next reads of parts that were read from runs.
    next: Vec<(Arc<ShardHost>, Next)>,
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    MayWait,
    MustNotWait,
}

/// Reads what is available now, and returns whether that is enough. Waits for reply memory where it is exhausted.
async fn pass<L: Locate>(
    shards: &L,
    parts: &[FetchPart],
    bounds: &FetchBounds,
    replies: &Replies,
) -> (Vec<Result<Fetched, FetchError>>, bool) {
    let wanted =
        parts.iter().fold(0, |sum: usize, part| sum.saturating_add(part.max_bytes)).min(bounds.max_bytes);
    let mut hold = replies.take(wanted, true, bounds.deadline).await;
    let mut results = read_parts(shards, parts, hold.allowance).await;
    if hold.allowance == Allowance::SmallBatch && bytes_of(&results) > SMALL_BYTES_MAX {
        drop((hold, results));
        hold = replies.take(wanted, false, bounds.deadline).await;
        results = read_parts(shards, parts, hold.allowance).await;
    }
    let min_bytes = match hold.allowance {
        Allowance::Bytes(bytes) if bytes >= wanted => bounds.min_bytes,
        // With less memory than wanted, half of it is enough.
        Allowance::Bytes(bytes) => bounds.min_bytes.min((bytes / 2).max(1)),
        Allowance::SmallBatch | Allowance::Nothing => bounds.min_bytes.min(1),
    };
    hold.attach(results.iter_mut().flatten().flat_map(|fetched| &mut fetched.records));
    let enough = enough(&results, min_bytes);
    (results, enough)
}

fn bytes_of(results: &[Result<Fetched, FetchError>]) -> usize {
    results.iter().flatten().map(Fetched::len).sum()
}

/// Reads within the allowance: directly as long as all data is in memory, and from the first part that needs the disk on,
/// on a blocking thread.
async fn read_parts<L: Locate>(
    shards: &L,
    parts: &[FetchPart],
    allowance: Allowance,
) -> Vec<Result<Fetched, FetchError>> {
    let locate = |part: &FetchPart| {
        let place = shards.locate(part.partition.group);
        (place.map(|(host, term)| (host.clone(), term)), *part)
    };
    let located: Vec<Located> = parts.iter().map(locate).collect();
    let mut pass = Pass::new(allowance, parts.len());
    if !pass.read_remaining(&located, Disk::MustNotWait) {
        // The blocking thread starts with the first of them.
        read_ahead(pass.missing(&located).skip(1).collect());
        let waiting = tokio::task::spawn_blocking(move || {
            pass.read_remaining(&located, Disk::MayWait);
            pass
        });
        match waiting.await {
            Ok(done) => pass = done,
            // The panic of the reader is logged already.
            Err(_) => return vec![Err(FetchError::Unavailable); parts.len()],
        }
    }
    read_ahead(pass.next);
    pass.results
}

/// Read-ahead for a fetch size of `max_bytes`.
fn read_ahead_bytes(max_bytes: usize) -> usize {
    max_bytes.saturating_mul(AHEAD_PORTIONS).min(AHEAD_BYTES_MAX)
}

/// Starts read-ahead in the background, except where it is in progress already.
fn read_ahead(mut next: Vec<(Arc<ShardHost>, Next)>) {
    next.retain(|(host, next)| host.read_ahead.begin(next.partition));
    let each = next.len().div_ceil(READS_MAX);
    while !next.is_empty() {
        let some: Vec<_> = next.drain(..each.min(next.len())).collect();
        tokio::task::spawn_blocking(move || {
            some.iter().for_each(|(host, next)| host.read_ahead.read(&host.tables, *next));
        });
    }
}

impl Pass {
    fn new(allowance: Allowance, parts: usize) -> Pass {
        let bytes_left = if let Allowance::Bytes(bytes) = allowance { bytes } else { 0 };
        // With no allowance, behave as if an earlier part had used it up.
        let any_records = allowance == Allowance::Nothing;
        Pass { bytes_left, any_records, results: Vec::with_capacity(parts), next: Vec::new() }
    }

    /// The parts without a result, as far as there will be room for them.
    fn missing(&self, located: &[Located]) -> impl Iterator<Item = (Arc<ShardHost>, Next)> {
        let mut bytes_left = self.bytes_left;
        located[self.results.len()..].iter().filter_map(move |(place, part)| {
            let (host, _) = place.as_ref().ok()?;
            let max_bytes = part.max_bytes.min(bytes_left);
            bytes_left -= max_bytes;
            let next = Next { partition: part.partition.id, offset: part.offset, max_bytes };
            (max_bytes > 0).then(|| (host.clone(), next))
        })
    }

    /// Reads the parts without a result; `false` when one of them needs the disk and must not wait for it.
    fn read_remaining(&mut self, located: &[Located], disk: Disk) -> bool {
        while let Some((place, part)) = located.get(self.results.len()) {
            let result = match place {
                Ok((host, term)) => match self.read(host, *term, part, disk) {
                    Some(result) => result,
                    None => return false,
                },
                Err(error) => Err(error.clone()),
            };
            if let Ok(fetched) = &result {
                self.bytes_left = self.bytes_left.saturating_sub(fetched.len());
                self.any_records |= !fetched.is_empty();
            }
            self.results.push(result);
        }
        true
    }

    fn read(
        &mut self,
        host: &Arc<ShardHost>,
        term: u64,
        part: &FetchPart,
        disk: Disk,
    ) -> Option<Result<Fetched, FetchError>> {
        let PartitionView { id, epoch_base, .. } = part.partition;
        if let Err(error) = check_epoch(part.current_leader_epoch, leader_epoch(term, epoch_base)) {
            return Some(Err(error));
        }
        let Some((log_start, end)) = host.partition(id, |p| (p.log_start(), p.next_offset())) else {
            return Some(Err(FetchError::UnknownPartition));
        };
        if part.offset < log_start || part.offset > end {
            return Some(Err(FetchError::OffsetOutOfRange {
                log_start_offset: log_start,
                high_watermark: end,
            }));
        }
        let max_bytes = part.max_bytes.min(self.bytes_left);
        let mut records = Vec::new();
        if part.offset < end && (max_bytes > 0 || !self.any_records) {
            match read_batches(host, id, part.offset, max_bytes, disk)? {
                Ok(BatchesFound::InMemory(batches)) => records = batches,
                Ok(BatchesFound::InRuns(batches)) => {
                    if let Some(offset) = batches.last().and_then(end_of) {
                        self.next.push((
                            host.clone(),
                            Next { partition: id, offset, max_bytes: read_ahead_bytes(part.max_bytes) },
                        ));
                    }
                    records = batches;
                }
                Err(error) => return Some(Err(error)),
            }
            if records.is_empty() {
                match skip_removed(host, id, part.offset, end) {
                    Ok(skip) => records.extend(skip),
                    Err(error) => return Some(Err(error)),
                }
            }
            if self.any_records && records.first().is_some_and(|batch| batch.len() > self.bytes_left) {
                records.clear();
            }
        }
        let fetched =
            Fetched { records, high_watermark: end, last_stable_offset: end, log_start_offset: log_start };
        Some(Ok(fetched))
    }
}

/// Checks the client's leader epoch (-1 for none) against the current one.
pub fn check_epoch(client: i32, leader: i32) -> Result<(), FetchError> {
    match client {
        -1 => Ok(()),
        client if client < leader => Err(FetchError::FencedLeaderEpoch),
        client if client > leader => Err(FetchError::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// Batches with their source.
enum BatchesFound {
    InMemory(Vec<Bytes>),
    InRuns(Vec<Bytes>),
}

/// Offset after the last of the concatenated batches.
fn end_of(batches: &Bytes) -> Option<i64> {
    let last = split(batches).last()?.ok()?;
    BatchHeader::parse(&last).ok().map(|header| header.next_offset())
}

/// Batches from the one that contains `offset`; `None` when they are only on disk and the read must not wait for it.
fn read_batches(
    host: &ShardHost,
    partition: PartitionId,
    offset: i64,
    max_bytes: usize,
    disk: Disk,
) -> Option<Result<BatchesFound, FetchError>> {
    match host.tables.read_memory(partition, offset, max_bytes) {
        MemoryRead::Hit(batches) => return Some(Ok(BatchesFound::InMemory(batches))),
        MemoryRead::Empty => return Some(Ok(BatchesFound::InMemory(Vec::new()))),
        MemoryRead::Older => {}
    }
    if disk == Disk::MayWait {
        host.read_ahead.wait(partition);
    }
    if let Some(batches) = host.tables.read_runs_cached(partition, offset, max_bytes) {
        return Some(Ok(BatchesFound::InRuns(batches)));
    }
    if disk == Disk::MustNotWait {
        return None;
    }
    Some(match host.tables.read_runs(partition, offset, max_bytes) {
        Ok(batches) => Ok(BatchesFound::InRuns(batches)),
        Err(error) => Err(damaged(&error)),
    })
}

/// Moves a reader that found nothing from `offset` on past the records that compaction has removed: an empty batch covers
/// their offsets. Without it the reader would request the same offset forever (`docs/adr/0014-skip-removed-offsets.md`).
///
/// `end` is the partition's end from before the read, so every record below it was readable then. Only offsets covered by
/// a run are skipped: records that are missing for another reason must not be skipped silently.
fn skip_removed(
    host: &ShardHost,
    partition: PartitionId,
    offset: i64,
    end: i64,
) -> Result<Option<Bytes>, FetchError> {
    // The partition may have been dropped, or its log start moved, during the read.
    let state = |p: &PartitionState| (p.log_start(), p.next_offset(), p.latest_epoch());
    let (log_start_offset, high_watermark, epoch) =
        host.partition(partition, state).ok_or(FetchError::UnknownPartition)?;
    if offset < log_start_offset {
        return Err(FetchError::OffsetOutOfRange { log_start_offset, high_watermark });
    }
    let removed_end = host.tables.end_in_runs(partition).map_or(offset, |in_runs| in_runs.min(end));
    Ok((removed_end > offset).then(|| empty_batch(offset, removed_end, epoch.unwrap_or(-1))))
}

pub(super) fn damaged(error: &ReadError) -> FetchError {
    tracing::error!(%error, "read failed");
    FetchError::Damaged(error.to_string())
}
