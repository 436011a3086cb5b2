//! The writing side of a shard's leader: hands out offsets, finds duplicates, gathers waves into proposals.
//!
//! Batches that arrive while proposals are in flight wait in one queue and leave together: the busier the
//! shard, the larger its entries. What a partition will be once its batches in flight are applied is kept only
//! while there are any. When one of them does not end as foreseen the partition takes no more until the others
//! have ended too: their offsets were built on it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Weak},
    time::Instant,
};

use millstream_model::{PartitionId, RaftGroupId, limits};
use millstream_replica::{Command, Group, Outcome, ProposeError, Reply};
use millstream_state::partition::{
    AppendOutcome, PartitionAhead, PartitionState, ProduceRefusal, ShardReply, Verdict,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::{
    ShardHost,
    check::CheckedBatch,
    staged::{StagedAppend, StagedBatch},
};
use crate::{clock, service::ProduceError, telemetry::CommitMeter};

/// Proposals of one shard that may be in flight; what comes meanwhile waits and leaves as one. With fewer, batches wait
/// here for a write that they could have been part of.
const PROPOSALS_IN_FLIGHT_MAX: usize = 8;
/// Batches that may wait for one shard; beyond it produce is refused as retriable.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// A batch for one partition of this shard, and what it needs to be stamped.
pub struct Submission {
    /// The partition.
    pub partition: PartitionId,
    /// Added to the Raft term, it is the leader epoch that clients see.
    pub epoch_base: i32,
    /// The batch.
    pub batch: CheckedBatch,
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: i64,
    /// Broker's timestamp of the batch, or -1 when the producer's is kept.
    pub log_append_time_ms: i64,
    /// First offset that the partition still has.
    pub log_start_offset: i64,
}

/// Told once for each submission.
pub(super) type AppendResult = Result<Appended, ProduceError>;

/// One shard of which this node has a replica.
pub struct Shard {
    /// The replicated state.
    pub host: Arc<ShardHost>,
    /// Where the time of group commits goes.
    pub meter: CommitMeter,
    group: Group,
    leader: Mutex<Leader>,
    /// For callbacks, which must not keep the shard alive.
    this: Weak<Shard>,
}

#[derive(Default)]
struct Leader {
    term: u64,
    /// Partitions that have batches in flight or queued.
    ahead: HashMap<PartitionId, Ahead>,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    in_flight: usize,
    /// Somebody proposes what is queued.
    pushing: bool,
}

/// A partition as it will be once everything in flight and queued is applied.
struct Ahead {
    state: PartitionAhead,
    /// Batches in flight and queued.
    pending: usize,
    /// One of them did not end as foreseen.
    broken: bool,
}

struct Queued {
    since: Instant,
    staged: StagedBatch,
    tell: oneshot::Sender<AppendResult>,
}

/// Whom to tell of each batch of a proposal, in the order of the batches.
type Waiting = Vec<(PartitionId, Option<i64>, oneshot::Sender<AppendResult>)>;

impl Shard {
    /// A shard on its running group.
    pub fn new(group: Group, host: Arc<ShardHost>) -> Arc<Shard> {
        Arc::new_cyclic(|this| Shard {
            host,
            meter: CommitMeter::default(),
            group,
            leader: Mutex::default(),
            this: this.clone(),
        })
    }

    /// The shard's Raft group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The shard's id.
    pub fn id(&self) -> RaftGroupId {
        self.group.id()
    }

    /// Takes one batch: checks it against its producer's earlier ones, gives it its offset and queues it. The
    /// receiver hears when the batch is durable and applied, or why it is not.
    pub fn submit(&self, submission: Submission) -> oneshot::Receiver<AppendResult> {
        let (tell, told) = oneshot::channel();
        let mut leader = self.leader.lock();
        match self.admit(&mut leader, submission) {
            Ok(Admitted::Queue(staged)) => {
                leader.queued_bytes += staged.bytes.len();
                leader.queue.push_back(Queued { since: clock::monotonic(), staged, tell });
            }
            Ok(Admitted::Already(appended)) => drop(tell.send(Ok(appended))),
            Err(error) => drop(tell.send(Err(error))),
        }
        told
    }

    /// Partitions of which something is in flight or queued.
    #[cfg(test)]
    pub(super) fn partitions_ahead(&self) -> usize {
        self.leader.lock().ahead.len()
    }

    /// Proposes what is queued, as far as the bounds allow. Call it after the submissions of a request.
    pub fn push(&self) {
        let mut leader = self.leader.lock();
        if std::mem::replace(&mut leader.pushing, true) {
            // Whoever pushes looks at the queue again before it ends.
            return;
        }
        while let Some((since, staged, waiting)) = leader.next_wave() {
            leader.in_flight += 1;
            self.meter.queue.record(clock::monotonic().saturating_duration_since(since));
            let term = leader.term;
            // Not under the lock: others submit meanwhile, and what is refused at once takes the lock itself. Only one
            // proposes at a time, so the order stays.
            MutexGuard::unlocked(&mut leader, || self.propose(term, staged, waiting));
        }
        leader.pushing = false;
    }

    fn propose(&self, term: u64, staged: Vec<StagedBatch>, waiting: Waiting) {
        let (this, begun) = (self.this.clone(), clock::monotonic());
        let command = Command::staged(StagedAppend::new(clock::now_ms(), staged));
        self.group.propose(term, command, move |outcome| {
            if let Some(shard) = this.upgrade() {
                shard.meter.log.record(clock::monotonic().saturating_duration_since(begun));
                shard.finish(term, waiting, outcome);
            }
        });
    }

    /// Proposes a command that is not an append and waits for its reply.
    pub async fn write(&self, command: bytes::Bytes) -> Result<ShardReply, ProposeError> {
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
        if leader.queued_bytes + batch.bytes.len() > QUEUED_BYTES_MAX {
            return Err(ProduceError::Unavailable);
        }
        let Leader { ahead, .. } = leader;
        let placed = self.host.partition(partition, |applied| place(ahead, applied, partition, &batch));
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

    fn finish(&self, term: u64, waiting: Waiting, outcome: Outcome) {
        let results = match outcome {
            Ok((_, Reply::Shard(ShardReply::Append(outcomes)))) if outcomes.len() == waiting.len() => {
                Some(outcomes)
            }
            _ => None,
        };
        {
            let mut leader = self.leader.lock();
            leader.in_flight -= 1;
            if leader.term == term {
                leader.settle(&waiting, results.as_deref());
            }
        }
        self.push();
        match results {
            Some(outcomes) => {
                for ((partition, log_append_ms, tell), outcome) in waiting.into_iter().zip(outcomes) {
                    let result = self.result(partition, log_append_ms, outcome);
                    // A connection that is gone needs no answer.
                    let _ = tell.send(result);
                }
            }
            None => {
                waiting.into_iter().for_each(|(_, _, tell)| drop(tell.send(Err(ProduceError::NotLeader))))
            }
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
            AppendOutcome::Refused(refusal) => Err(refused(refusal)),
            AppendOutcome::OffsetMismatch { .. } => Err(ProduceError::NotLeader),
            AppendOutcome::UnknownPartition => Err(ProduceError::UnknownPartition),
        }
    }
}

/// The epoch that clients see: it grows with every change of leader and of shard.
pub fn leader_epoch(term: u64, epoch_base: i32) -> i32 {
    i32::try_from(term).unwrap_or(i32::MAX).saturating_add(epoch_base)
}

enum Admitted {
    Queue(StagedBatch),
    Already(Appended),
}

enum Placed {
    At(i64),
    Already(Appended),
}

/// Checks a batch against its producer's earlier ones, those in flight included, and gives it its offset.
fn place(
    ahead: &mut HashMap<PartitionId, Ahead>,
    applied: &PartitionState,
    partition: PartitionId,
    batch: &CheckedBatch,
) -> Result<Placed, ProduceError> {
    let pending = ahead.get(&partition);
    if pending.is_some_and(|ahead| ahead.broken) {
        return Err(ProduceError::Unavailable);
    }
    match pending
        .map_or_else(|| applied.check(&batch.header), |ahead| ahead.state.check(applied, &batch.header))
    {
        Verdict::Append => {}
        // Its first copy is still in flight: this answer would come before the first one's, which could still
        // fail. The producer is told to ask again instead.
        Verdict::Duplicate { base_offset, .. } if base_offset >= applied.next_offset() => {
            return Err(ProduceError::Unavailable);
        }
        Verdict::Duplicate { base_offset, max_timestamp } => {
            let log_append_time_ms = batch.log_append_ms.map_or(-1, |_| max_timestamp);
            let log_start_offset = applied.log_start();
            return Ok(Placed::Already(Appended { base_offset, log_append_time_ms, log_start_offset }));
        }
        Verdict::Refuse(refusal) => return Err(refused(refusal)),
    }
    let ahead = ahead.entry(partition).or_insert_with(|| Ahead {
        state: PartitionAhead::new(applied),
        pending: 0,
        broken: false,
    });
    ahead.pending += 1;
    let max_timestamp = batch.log_append_ms.or(batch.max_timestamp).unwrap_or(batch.header.max_timestamp);
    Ok(Placed::At(ahead.state.advance(applied, &batch.header, max_timestamp)))
}

fn refused(refusal: ProduceRefusal) -> ProduceError {
    match refusal {
        ProduceRefusal::OutOfOrderSequence { .. } => ProduceError::OutOfOrderSequence,
        ProduceRefusal::InvalidProducerEpoch { .. } => ProduceError::InvalidProducerEpoch,
        ProduceRefusal::DuplicateSequence { .. } => ProduceError::DuplicateSequence,
    }
}

impl Leader {
    fn start_term(&mut self, term: u64) {
        self.term = term;
        self.ahead.clear();
        self.queued_bytes = 0;
        for queued in self.queue.drain(..) {
            let _ = queued.tell.send(Err(ProduceError::NotLeader));
        }
    }

    /// Takes the batches of a proposal out of what is ahead; `outcomes` is `None` when all of it failed.
    fn settle(&mut self, waiting: &Waiting, outcomes: Option<&[AppendOutcome]>) {
        for (at, (partition, _, _)) in waiting.iter().enumerate() {
            let outcome = outcomes.and_then(|outcomes| outcomes.get(at));
            let Entry::Occupied(mut entry) = self.ahead.entry(*partition) else { continue };
            let ahead = entry.get_mut();
            ahead.pending -= 1;
            ahead.broken |= !matches!(outcome, Some(AppendOutcome::Appended { .. }));
            if ahead.pending == 0 {
                entry.remove();
            }
        }
    }

    /// The batches of the next proposal, or nothing while enough is in flight.
    fn next_wave(&mut self) -> Option<(Instant, Vec<StagedBatch>, Waiting)> {
        if self.in_flight >= PROPOSALS_IN_FLIGHT_MAX {
            return None;
        }
        let oldest = self.queue.front()?.since;
        let (mut staged, mut waiting, mut bytes) = (Vec::new(), Waiting::new(), 0);
        while let Some(next) = self.queue.front() {
            bytes += next.staged.bytes.len();
            if bytes > limits::ENTRY_BYTES_TARGET && !staged.is_empty() {
                break;
            }
            let Some(Queued { staged: batch, tell, .. }) = self.queue.pop_front() else { break };
            self.queued_bytes -= batch.bytes.len();
            waiting.push((batch.partition, batch.log_append_ms, tell));
            staged.push(batch);
        }
        Some((oldest, staged, waiting))
    }
}
