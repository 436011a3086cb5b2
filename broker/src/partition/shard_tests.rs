//! Appends to a shard on a running Raft group, over a simulated disk.

use std::sync::Arc;

use bytes::Bytes;
use millstream_model::{
    NodeId, PartitionId, RaftGroupId,
    batch::{BatchBuilder, BatchHeader, Codec, NewRecord, split},
};
use millstream_replica::{Group, LogStore, NoPeers, Timing};
use millstream_state::partition as commands;
use millstream_store::{
    disk::{Disk, sim::SimDisk},
    tables::{MemoryRead, Tables, TablesConfig},
    wal::{RecoveryBase, Wal, WalConfig},
};
use tokio::sync::oneshot::Receiver;

use super::{
    CheckedBatch, ProduceError, Shard, ShardHost, Submission,
    shard::{AppendResult, Appended},
    staged::{StagedAppend, StagedBatch},
};

const GROUP: RaftGroupId = RaftGroupId(1);
const FIRST: PartitionId = PartitionId(11);
const SECOND: PartitionId = PartitionId(12);

/// A shard that is led, with two partitions.
struct RunningShard {
    shard: Arc<Shard>,
    _wal: Wal,
}

impl RunningShard {
    async fn start(seed: u64) -> RunningShard {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(seed));
        let (tables, _) = Tables::open(disk.clone(), TablesConfig::default()).expect("tables");
        let (wal, _) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("a log");
        let tables = Arc::new(tables);
        let host = Arc::new(ShardHost::new(GROUP, tables.clone()));
        let log = LogStore::new(wal.group(GROUP));
        let group =
            Group::start(GROUP, NodeId(1), Timing::default(), NoPeers::shared(), log, host.clone(), tables);
        let group = group.await.expect("a group");
        group.lead_alone().await.expect("it leads");
        let shard = Shard::new(group, host);
        shard
            .write(commands::encode_create_partitions(&[FIRST.into(), SECOND.into()]))
            .await
            .expect("created");
        RunningShard { shard, _wal: wal }
    }

    fn submit(&self, partition: PartitionId, batch: Bytes) -> Receiver<AppendResult> {
        let header = BatchHeader::parse(&batch).expect("a whole batch");
        let batch = CheckedBatch { bytes: batch, header, log_append_ms: None, max_timestamp: None };
        self.shard.submit(Submission { partition, epoch_base: 0, batch })
    }

    /// Submits and pushes one batch and waits for its result.
    async fn append(&self, partition: PartitionId, batch: Bytes) -> AppendResult {
        let reply_rx = self.submit(partition, batch);
        self.shard.push();
        reply_rx.await.expect("every submission is answered")
    }

    /// Appends 100 records without the knowledge of the shard's leader state.
    async fn append_bypassing_the_leader(&self, partition: PartitionId) {
        let bytes = plain(100);
        let staged = StagedBatch {
            partition,
            bytes,
            base_offset: 0,
            leader_epoch: 1,
            log_append_ms: None,
            max_timestamp: None,
        };
        let command = millstream_replica::Command::staged(StagedAppend::new(0, vec![staged]));
        self.shard.write(command.into_bytes()).await.expect("applied");
    }

    /// Base offsets of the partition's readable batches.
    fn readable(&self, partition: PartitionId) -> Vec<i64> {
        let MemoryRead::Hit(found) = self.shard.host.tables.read_memory(partition, 0, usize::MAX) else {
            return Vec::new();
        };
        let batches = found.iter().flat_map(split).map(|batch| batch.expect("whole"));
        batches.map(|batch| BatchHeader::parse(&batch).expect("whole").base_offset).collect()
    }
}

fn build(mut builder: BatchBuilder, records: usize, bytes: usize) -> Bytes {
    let value = vec![7; bytes];
    for _ in 0..records {
        builder.push(NewRecord { timestamp_ms: 5, value: Some(&value), ..NewRecord::default() });
    }
    builder.build().expect("an uncompressed batch")
}

fn plain(records: usize) -> Bytes {
    build(BatchBuilder::new(Codec::None), records, 10)
}

/// A batch of one record by producer 9.
fn sequenced(sequence: i32) -> Bytes {
    build(BatchBuilder::new(Codec::None).producer(9, 0, sequence), 1, 10)
}

fn at(base_offset: i64) -> AppendResult {
    Ok(Appended { base_offset, log_append_time_ms: -1, log_start_offset: 0 })
}

#[tokio::test]
async fn batches_get_their_offsets_in_the_order_of_submission() {
    let running = RunningShard::start(1).await;
    let mut replies = Vec::new();
    for n in 0..200 {
        replies.push((n * 2, running.submit(FIRST, plain(2))));
        replies.push((n, running.submit(SECOND, plain(1))));
        if n % 7 == 0 {
            running.shard.push();
        }
    }
    running.shard.push();
    for (base_offset, reply_rx) in replies {
        assert_eq!(reply_rx.await.expect("answered"), at(base_offset));
    }
    assert_eq!(running.readable(FIRST), (0..200).map(|n| n * 2).collect::<Vec<_>>());
    assert_eq!(running.readable(SECOND), (0..200).collect::<Vec<_>>());
    assert_eq!(running.shard.pending_partitions(), 0, "finished batches leave no state");
}

