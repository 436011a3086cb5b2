//! A memory limit for records in replies to consumers.
//!
//! The records of a reply stay in memory until the consumer has received them, however slowly it reads. All fetches
//! together are limited; beyond the limit less is read:
//! 1. Below the limit a fetch gets a share of what is left.
//! 2. Up to twice the limit it gets one batch.
//! 3. Up to 2.5 times the limit it gets one batch if it is small, so that small readers are not blocked by large ones.
//! 4. Beyond that it waits for memory, at most until its deadline.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::memory_pressure::MemoryPressure;

/// One fetch takes at most 1/4 of what is left, so that others get memory too.
const SHARE: usize = 4;
/// Reserved for a batch before it is read.
const BATCH_BYTES: usize = 1 << 20;
/// Maximum size of a small reply.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;

/// Memory budget for records that were read and not yet sent, over all connections.
#[derive(Clone, Debug)]
pub struct Replies {
    bytes_max: usize,
    memory: Arc<ReplyMemory>,
}

#[derive(Debug, Default)]
struct ReplyMemory {
    used: AtomicUsize,
    pressure: MemoryPressure,
    /// Memory was freed while a fetch waited.
    freed: Notify,
}

/// How much a fetch may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    /// This many bytes, and a first batch of any size.
    Bytes(usize),
    /// One batch, if it is small.
    SmallBatch,
    Nothing,
}

/// A reservation of reply memory; dropping it frees it.
#[derive(Debug)]
pub(super) struct Hold {
    bytes: usize,
    pub(super) allowance: Allowance,
    memory: Arc<ReplyMemory>,
}

impl ReplyMemory {
    fn free(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
        if bytes > 0 && self.pressure.is_there() {
            self.freed.notify_waiters();
        }
    }
}

impl Replies {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Replies {
        Replies { bytes_max, memory: Arc::default() }
    }

    /// Bytes that are in use or reserved.
    #[cfg(test)]
    fn used_bytes(&self) -> usize {
        self.memory.used.load(Relaxed)
    }

    /// Whether a fetch waits for memory.
    pub fn is_short(&self) -> bool {
        self.memory.pressure.is_there()
    }

    /// Waits until a fetch has to wait for memory.
    pub async fn falls_short(&self) {
        self.memory.pressure.begins().await;
    }

    fn hold(&self, bytes: usize, allowance: Allowance) -> Hold {
        self.memory.used.fetch_add(bytes, Relaxed);
        Hold { bytes, allowance, memory: self.memory.clone() }
    }

    /// Reserves at most `wanted` bytes, or what is allowed beyond the limit. Concurrent calls may exceed the limit a
    /// little; later ones then get less.
    fn try_take(&self, wanted: usize, small_too: bool) -> Option<Hold> {
        let used = self.memory.used.load(Relaxed);
        let batch_bytes = BATCH_BYTES.min(self.bytes_max / SHARE);
        let share = self.bytes_max.saturating_sub(used) / SHARE;
        if share > batch_bytes / SHARE || share >= wanted {
            let bytes = wanted.min(share);
            return Some(self.hold(bytes, Allowance::Bytes(bytes)));
        }
        if used < 2 * self.bytes_max {
            return Some(self.hold(batch_bytes, Allowance::Bytes(0)));
        }
        let small = small_too && used < 2 * self.bytes_max + self.bytes_max / 2;
        // Whether the batch is small is known after it was read.
        small.then(|| self.hold(batch_bytes, Allowance::SmallBatch))
    }

    /// Reserves memory for a fetch that wants `wanted` bytes; waits for it, at most until `until`.
    pub(super) async fn take(&self, wanted: usize, small_too: bool, until: Instant) -> Hold {
        if let Some(hold) = self.try_take(wanted, small_too) {
            return hold;
        }
        let _waits = self.memory.pressure.wait();
        loop {
            let mut freed = pin!(self.memory.freed.notified());
            // Enabled before the next attempt, so that memory freed after it is noticed.
            freed.as_mut().enable();
            if let Some(hold) = self.try_take(wanted, small_too) {
                return hold;
            }
            if tokio::time::timeout_at(until.into(), freed).await.is_err() {
                return self.hold(0, Allowance::Nothing);
            }
        }
    }
}

