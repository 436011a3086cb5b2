//! The consumer: records of assigned partitions, read ahead in the background.
//!
//! What it asks for is decided in `positions` (pure); `fetcher` does it. Reading ahead is bounded for each partition and
//! for the whole: a reader that stops stops the fetching.

mod aborted;
mod chunk;
mod fetcher;
mod group;
mod memory;
mod positions;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use millstream_batch::BatchHeader;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use crate::{ClientError, Cluster};
use chunk::chunk;
use fetcher::{Fetched, Fetcher, Shared};
use memory::Memory;
use positions::Positions;

pub use chunk::{Chunk, ConsumedRecord};
pub(crate) use group::read_assignment;
pub use group::{Assignor, Commit, Event, GroupConfig, GroupConsumer, PatternError, TopicPattern};
pub use positions::{Start, TopicPartition};

/// Answers that wait to be taken.
const ANSWERS_AHEAD_MAX: usize = 64;

/// How a consumer works.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Bytes from which the broker answers without waiting for more. Default: 1.
    pub min_bytes: i32,
    /// Bytes of one answer, but for a single batch that is larger. Default: 50 MiB.
    pub bytes_max: i32,
    /// Bytes of one partition in one answer, but for a single batch that is larger. Default: 1 MiB.
    pub partition_bytes_max: i32,
    /// How long the broker waits for `min_bytes`. Default: 500 ms.
    pub wait_max: Duration,
    /// Bytes of a partition that are read ahead: while this many wait to be taken, no more are fetched. Default: 4 MiB.
    pub ahead_bytes_max: usize,
    /// Where to go on when an offset is not there any more; without one [`Consumer::next`] tells that as an error, until
    /// there is a [seek](Consumer::seek). Default: [`Start::End`].
    pub reset: Option<Start>,
    /// Whether records of transactions that are not committed are left out. Default: they are not.
    pub read_committed: bool,
    /// Bytes of all partitions that wait to be taken or are on their way, as they were fetched, compressed or not: at most
    /// half of it is on its way, shared by the brokers. Answers count as a whole until all of theirs is taken. A single batch
    /// that is larger than what is free still comes, from each broker. What was [given](Chunk) does not count. As
    /// `queued.max.messages.kbytes` of librdkafka. At least 1. Default: 64 MiB.
    pub memory_bytes: usize,
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
            memory_bytes: 64 << 20,
        }
    }
}

impl ConsumerConfig {
    /// Says what cannot be; the consumer itself does that before it reads.
    pub fn check(&self) -> Result<(), ClientError> {
        let sizes = [
            ("bytes_max", i64::from(self.bytes_max)),
            ("partition_bytes_max", i64::from(self.partition_bytes_max)),
            ("ahead_bytes_max", i64::try_from(self.ahead_bytes_max).unwrap_or(i64::MAX)),
            ("memory_bytes", i64::try_from(self.memory_bytes).unwrap_or(i64::MAX)),
        ];
        match sizes.into_iter().find(|(_, size)| *size < 1) {
            Some((key, size)) => Err(ClientError::setting(key, size, "it is at least 1")),
            None => Ok(()),
        }
    }
}

/// Batches that were fetched and wait to be given.
type Waiting = VecDeque<(Arc<Fetched>, Bytes)>;

/// Reads partitions.
pub struct Consumer {
    shared: Arc<Shared>,
    answers: mpsc::Receiver<Result<Fetched, ClientError>>,
    /// Batches of the last answer that were not given yet.
    pending: Waiting,
    fetcher: JoinHandle<()>,
}

impl Consumer {
    /// A consumer of a cluster; must be called on a tokio runtime.
    pub fn new(cluster: Cluster, config: ConsumerConfig) -> Consumer {
        let wake = Arc::<Notify>::default();
        let shared = Arc::new(Shared {
            positions: Mutex::new(Positions::new(config.ahead_bytes_max)),
            held: Mutex::default(),
            memory: Memory::new(config.memory_bytes, wake.clone()),
            wake,
        });
        let (out, answers) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let fetcher = tokio::spawn(Fetcher::new(cluster, Arc::new(config), shared.clone(), out).run());
        Consumer { shared, answers, pending: VecDeque::new(), fetcher }
    }

