//! The leader's view of batches that are not applied yet.
//!
//! The predicted state of a partition is kept only while the partition has pending batches. When one of them fails or is
//! applied differently, the partition accepts no more until the others have ended too: their offsets depend on it.

use std::collections::{HashMap, hash_map::Entry};

use millstream_model::PartitionId;
use millstream_state::partition::{AppendOutcome, PartitionAhead, PartitionState, ProduceRefusal, Verdict};
use tokio::sync::oneshot;

use super::{
    check::CheckedBatch,
    error::ProduceError,
    proposal_queue::ProposalQueue,
    shard::{AppendResult, Appended},
    staged::StagedBatch,
};

/// Maximum proposals of one shard in flight; batches that arrive meanwhile wait and form the next one. With fewer, batches
/// would miss log writes that they could have been part of.
const PROPOSALS_IN_FLIGHT_MAX: usize = 8;

/// The partitions that have pending batches, and the queue of batches to propose.
pub(super) struct Leader {
    pub(super) term: u64,
    pub(super) pending: HashMap<PartitionId, PendingPartition>,
    pub(super) queue: ProposalQueue<PendingBatch>,
    /// A caller is proposing the queued batches.
    pub(super) pushing: bool,
}

/// A partition as it will be once all its pending batches are applied.
pub(super) struct PendingPartition {
    state: PartitionAhead,
    /// Queued batches and batches in flight.
    batches: usize,
    /// One of them was not applied as predicted.
    broken: bool,
}

/// A queued batch with its offset, and the caller that waits for it.
pub(super) struct PendingBatch {
    pub(super) staged: StagedBatch,
    pub(super) reply_tx: oneshot::Sender<AppendResult>,
}

/// A batch in flight, and the caller that waits for it.
pub(super) struct InFlight {
    pub(super) partition: PartitionId,
    pub(super) log_append_ms: Option<i64>,
    pub(super) reply_tx: oneshot::Sender<AppendResult>,
}

/// The result of [`Leader::place`].
pub(super) enum Placed {
    /// The batch gets this base offset.
    At(i64),
    /// A duplicate: the batch was appended before.
    Already(Appended),
}

impl Default for Leader {
    fn default() -> Leader {
        let queue = ProposalQueue::new(PROPOSALS_IN_FLIGHT_MAX);
        Leader { term: 0, pending: HashMap::new(), queue, pushing: false }
    }
}

impl Leader {
    /// Starts a term: batches that were queued in an earlier one are refused.
    pub(super) fn start_term(&mut self, term: u64) {
        assert!(term > self.term, "term {term} starts after term {}", self.term);
        self.term = term;
        self.pending.clear();
        for pending in self.queue.drain() {
            // A closed connection needs no answer.
            let _ = pending.reply_tx.send(Err(ProduceError::NotLeader));
        }
    }

    /// Checks a batch against its producer's earlier ones, including pending ones, and assigns its offset.
    pub(super) fn place(
        &mut self,
        applied: &PartitionState,
        partition: PartitionId,
        batch: &CheckedBatch,
    ) -> Result<Placed, ProduceError> {
        let pending = self.pending.get(&partition);
        if pending.is_some_and(|pending| pending.broken) {
            return Err(ProduceError::Unavailable);
        }
        match pending.map_or_else(
            || applied.check(&batch.header),
            |pending| pending.state.check(applied, &batch.header),
        ) {
            Verdict::Append => {}
            // The first copy is still pending and could fail, so this answer must not come before that of the first one.
            // The producer gets a retriable error.
            Verdict::Duplicate { base_offset, .. } if base_offset >= applied.next_offset() => {
                return Err(ProduceError::Unavailable);
            }
            Verdict::Duplicate { base_offset, max_timestamp } => {
                let log_append_time_ms = batch.log_append_ms.map_or(-1, |_| max_timestamp);
                let log_start_offset = applied.log_start();
                return Ok(Placed::Already(Appended { base_offset, log_append_time_ms, log_start_offset }));
            }
            Verdict::Refuse(refusal) => return Err(produce_error(refusal)),
        }
        let pending = self.pending.entry(partition).or_insert_with(|| PendingPartition {
            state: PartitionAhead::new(applied),
            batches: 0,
            broken: false,
        });
        pending.batches += 1;
        let max_timestamp = batch.log_append_ms.or(batch.max_timestamp).unwrap_or(batch.header.max_timestamp);
        Ok(Placed::At(pending.state.advance(applied, &batch.header, max_timestamp)))
    }

    /// Removes the batches of a finished proposal; `outcomes` is `None` when the proposal failed.
    pub(super) fn settle(&mut self, batches: &[InFlight], outcomes: Option<&[AppendOutcome]>) {
        for (at, batch) in batches.iter().enumerate() {
            let outcome = outcomes.and_then(|outcomes| outcomes.get(at));
            let Entry::Occupied(mut entry) = self.pending.entry(batch.partition) else { continue };
            let pending = entry.get_mut();
            assert!(pending.batches > 0, "{} has no pending batches", batch.partition);
            pending.batches -= 1;
            pending.broken |= !matches!(outcome, Some(AppendOutcome::Appended { .. }));
            if pending.batches == 0 {
                entry.remove();
            }
        }
    }
}

/// The producer's error for a batch that fails the sequence check.
pub(super) fn produce_error(refusal: ProduceRefusal) -> ProduceError {
    match refusal {
        ProduceRefusal::OutOfOrderSequence { .. } => ProduceError::OutOfOrderSequence,
        ProduceRefusal::InvalidProducerEpoch { .. } => ProduceError::InvalidProducerEpoch,
        ProduceRefusal::DuplicateSequence { .. } => ProduceError::DuplicateSequence,
    }
}