impl Hold {
    /// Adjusts the reservation to the bytes that were read and ties it to the last piece, which is sent last.
    pub(super) fn attach<'a>(mut self, pieces: impl Iterator<Item = &'a mut Bytes>) {
        let (mut bytes, mut last) = (0, None);
        for piece in pieces {
            bytes += piece.len();
            last = Some(piece);
        }
        let Some(last) = last else { return };
        self.memory.used.fetch_add(bytes, Relaxed);
        self.memory.free(std::mem::replace(&mut self.bytes, bytes));
        *last = Bytes::from_owner(Held { bytes: std::mem::take(last), _hold: self });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.memory.free(self.bytes);
    }
}

struct Held {
    bytes: Bytes,
    _hold: Hold,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_model::{
        LogId, PartitionId, RaftGroupId,
        batch::{BatchBuilder, Codec, NewRecord},
    };
    use millstream_replica::{Command, Machine};
    use millstream_state::partition as commands;
    use millstream_store::{
        disk::sim::SimDisk,
        tables::{Tables, TablesConfig},
    };

    use super::*;
    use crate::{
        clock,
        partition::{
            FetchBounds, FetchError, FetchPart, Fetched, Locate, ShardHost, fetch,
            staged::{StagedAppend, StagedBatch},
        },
        service::PartitionView,
    };

    fn take(replies: &Replies, wanted: usize) -> Hold {
        replies.try_take(wanted, true).expect("memory is available")
    }

    #[test]
    fn attached_memory_is_freed_with_the_last_piece() {
        let replies = Replies::new(1000);
        let first = take(&replies, 10_000);
        assert_eq!((first.allowance, replies.used_bytes()), (Allowance::Bytes(250), 250));
        let second = take(&replies, 100);
        assert_eq!((second.allowance, replies.used_bytes()), (Allowance::Bytes(100), 350));
        let mut pieces = [Bytes::from_static(&[1; 30]), Bytes::from_static(&[2; 10])];
        first.attach(pieces.iter_mut());
        assert_eq!(replies.used_bytes(), 140);
        second.attach(std::iter::empty());
        assert_eq!(replies.used_bytes(), 40);
        let [head, tail] = pieces;
        assert_eq!((&head[..], &tail[..]), (&[1; 30][..], &[2; 10][..]));
        drop(head);
        let rest = tail.slice(5..);
        drop(tail);
        assert_eq!(replies.used_bytes(), 40);
        drop(rest);
        assert_eq!(replies.used_bytes(), 0);
    }

    #[tokio::test]
    async fn beyond_the_limit_a_fetch_gets_a_batch_then_a_small_one_then_waits() {
        let replies = Replies::new(1000);
        let mut holds = Vec::new();
        while let Some(hold) = replies.try_take(10_000, true) {
            assert!(replies.used_bytes() <= 2750, "{} bytes", replies.used_bytes());
            holds.push(hold);
        }
        let allowed: Vec<Allowance> = holds.iter().map(|hold| hold.allowance).collect();
        let small = allowed.iter().position(|one| *one == Allowance::SmallBatch).expect("some are small");
        assert!(allowed[small..].iter().all(|one| *one == Allowance::SmallBatch));
        assert_eq!(allowed[small - 1], Allowance::Bytes(0));
        let nothing = replies.take(10, true, clock::monotonic()).await;
        assert_eq!(nothing.allowance, Allowance::Nothing);
        assert!(!replies.is_short());
        let mut waits = pin!(replies.take(10, false, clock::deadline(Duration::from_secs(60))));
        assert!(futures::poll!(waits.as_mut()).is_pending());
        assert!(replies.is_short());
        replies.falls_short().await;
        drop(holds);
        assert_eq!(waits.await.allowance, Allowance::Bytes(10));
        drop(nothing);
        assert!(!replies.is_short());
    }