    /// From now on reads exactly these partitions, each from its start.
    pub fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.shared.change(|positions| positions.assign(starts));
        self.pending.clear();
        self.shared.held.lock().clear();
    }

    /// From now on reads these partitions too; the others go on as they are.
    pub fn add(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.shared.change(|positions| positions.add(starts));
    }

    /// From now on does not read these partitions; the others go on as they are.
    pub fn remove(&mut self, partitions: &[TopicPartition]) {
        self.shared.change(|positions| positions.remove(partitions));
        self.shared.held.lock().retain(|partition, _| !partitions.contains(partition));
    }

    /// Goes on from elsewhere in a partition; records that were read ahead are not given any more. False when the
    /// partition is not read.
    pub fn seek(&mut self, partition: &TopicPartition, start: Start) -> bool {
        self.shared.held.lock().remove(partition);
        self.shared.change(|positions| positions.seek(partition, start))
    }

    /// Gives no records of these partitions until they are [resumed](Consumer::resume), and fetches none. What was read
    /// ahead is kept, unless others need its memory: then it is fetched again.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.shared.change(|positions| positions.set_paused(partition, true));
        }
    }

    /// Goes on with these partitions where they were paused.
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.shared.change(|positions| positions.set_paused(partition, false));
            let held = self.shared.held.lock().remove(partition);
            for waiting in held.into_iter().flatten().rev() {
                self.pending.push_front(waiting);
            }
        }
    }

    /// The offset of the next record to be given; none while it is looked for, and for a partition that is not read.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared.positions.lock().given(partition)
    }

    /// The offset behind the partition's last record, as of the last response; none before the first one.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared.positions.lock().high_watermark(partition)
    }

    /// Whether everything that there was of a partition is taken. True also below the high watermark, where the last
    /// records were removed.
    pub fn is_drained(&self, partition: &TopicPartition) -> bool {
        self.pending.is_empty() && self.shared.positions.lock().is_drained(partition)
    }

    /// Bytes that count towards [`memory_bytes`](ConsumerConfig::memory_bytes) now.
    pub fn buffered_bytes(&self) -> usize {
        self.shared.memory.used()
    }

    /// Waits for the next records. A call that is dropped has taken nothing. Fails with what cannot be tried again: a
    /// partition that may not be read, an offset that is not there where there is no [reset](ConsumerConfig::reset), records
    /// that are damaged, a setting that [cannot be](ConsumerConfig::check). The other partitions go on with the next call.
    pub async fn next(&mut self) -> Result<Chunk, ClientError> {
        loop {
            while let Some((fetched, batch)) = self.pending.pop_front() {
                if let Some(chunk) = self.give(fetched, batch) {
                    return chunk;
                }
            }
            let mut fetched = self.answers.recv().await.ok_or(ClientError::Closed)??;
            debug_assert_eq!(fetched.bytes, fetched.batches.iter().map(Bytes::len).sum::<usize>());
            debug_assert!(fetched.next > fetched.from);
            let batches = std::mem::take(&mut fetched.batches);
            let fetched = Arc::new(fetched);
            self.pending.extend(batches.into_iter().map(|batch| (fetched.clone(), batch)));
        }
    }

    /// The records of a batch, if they are wanted now.
    fn give(&mut self, fetched: Arc<Fetched>, batch: Bytes) -> Option<Result<Chunk, ClientError>> {
        let mut positions = self.shared.positions.lock();
        if !positions.is_current(&fetched.partition, fetched.reading) {
            return None;
        }
        if positions.is_paused(&fetched.partition) {
            let (memory, mut held) = (&self.shared.memory, self.shared.held.lock());
            if memory.has_room(batch.len()) {
                let alone = fetched.alone(&batch, memory);
                held.entry(fetched.partition.clone()).or_default().push_back(alone);
            } else {
                positions.forget(&fetched.partition);
                held.remove(&fetched.partition);
            }
            return None;
        }
        let next_offset = BatchHeader::parse(&batch).map_or(fetched.next, |header| header.next_offset());
        positions.taken(&fetched.partition, batch.len(), next_offset);
        drop(positions);
        self.shared.wake.notify_one();
        Some(chunk(&fetched, &batch))
    }

    /// The records as a stream of chunks, which goes on after an error and ends when the consumer is closed.
    pub fn stream(&mut self) -> impl Stream<Item = Result<Chunk, ClientError>> {
        futures::stream::unfold(self, |consumer| async move {
            let next = consumer.next().await;
            (!matches!(next, Err(ClientError::Closed))).then_some((next, consumer))
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.fetcher.abort();
    }
}