#[tokio::test]
async fn a_duplicate_batch_is_appended_once() {
    let running = RunningShard::start(2).await;
    let first = running.submit(FIRST, sequenced(0));
    // The first copy may still fail, so the second one is not acknowledged.
    assert_eq!(running.submit(FIRST, sequenced(0)).await, Ok(Err(ProduceError::Unavailable)));
    let next = running.submit(FIRST, sequenced(1));
    running.shard.push();
    assert_eq!((first.await, next.await), (Ok(at(0)), Ok(at(1))));
    assert_eq!(running.append(FIRST, sequenced(0)).await, at(0));
    assert_eq!(running.append(FIRST, sequenced(1)).await, at(1));
    assert_eq!(running.append(FIRST, sequenced(3)).await, Err(ProduceError::OutOfOrderSequence));
    assert_eq!(running.append(FIRST, sequenced(2)).await, at(2));
    assert_eq!(running.readable(FIRST), [0, 1, 2]);
}

#[tokio::test]
async fn mismatched_offsets_are_refused_as_retriable_and_counted() {
    let running = RunningShard::start(3).await;
    let (one, two) = (running.submit(FIRST, sequenced(0)), running.submit(FIRST, sequenced(1)));
    let other = running.submit(SECOND, plain(1));
    running.append_bypassing_the_leader(FIRST).await;
    running.shard.push();
    // Not out of order: the producer made no mistake, and may retry both.
    assert_eq!((one.await, two.await), (Ok(Err(ProduceError::NotLeader)), Ok(Err(ProduceError::NotLeader))));
    assert_eq!(other.await, Ok(at(0)), "the other partition of the same proposal is not affected");
    assert_eq!(running.shard.host.inspect(|machine| machine.stats().offset_mismatches), 2);
    assert_eq!(running.shard.pending_partitions(), 0);
    assert_eq!(running.append(FIRST, sequenced(0)).await, at(100));
    assert_eq!(running.append(FIRST, sequenced(1)).await, at(101));
    assert_eq!(running.readable(FIRST), [0, 100, 101]);
}

#[tokio::test]
async fn a_partition_accepts_nothing_while_its_pending_batches_have_wrong_offsets() {
    let running = RunningShard::start(4).await;
    // Each fills a proposal, so that the second is in flight when the first one fails.
    let large = || build(BatchBuilder::new(Codec::None), 1, 900 << 10);
    let replies: Vec<_> = (0..8).map(|_| running.submit(FIRST, large())).collect();
    running.append_bypassing_the_leader(FIRST).await;
    running.shard.push();
    for reply_rx in replies {
        assert_eq!(reply_rx.await, Ok(Err(ProduceError::NotLeader)));
    }
    assert_eq!(running.append(FIRST, plain(1)).await, at(100));
    assert_eq!(running.readable(FIRST), [0, 100]);
}

#[tokio::test]
async fn a_dropped_partition_accepts_nothing() {
    let running = RunningShard::start(5).await;
    let queued = running.submit(FIRST, plain(1));
    running.shard.write(commands::encode_drop_partitions(&[FIRST])).await.expect("dropped");
    running.shard.push();
    assert_eq!(queued.await, Ok(Err(ProduceError::UnknownPartition)));
    assert_eq!(running.append(FIRST, plain(1)).await, Err(ProduceError::UnknownPartition));
    assert_eq!(running.append(SECOND, plain(1)).await, at(0));
    assert_eq!(running.shard.pending_partitions(), 0);
}

#[tokio::test]
async fn all_queued_batches_are_answered_when_the_group_stops() {
    let running = RunningShard::start(6).await;
    // More proposals than may be in flight: finished ones make room for queued ones, which then find the group stopped.
    let large = || build(BatchBuilder::new(Codec::None), 1, 900 << 10);
    let replies: Vec<_> = (0..20).map(|_| running.submit(FIRST, large())).collect();
    running.shard.push();
    running.shard.group().shutdown().await;
    for reply_rx in replies {
        let result = reply_rx.await.expect("answered");
        assert!(result.is_ok() || result == Err(ProduceError::NotLeader), "{result:?}");
    }
    assert_eq!(running.append(FIRST, plain(1)).await, Err(ProduceError::NotLeader));
}

#[test]
fn a_proposal_that_is_refused_before_propose_returns_does_not_deadlock() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let running = runtime.block_on(RunningShard::start(7));
    let replies: Vec<_> = (0..3).map(|_| running.submit(FIRST, plain(1))).collect();
    runtime.block_on(running.shard.group().shutdown());
    // On a thread outside of the runtime the callback runs inside `propose`, and calls the shard again.
    let (shard, (tx, rx)) = (running.shard.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        shard.push();
        tx.send(())
    });
    rx.recv_timeout(std::time::Duration::from_secs(10)).expect("it does not wait for itself");
    for reply_rx in replies {
        assert_eq!(reply_rx.blocking_recv(), Ok(Err(ProduceError::NotLeader)));
    }
}