    const PARTITION: PartitionId = PartitionId(3);
    const GROUP: RaftGroupId = RaftGroupId(1);
    const BATCH_VALUE_BYTES: usize = 1000;

    struct SingleShard(Arc<ShardHost>);

    impl Locate for SingleShard {
        fn locate(&self, _: RaftGroupId) -> Result<(&Arc<ShardHost>, u64), FetchError> {
            Ok((&self.0, 1))
        }
    }

    /// A partition with some batches, flushed if wanted.
    fn filled(batches: i64, in_runs: bool) -> SingleShard {
        let (tables, _) = Tables::open(Arc::new(SimDisk::new(1)), TablesConfig::default()).expect("tables");
        let tables = Arc::new(tables);
        let host = Arc::new(ShardHost::new(GROUP, tables.clone()));
        host.apply(LogId::new(1, 1), commands::encode_create_partitions(&[PARTITION.into()]));
        for base_offset in 0..batches {
            let mut builder = BatchBuilder::new(Codec::None);
            let value = [0; BATCH_VALUE_BYTES];
            builder.push(NewRecord { timestamp_ms: 1, value: Some(&value), ..NewRecord::default() });
            let (bytes, partition) = (builder.build().expect("a batch"), PARTITION);
            let batch = StagedBatch {
                partition,
                bytes,
                base_offset,
                leader_epoch: 1,
                log_append_ms: None,
                max_timestamp: None,
            };
            let id = LogId::new(1, base_offset as u64 + 2);
            host.apply(id, Command::staged(StagedAppend::new(0, vec![batch])).into_bytes());
            host.applied(id);
        }
        if in_runs {
            tables.flush().expect("flushed");
        }
        SingleShard(host)
    }

    async fn read_until(
        shards: &SingleShard,
        replies: &Replies,
        min_bytes: usize,
        wait: Duration,
    ) -> Fetched {
        let partition = PartitionView { index: 0, id: PARTITION, group: GROUP, epoch_base: 0 };
        let part = FetchPart { partition, offset: 0, max_bytes: 1 << 20, current_leader_epoch: -1 };
        let deadline = clock::deadline(wait);
        let bounds = FetchBounds { max_bytes: 1 << 20, min_bytes, deadline };
        fetch(shards, &[part], bounds, replies, &mut Duration::default())
            .await
            .remove(0)
            .expect("it can be read")
    }

    async fn read(shards: &SingleShard, replies: &Replies, min_bytes: usize) -> Fetched {
        read_until(shards, replies, min_bytes, Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn slow_consumers_hold_at_most_two_and_a_half_times_the_limit() {
        for in_runs in [false, true] {
            let (shards, replies) = (filled(100, in_runs), Replies::new(80 * BATCH_VALUE_BYTES));
            let mut slow = Vec::new();
            for _ in 0..400 {
                slow.push(read_until(&shards, &replies, 1, Duration::ZERO).await);
            }
            let held: usize = slow.iter().map(Fetched::len).sum();
            assert_eq!(replies.used_bytes(), held);
            assert!(slow[0].len() > 15 * BATCH_VALUE_BYTES, "{} bytes for the first", slow[0].len());
            assert!(held < (2 * 80 + 40 + 20) * BATCH_VALUE_BYTES, "{held} bytes");
            let served = slow.iter().filter(|fetched| !fetched.is_empty()).count();
            assert!(served > 100, "{served} of many got something");
            let last = slow.last().expect("pushed");
            assert_eq!((last.len(), last.high_watermark), (0, 100), "there is no room for it");
            // A waiting fetch gets data as soon as other consumers have received theirs.
            let (late, _) = tokio::join!(read(&shards, &replies, 1), async { slow.clear() });
            assert!(!late.is_empty());
            drop(late);
            assert_eq!(replies.used_bytes(), 0);
            assert!(read(&shards, &replies, 1).await.len() > 15 * BATCH_VALUE_BYTES);
        }
    }
}
