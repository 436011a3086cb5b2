//! The consumer: records of assigned partitions, read ahead in the background.
//!
//! What it asks for is decided in `positions` (pure); `fetcher` does it. Reading ahead is bounded for each partition and
//! for the whole: a reader that stops stops the fetching.

mod aborted;
mod fetcher;
mod group;
mod positions;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use millstream_batch::{BatchHeader, TimestampType, decode_records};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use crate::{ClientError, Cluster};
use fetcher::{Fetched, Fetcher, Shared};
use positions::Positions;

pub(crate) use group::read_assignment;
pub use group::{GroupConfig, GroupConsumer};
pub use positions::{Start, TopicPartition};

/// Most bytes that a batch may expand to.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;
/// Answers that wait to be taken.
const ANSWERS_AHEAD_MAX: usize = 64;

/// How a consumer works.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// The broker answers when it has so many bytes.
    pub min_bytes: i32,
    /// Most bytes of one answer.
    pub bytes_max: i32,
    /// Most bytes of one partition in one answer.
    pub partition_bytes_max: i32,
    /// How long the broker waits for `min_bytes`.
    pub wait_max: Duration,
    /// Bytes of a partition that are read ahead.
    pub ahead_bytes_max: usize,
    /// Where to go on when an offset is not there any more; none is an error.
    pub reset: Option<Start>,
    /// Whether records of transactions that are not committed are left out.
    pub read_committed: bool,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        ConsumerConfig {
            min_bytes: 1,
            bytes_max: 50 << 20,
            partition_bytes_max: 1 << 20,
            wait_max: Duration::from_millis(500),
            ahead_bytes_max: 4 << 20,
            reset: Some(Start::End),
            read_committed: false,
        }
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Records of one partition, in order.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: TopicPartition,
    /// The records; there may be none where compaction left a gap.
    pub records: Vec<ConsumedRecord>,
    /// The offset to go on with.
    pub next_offset: i64,
}

/// Reads partitions.
pub struct Consumer {
    shared: Arc<Shared>,
    answers: mpsc::Receiver<Result<Fetched, ClientError>>,
    /// Batches of the last answer that were not given yet.
    pending: VecDeque<(Arc<Fetched>, Bytes)>,
    fetcher: JoinHandle<()>,
}

impl Consumer {
    /// A consumer of a cluster; must be called on a tokio runtime.
    pub fn new(cluster: Cluster, config: ConsumerConfig) -> Consumer {
        let shared = Arc::new(Shared {
            positions: Mutex::new(Positions::new(config.ahead_bytes_max)),
            generation: AtomicU64::new(0),
            wake: Notify::new(),
        });
        let (out, answers) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let fetcher = tokio::spawn(Fetcher::new(cluster, Arc::new(config), shared.clone(), out).run());
        Consumer { shared, answers, pending: VecDeque::new(), fetcher }
    }

    /// From now on reads exactly these partitions, each from its start.
    pub fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.shared.assign(starts);
        self.pending.clear();
    }

    /// The offset behind the partition's last record, as the last answer told it.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared.positions.lock().high_watermark(partition)
    }

    /// Whether everything that there was of a partition is taken. True also below the high watermark, where the last
    /// records were removed.
    pub fn is_drained(&self, partition: &TopicPartition) -> bool {
        self.pending.is_empty() && self.shared.positions.lock().is_drained(partition)
    }

    /// Waits for the next records. A call that is dropped has taken nothing.
    pub async fn next(&mut self) -> Result<Chunk, ClientError> {
        loop {
            if let Some((fetched, batch)) = self.pending.pop_front() {
                if fetched.generation != self.shared.generation() {
                    continue;
                }
                self.shared.positions.lock().taken(&fetched.partition, batch.len());
                self.shared.wake.notify_one();
                return chunk(&fetched, &batch);
            }
            let fetched = Arc::new(self.answers.recv().await.ok_or(ClientError::Closed)??);
            if fetched.generation == self.shared.generation() {
                debug_assert_eq!(fetched.bytes, fetched.batches.iter().map(Bytes::len).sum::<usize>());
                debug_assert!(fetched.next > fetched.from);
                self.pending.extend(fetched.batches.iter().map(|batch| (fetched.clone(), batch.clone())));
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.fetcher.abort();
    }
}

/// The records of one batch; marks of transactions and what is below the position are left out.
fn chunk(fetched: &Fetched, batch: &Bytes) -> Result<Chunk, ClientError> {
    let damaged = |source| ClientError::Records {
        topic: fetched.partition.topic.to_string(),
        partition: fetched.partition.partition,
        offset: fetched.from,
        source,
    };
    let header = BatchHeader::parse(batch).map_err(damaged)?;
    let mut records = Vec::new();
    if !header.attributes.is_control() {
        let log_append = header.attributes.timestamp_type() == TimestampType::LogAppend;
        let decoded = decode_records(batch, DECOMPRESSED_BYTES_MAX).map_err(damaged)?;
        for record in decoded.iter() {
            let record = record.map_err(damaged)?;
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset < fetched.from {
                continue;
            }
            let timestamp = header.base_timestamp.saturating_add(record.timestamp_delta);
            records.push(ConsumedRecord {
                offset,
                timestamp_ms: if log_append { header.max_timestamp } else { timestamp },
                key: record.key.map(Bytes::copy_from_slice),
                value: record.value.map(Bytes::copy_from_slice),
                headers: record
                    .headers()
                    .map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v.map(Bytes::copy_from_slice)))
                    .collect(),
            });
        }
    }
    Ok(Chunk { partition: fetched.partition.clone(), records, next_offset: header.next_offset() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_batch::{BatchBuilder, Codec, NewRecord};

    #[test]
    fn records_below_the_position_are_left_out() {
        let mut builder = BatchBuilder::new(Codec::Gzip).base_offset(10);
        for n in 0..3 {
            let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"x"))];
            builder.push(NewRecord {
                timestamp_ms: 100 + n,
                key: None,
                value: Some(b"v"),
                headers: &headers,
            });
        }
        let batch = builder.build().expect("a batch");
        let partition = TopicPartition { topic: "a".into(), partition: 0 };
        let bytes = batch.len();
        let fetched =
            Fetched { partition, batches: vec![batch.clone()], from: 11, next: 13, bytes, generation: 0 };
        let chunk = chunk(&fetched, &batch).expect("records");
        assert_eq!(
            chunk.records.iter().map(|r| (r.offset, r.timestamp_ms)).collect::<Vec<_>>(),
            [(11, 101), (12, 102)]
        );
        assert_eq!(chunk.next_offset, 13);
        assert_eq!(chunk.records[0].headers, [("h".to_string(), Some(Bytes::from_static(b"x")))]);
    }
}
