//! A shard with a replica on this node, and the only place that proposes to its Raft group.
//!
//! A batch is checked, gets its offset and is queued; queued batches are proposed together, so that entries grow with the
//! load.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;
use millstream_model::{PartitionId, RaftGroupId};
use millstream_replica::{Command, Group, Outcome, ProposeError, Reply};
use millstream_state::partition::{AppendOutcome, ShardReply};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::{
    ShardHost,
    check::CheckedBatch,
    error::ProduceError,
    leader::{InFlight, Leader, PendingBatch, Placed, produce_error},
    proposal_queue::ProposalBatch,
    staged::{StagedAppend, StagedBatch},
};
use crate::{clock, telemetry::CommitMeter};

/// A batch to append to one partition of this shard.
pub struct Submission {
    pub partition: PartitionId,
    /// Leader epoch = Raft term + this.
    pub epoch_base: i32,
    pub batch: CheckedBatch,
}

/// The position of an appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: i64,
    /// The broker's timestamp of the batch, or -1 when the producer's is kept.
    pub log_append_time_ms: i64,
    /// First offset of the partition.
    pub log_start_offset: i64,
}

/// The result of one submission.
pub(super) type AppendResult = Result<Appended, ProduceError>;

/// One shard with a replica on this node.
pub struct Shard {
    /// The replicated state.
    pub host: Arc<ShardHost>,
    /// Latency of the stages of a group commit.
    pub meter: CommitMeter,
    group: Group,
    leader: Mutex<Leader>,
    /// For callbacks, which must not keep the shard alive.
    this: Weak<Shard>,
}

impl Shard {
    /// A shard on its running Raft group.
    pub fn new(group: Group, host: Arc<ShardHost>) -> Arc<Shard> {
        Arc::new_cyclic(|this| Shard {
            host,
            meter: CommitMeter::default(),
            group,
            leader: Mutex::default(),
            this: this.clone(),
        })
    }

    pub fn group(&self) -> &Group {
        &self.group
    }

    pub fn id(&self) -> RaftGroupId {
        self.group.id()
    }

    /// Checks a batch against its producer's earlier ones, assigns its offset and queues it. The receiver gets the result
    /// when the batch is durable and applied, or refused.
    pub fn submit(&self, submission: Submission) -> oneshot::Receiver<AppendResult> {
        let (reply_tx, reply_rx) = oneshot::channel();
        let mut leader = self.leader.lock();
        match self.admit(&mut leader, submission) {
            Ok(Admitted::Queue(staged)) => {
                let bytes = staged.bytes.len();
                leader.queue.push(PendingBatch { staged, reply_tx }, bytes);
            }
            Ok(Admitted::Already(appended)) => drop(reply_tx.send(Ok(appended))),
            Err(error) => drop(reply_tx.send(Err(error))),
        }
        reply_rx
    }

    /// Partitions with batches in flight or queued.
    #[cfg(test)]
    pub(super) fn pending_partitions(&self) -> usize {
        self.leader.lock().pending.len()
    }

    /// Proposes queued batches, as far as the limits allow. Call it after the submissions of a request.
    pub fn push(&self) {
        let mut leader = self.leader.lock();
        if std::mem::replace(&mut leader.pushing, true) {
            // The caller that is pushing checks the queue again before it returns.
            return;
        }
        while let Some(batch) = leader.queue.next_batch() {
            let term = leader.term;
            // Without the lock: others can submit meanwhile, and a proposal that is refused immediately takes the lock in
            // its callback. Only one caller proposes at a time, which keeps the order.
            MutexGuard::unlocked(&mut leader, || self.propose_append(term, batch));
        }
        leader.pushing = false;
    }

    fn propose_append(&self, term: u64, batch: ProposalBatch<PendingBatch>) {
        let begun = clock::monotonic();
        self.meter.queue.record(begun.saturating_duration_since(batch.since));
        let in_flight = |PendingBatch { staged, reply_tx }| {
            let (partition, log_append_ms) = (staged.partition, staged.log_append_ms);
            (staged, InFlight { partition, log_append_ms, reply_tx })
        };
        let (staged, in_flight): (Vec<StagedBatch>, Vec<InFlight>) =
            batch.items.into_iter().map(in_flight).unzip();
        let command = Command::staged(StagedAppend::new(clock::now_ms(), staged));
        let this = self.this.clone();
        self.propose(term, command, move |outcome| {
            if let Some(shard) = this.upgrade() {
                shard.finish_append(term, begun, in_flight, outcome);
            }
        });
    }

