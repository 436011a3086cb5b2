//! A bound on the records that are on their way to consumers.
//!
//! Consumers that read slowly, or not at all, hold what they asked for: in the log's memory, or read from runs for
//! them. All fetches together take no more than a bound; what is beyond it is simply not read yet. A fetch is never
//! refused and never waits for that: in the worst case it gets one batch at a time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

/// One fetch takes at most this part of what is left, so that others find something too.
const SHARE: usize = 4;

/// Memory for records that were read and not yet sent, all connections together.
#[derive(Clone, Debug)]
pub struct Replies {
    bytes_max: usize,
    used: Arc<AtomicUsize>,
}

/// A part of that memory; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Hold {
    bytes: usize,
    used: Arc<AtomicUsize>,
}

impl Replies {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Replies {
        Replies { bytes_max, used: Arc::default() }
    }

    /// Bytes that are read or promised.
    #[cfg(test)]
    fn used_bytes(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Takes at most `wanted` bytes; perhaps none.
    pub(super) fn take(&self, wanted: usize) -> Hold {
        let left = self.bytes_max.saturating_sub(self.used.load(Relaxed));
        // Two that take at the same time may take a little too much: the next ones get less.
        let bytes = wanted.min(left / SHARE);
        self.used.fetch_add(bytes, Relaxed);
        Hold { bytes, used: self.used.clone() }
    }
}

impl Hold {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds as much as was read, until the last piece is dropped, which is the last that is sent.
    pub(super) fn attach<'a>(mut self, pieces: impl Iterator<Item = &'a mut Bytes>) {
        let (mut bytes, mut last) = (0, None);
        for piece in pieces {
            bytes += piece.len();
            last = Some(piece);
        }
        let Some(last) = last else { return };
        self.used.fetch_add(bytes, Relaxed);
        self.used.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Relaxed);
        *last = Bytes::from_owner(Held { bytes: std::mem::take(last), _hold: self });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Relaxed);
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
        GroupId, LogId, PartitionId,
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

    #[test]
    fn what_is_attached_is_given_back_with_the_last_piece() {
        let replies = Replies::new(1000);
        let first = replies.take(10_000);
        assert_eq!((first.bytes(), replies.used_bytes()), (250, 250));
        let second = replies.take(100);
        assert_eq!((second.bytes(), replies.used_bytes()), (100, 350));
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

    const PARTITION: PartitionId = PartitionId(3);
    const GROUP: GroupId = GroupId(1);
    const BATCH_VALUE_BYTES: usize = 1000;

    struct One(Arc<ShardHost>);

    impl Locate for One {
        fn locate(&self, _: GroupId) -> Result<(&Arc<ShardHost>, u64), FetchError> {
            Ok((&self.0, 1))
        }
    }

    /// A partition with some batches, flushed if wanted.
    fn filled(batches: i64, in_runs: bool) -> One {
        let (tables, _) = Tables::open(Arc::new(SimDisk::new(1)), TablesConfig::default()).expect("tables");
        let tables = Arc::new(tables);
        let host = Arc::new(ShardHost::new(GROUP, tables.clone()));
        host.apply(LogId::new(1, 1), commands::encode_create_partitions(&[PARTITION.into()]));
        for base_offset in 0..batches {
            let mut builder = BatchBuilder::new(Codec::None);
            let value = [0; BATCH_VALUE_BYTES];
            builder.push(NewRecord { timestamp_ms: 1, value: Some(&value), ..NewRecord::default() });
            let (bytes, partition) = (builder.build().expect("a batch"), PARTITION);
            let batch = StagedBatch { partition, bytes, base_offset, leader_epoch: 1, log_append_ms: None };
            let id = LogId::new(1, base_offset as u64 + 2);
            host.apply(id, Command::staged(StagedAppend::new(0, vec![batch])).into_bytes());
            host.applied(id);
        }
        if in_runs {
            tables.flush().expect("flushed");
        }
        One(host)
    }

    async fn read(shards: &One, replies: &Replies, min_bytes: usize) -> Fetched {
        let partition = PartitionView { index: 0, id: PARTITION, group: GROUP, epoch_base: 0 };
        let part = FetchPart { partition, offset: 0, max_bytes: 1 << 20, current_leader_epoch: -1 };
        let deadline = clock::deadline(Duration::from_secs(60));
        let bounds = FetchBounds { max_bytes: 1 << 20, min_bytes, deadline };
        fetch(shards, &[part], bounds, replies, &mut Duration::default())
            .await
            .remove(0)
            .expect("it can be read")
    }

    #[tokio::test]
    async fn slow_consumers_together_hold_no_more_than_the_bound_and_one_batch_each() {
        for in_runs in [false, true] {
            let (shards, replies) = (filled(100, in_runs), Replies::new(80 * BATCH_VALUE_BYTES));
            let mut slow = Vec::new();
            for _ in 0..200 {
                slow.push(read(&shards, &replies, 1).await);
                assert!(!slow.last().expect("pushed").is_empty(), "everyone gets something");
            }
            let held: usize = slow.iter().map(Fetched::len).sum();
            assert_eq!(replies.used_bytes(), held);
            assert!(slow[0].len() > 15 * BATCH_VALUE_BYTES, "{} bytes for the first", slow[0].len());
            assert!(held < (80 + 200 * 2) * BATCH_VALUE_BYTES, "{held} bytes");
            // More is wanted than may be had: nobody waits for it.
            slow.push(read(&shards, &replies, 1 << 20).await);
            drop(slow);
            assert_eq!(replies.used_bytes(), 0);
            assert!(read(&shards, &replies, 1).await.len() > 15 * BATCH_VALUE_BYTES);
        }
    }
}
