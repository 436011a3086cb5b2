//! What a shard's leader knows of batches that are not applied yet.
//!
//! What a partition will be once its batches in flight are applied is kept only while there are any. When one of them
//! does not end as foreseen the partition takes no more until the others have ended too: their offsets were built on it.

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

/// Proposals of one shard that may be in flight; what comes meanwhile waits and leaves as one. With fewer, batches wait
/// here for a write that they could have been part of.
const PROPOSALS_IN_FLIGHT_MAX: usize = 8;

/// The partitions that have batches in flight or waiting, and the batches that wait.
pub(super) struct Leader {
    pub(super) term: u64,
    pub(super) ahead: HashMap<PartitionId, Ahead>,
    pub(super) queue: ProposalQueue<PendingBatch>,
    /// A caller is proposing what waits.
    pub(super) pushing: bool,
}

/// A partition as it will be once everything in flight and waiting is applied.
pub(super) struct Ahead {
    state: PartitionAhead,
    /// Batches in flight and waiting.
    pending: usize,
    /// One of them did not end as foreseen.
    broken: bool,
}

/// A batch with its offset, and the caller that waits for it.
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

/// What [`Leader::place`] found.
pub(super) enum Placed {
    /// The batch gets this offset.
    At(i64),
    /// It was appended before.
    Already(Appended),
}

impl Default for Leader {
    fn default() -> Leader {
        let queue = ProposalQueue::new(PROPOSALS_IN_FLIGHT_MAX);
        Leader { term: 0, ahead: HashMap::new(), queue, pushing: false }
    }
}

impl Leader {
    /// Begins a term: what waits in an earlier one is refused.
    pub(super) fn start_term(&mut self, term: u64) {
        assert!(term > self.term, "term {term} begins after term {}", self.term);
        self.term = term;
        self.ahead.clear();
        for pending in self.queue.drain() {
            // A connection that is gone needs no answer.
            let _ = pending.reply_tx.send(Err(ProduceError::NotLeader));
        }
    }

    /// Checks a batch against its producer's earlier ones, those in flight included, and gives it its offset.
    pub(super) fn place(
        &mut self,
        applied: &PartitionState,
        partition: PartitionId,
        batch: &CheckedBatch,
    ) -> Result<Placed, ProduceError> {
        let pending = self.ahead.get(&partition);
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
        let ahead = self.ahead.entry(partition).or_insert_with(|| Ahead {
            state: PartitionAhead::new(applied),
            pending: 0,
            broken: false,
        });
        ahead.pending += 1;
        let max_timestamp = batch.log_append_ms.or(batch.max_timestamp).unwrap_or(batch.header.max_timestamp);
        Ok(Placed::At(ahead.state.advance(applied, &batch.header, max_timestamp)))
    }

    /// Takes the batches of a proposal out of what is ahead; `outcomes` is `None` when all of it failed.
    pub(super) fn settle(&mut self, batches: &[InFlight], outcomes: Option<&[AppendOutcome]>) {
        for (at, batch) in batches.iter().enumerate() {
            let outcome = outcomes.and_then(|outcomes| outcomes.get(at));
            let Entry::Occupied(mut entry) = self.ahead.entry(batch.partition) else { continue };
            let ahead = entry.get_mut();
            assert!(ahead.pending > 0, "{} has nothing in flight", batch.partition);
            ahead.pending -= 1;
            ahead.broken |= !matches!(outcome, Some(AppendOutcome::Appended { .. }));
            if ahead.pending == 0 {
                entry.remove();
            }
        }
    }
}

/// The producer's error for a refusal by its sequence.
pub(super) fn refused(refusal: ProduceRefusal) -> ProduceError {
    match refusal {
        ProduceRefusal::OutOfOrderSequence { .. } => ProduceError::OutOfOrderSequence,
        ProduceRefusal::InvalidProducerEpoch { .. } => ProduceError::InvalidProducerEpoch,
        ProduceRefusal::DuplicateSequence { .. } => ProduceError::DuplicateSequence,
    }
}