    /// Proposes a command in the given term; `done` is called as in [`Group::propose`].
    pub(crate) fn propose(&self, term: u64, command: Command, done: impl FnOnce(Outcome) + Send + 'static) {
        self.group.propose(term, command, done);
    }

    /// Proposes a command that is not an append and waits for its reply.
    pub async fn write(&self, command: Bytes) -> Result<ShardReply, ProposeError> {
        let term = self.group.led_term().ok_or(ProposeError::NotLeader)?;
        match self.group.write(term, Command::encoded(command)).await?.1 {
            Reply::Shard(reply) => Ok(reply),
            _ => Err(ProposeError::Unknown),
        }
    }

    fn admit(&self, leader: &mut Leader, submission: Submission) -> Result<Admitted, ProduceError> {
        let term = self.group.led_term().ok_or(ProduceError::NotLeader)?;
        if leader.term != term {
            leader.start_term(term);
        }
        let Submission { partition, epoch_base, batch } = submission;
        if !leader.queue.has_room_for(batch.bytes.len()) {
            return Err(ProduceError::Unavailable);
        }
        let placed = self.host.partition(partition, |applied| leader.place(applied, partition, &batch));
        let base_offset = match placed.ok_or(ProduceError::UnknownPartition)?? {
            Placed::At(base_offset) => base_offset,
            Placed::Already(appended) => return Ok(Admitted::Already(appended)),
        };
        let leader_epoch = leader_epoch(term, epoch_base);
        let CheckedBatch { bytes, log_append_ms, max_timestamp, .. } = batch;
        Ok(Admitted::Queue(StagedBatch {
            partition,
            bytes,
            base_offset,
            leader_epoch,
            log_append_ms,
            max_timestamp,
        }))
    }

    fn finish_append(&self, term: u64, begun: Instant, batches: Vec<InFlight>, outcome: Outcome) {
        self.meter.log.record(clock::monotonic().saturating_duration_since(begun));
        let outcomes = match outcome {
            Ok((_, Reply::Shard(ShardReply::Append(outcomes)))) => Some(outcomes),
            _ => None,
        };
        if let Some(outcomes) = &outcomes {
            assert_eq!(outcomes.len(), batches.len(), "one outcome for each batch of the entry");
        }
        {
            let mut leader = self.leader.lock();
            leader.queue.batch_ended();
            if leader.term == term {
                leader.settle(&batches, outcomes.as_deref());
            }
        }
        self.push();
        let mut outcomes = outcomes.map(Vec::into_iter);
        for InFlight { partition, log_append_ms, reply_tx } in batches {
            let outcome = outcomes.as_mut().and_then(Iterator::next);
            let result = outcome.map_or(Err(ProduceError::NotLeader), |outcome| {
                self.result(partition, log_append_ms, outcome)
            });
            // A closed connection needs no answer.
            let _ = reply_tx.send(result);
        }
    }

    fn result(
        &self,
        partition: PartitionId,
        log_append_ms: Option<i64>,
        outcome: AppendOutcome,
    ) -> AppendResult {
        let log_start_offset = self.host.partition(partition, |p| p.log_start()).unwrap_or_default();
        match outcome {
            AppendOutcome::Appended { base_offset } => Ok(Appended {
                base_offset,
                log_append_time_ms: log_append_ms.unwrap_or(-1),
                log_start_offset,
            }),
            AppendOutcome::Duplicate { base_offset, max_timestamp } => {
                let log_append_time_ms = log_append_ms.map_or(-1, |_| max_timestamp);
                Ok(Appended { base_offset, log_append_time_ms, log_start_offset })
            }
            AppendOutcome::Refused(refusal) => Err(produce_error(refusal)),
            AppendOutcome::OffsetMismatch { .. } => Err(ProduceError::NotLeader),
            AppendOutcome::UnknownPartition => Err(ProduceError::UnknownPartition),
        }
    }
}

/// The leader epoch that clients see: it grows with every change of the leader or the shard.
pub fn leader_epoch(term: u64, epoch_base: i32) -> i32 {
    i32::try_from(term).unwrap_or(i32::MAX).saturating_add(epoch_base)
}

enum Admitted {
    Queue(StagedBatch),
    Already(Appended),
}
