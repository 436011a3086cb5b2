//! The replicated state of one partition.

use millstream_model::batch::BatchHeader;

use super::{
    epochs::Epochs,
    producers::{Producers, mark},
};

/// Why a producer's batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceRefusal {
    /// A preceding batch is missing.
    #[error("sequence {found} is out of order; expected {expected}")]
    OutOfOrderSequence {
        /// The expected sequence.
        expected: i32,
        /// The batch's first sequence.
        found: i32,
    },
    /// A newer epoch of the producer has written.
    #[error("producer epoch {found} is older than {current}")]
    InvalidProducerEpoch {
        /// The newest epoch.
        current: i16,
        /// The batch's epoch.
        found: i16,
    },
    /// It was appended, but so long ago that its offset is no longer known.
    #[error("sequence {found} was appended before; the last one is {last}")]
    DuplicateSequence {
        /// The last sequence in the log.
        last: i32,
        /// The batch's first sequence.
        found: i32,
    },
}

/// The verdict on a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Append,
    /// Duplicate.
    Duplicate {
        /// Offset of its first record.
        base_offset: i64,
        /// Its largest timestamp, as stored.
        max_timestamp: i64,
    },
    /// Refuse it.
    Refuse(ProduceRefusal),
}

/// The description of a partition's producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerView {
    /// Producer id.
    pub id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Time when its last batch was proposed, in milliseconds.
    pub last_write_ms: i64,
}

/// The state of one partition.
///
/// Invariants: 1. `0 <= log_start <= next_offset`. 2. Epochs grow, and each starts at an offset that is written.
/// 3. Each producer's marks follow one another (see `producers.rs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    pub(super) log_start: i64,
    pub(super) next_offset: i64,
    pub(super) epoch_base: i32,
    pub(super) epochs: Epochs,
    pub(super) producers: Producers,
}

impl PartitionState {
    /// An empty partition whose first offset is `start_offset`.
    pub fn new(start_offset: i64, epoch_base: i32) -> PartitionState {
        PartitionState {
            log_start: start_offset,
            next_offset: start_offset,
            epoch_base,
            epochs: Epochs::default(),
            producers: Producers::default(),
        }
    }

    /// First offset that is not deleted.
    pub fn log_start(&self) -> i64 {
        self.log_start
    }

    /// Offset of the next record.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Added to the shard's term it gives the leader epoch that clients see.
    pub fn epoch_base(&self) -> i32 {
        self.epoch_base
    }

    /// The newest epoch that has written.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.epochs.latest()
    }

    /// The largest epoch up to `epoch` and its end offset. `epoch` must not be newer than the leader's, whose
    /// writes are not known here.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        (epoch >= 0).then(|| self.epochs.end_of(epoch, self.next_offset))
    }

    /// The remembered producers, sorted by id.
    pub fn producers(&self) -> impl ExactSizeIterator<Item = ProducerView> {
        self.producers.iter().map(|(id, producer)| ProducerView {
            id,
            epoch: producer.epoch,
            last_sequence: producer.last_sequence(),
            last_write_ms: producer.last_write_ms,
        })
    }

    /// The verdict on a batch by Kafka's rules for idempotent producers. An unknown producer may begin with
    /// any sequence.
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        if !header.is_idempotent() {
            return Verdict::Append;
        }
        self.producers.get(header.producer_id).map_or(Verdict::Append, |producer| producer.check(header))
    }

    /// Records a batch as appended at `base_offset`, which is the next offset. `max_timestamp` is the stored
    /// one, `now_ms` the time of the proposal.
    pub fn advance(&mut self, header: &BatchHeader, base_offset: i64, max_timestamp: i64, now_ms: i64) {
        assert_eq!(base_offset, self.next_offset, "a batch is appended at the end");
        assert!(header.last_offset_delta >= 0, "a batch has at least one offset: {header:?}");
        self.epochs.record(header.leader_epoch, base_offset);
        if header.is_idempotent() {
            self.producers.record(header, mark(header, base_offset, max_timestamp), now_ms);
        }
        self.next_offset = end_of_batch(header, base_offset);
        if cfg!(debug_assertions) {
            self.validate_producer(header.producer_id);
        }
    }

    /// Moves the end up to `end`, where the records end although the entries of the last ones are lost. What
    /// their producers have written since is unknown, so all producers start anew.
    pub(super) fn extend(&mut self, end: i64) {
        if end > self.next_offset {
            self.next_offset = end;
            self.producers = Producers::default();
        }
        self.validate_bounds();
    }

    /// Moves the log start up, at most to the end; returns whether it moved.
    pub(super) fn move_log_start(&mut self, to: i64) -> bool {
        let to = to.min(self.next_offset);
        if to <= self.log_start {
            return false;
        }
        self.log_start = to;
        self.validate_bounds();
        self.epochs.cut_before(to);
        true
    }

    /// Checks the invariants.
    pub fn validate(&self) {
        self.validate_bounds();
        self.epochs.validate(self.next_offset);
        self.producers.validate(self.next_offset);
    }

    /// Checks the invariants that a batch of this producer can violate.
    fn validate_producer(&self, id: i64) {
        self.validate_bounds();
        self.epochs.validate(self.next_offset);
        self.producers.validate_one(id, self.next_offset);
    }

    fn validate_bounds(&self) {
        assert!(
            0 <= self.log_start && self.log_start <= self.next_offset,
            "log start {} of {} (1)",
            self.log_start,
            self.next_offset
        );
    }
}

/// Offset after a batch that begins at `base_offset`.
pub(super) fn end_of_batch(header: &BatchHeader, base_offset: i64) -> i64 {
    base_offset + i64::from(header.last_offset_delta) + 1
}
