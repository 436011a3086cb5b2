//! A partition's state with its batches in flight, for its leader.

use millstream_model::batch::BatchHeader;

use super::{
    PartitionState, Verdict,
    partition_state::end_of_batch,
    producers::{ProducersAhead, mark},
};

/// A partition's state after its batches in flight: only what differs from the applied state.
///
/// It is created from the applied state with the first batch, and must be dropped when the last one is
/// applied or when one of them has another outcome than predicted.
#[derive(Clone, Debug)]
pub struct PartitionAhead {
    next_offset: i64,
    producers: ProducersAhead,
}

impl PartitionAhead {
    /// Nothing is in flight.
    pub fn new(applied: &PartitionState) -> PartitionAhead {
        PartitionAhead { next_offset: applied.next_offset, producers: ProducersAhead::default() }
    }

    /// Offset of the next record.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The verdict on a batch, as [`PartitionState::check`] will give it.
    pub fn check(&self, applied: &PartitionState, header: &BatchHeader) -> Verdict {
        match self.producers.get(header.producer_id).filter(|_| header.is_idempotent()) {
            Some(producer) => producer.check(header),
            None => applied.check(header),
        }
    }

    /// Records a batch as in flight; returns the offset of its first record. `max_timestamp` is that of the
    /// batch as it will be stored.
    pub fn advance(&mut self, applied: &PartitionState, header: &BatchHeader, max_timestamp: i64) -> i64 {
        let base_offset = self.next_offset;
        if header.is_idempotent() {
            let known = applied.producers.get(header.producer_id);
            self.producers.record(header, mark(header, base_offset, max_timestamp), known);
        }
        self.next_offset = end_of_batch(header, base_offset);
        base_offset
    }
}
