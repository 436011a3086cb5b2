//! The idempotent producers of one partition: their epochs and last batches.
//!
//! The rules are Kafka's (its `ProducerAppendInfo` and `ProducerStateEntry`), with one difference: a batch
//! that was certainly appended but is older than the remembered ones is refused as a duplicate, which clients
//! treat as success, and not as out of order, which some treat as fatal.

use std::collections::BTreeMap;

use millstream_model::batch::BatchHeader;

use super::{ProduceRefusal, Verdict};

/// Batches remembered per producer: as many as a client may have in flight.
pub const BATCHES_KEPT: usize = 5;
/// Most producers of one partition. One more, and the half that has not written for longest is removed.
pub const PRODUCERS_MAX: usize = 1 << 16;

/// Sequences and offset of a producer's batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) base_sequence: i32,
    pub(super) last_sequence: i32,
    pub(super) base_offset: i64,
    pub(super) max_timestamp: i64,
}

/// The state of one producer.
///
/// Invariants: 1. `1 <= count <= BATCHES_KEPT`. 2. Marks are in log order: each begins after the previous
/// one, in sequence and in offset. 3. If `whole`, every sequence of this epoch from 0 to the last mark's end
/// was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: i16,
    pub(super) whole: bool,
    pub(super) count: u8,
    pub(super) last_write_ms: i64,
    pub(super) marks: [Mark; BATCHES_KEPT],
}

/// The next sequence; sequences wrap from `i32::MAX` to 0.
fn after(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

impl Producer {
    fn first(header: &BatchHeader, mark: Mark) -> Producer {
        let mut marks = [Mark::default(); BATCHES_KEPT];
        marks[0] = mark;
        let whole = header.base_sequence == 0;
        Producer { epoch: header.producer_epoch, whole, count: 1, last_write_ms: i64::MIN, marks }
    }

    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks[..self.count as usize]
    }

    pub(super) fn last_sequence(&self) -> i32 {
        self.marks().last().map_or(-1, |mark| mark.last_sequence)
    }

    /// The verdict on the producer's next batch.
    pub(super) fn check(&self, header: &BatchHeader) -> Verdict {
        let (epoch, first, last) = (header.producer_epoch, header.base_sequence, header.last_sequence());
        if epoch < self.epoch {
            let (current, found) = (self.epoch, epoch);
            return Verdict::Refuse(ProduceRefusal::InvalidProducerEpoch { current, found });
        }
        if epoch > self.epoch {
            return match first {
                0 => Verdict::Append,
                found => Verdict::Refuse(ProduceRefusal::OutOfOrderSequence { expected: 0, found }),
            };
        }
        let same = |mark: &&Mark| mark.base_sequence == first && mark.last_sequence == last;
        if let Some(mark) = self.marks().iter().find(same) {
            let (base_offset, max_timestamp) = (mark.base_offset, mark.max_timestamp);
            return Verdict::Duplicate { base_offset, max_timestamp };
        }
        let expected = after(self.last_sequence());
        if first == expected {
            return Verdict::Append;
        }
        if self.whole && is_behind(first, last, expected) {
            return Verdict::Refuse(ProduceRefusal::DuplicateSequence {
                last: self.last_sequence(),
                found: first,
            });
        }
        Verdict::Refuse(ProduceRefusal::OutOfOrderSequence { expected, found: first })
    }

    /// Records an appended batch.
    pub(super) fn record(&mut self, header: &BatchHeader, mark: Mark) {
        if header.producer_epoch != self.epoch {
            *self = Producer { last_write_ms: self.last_write_ms, ..Producer::first(header, mark) };
            return;
        }
        if self.count as usize == BATCHES_KEPT {
            self.marks.rotate_left(1);
            self.count -= 1;
        }
        self.marks[self.count as usize] = mark;
        self.count += 1;
    }

    fn validate(&self, id: i64, next_offset: i64) {
        let count = self.count as usize;
        assert!((1..=BATCHES_KEPT).contains(&count), "producer {id} has {count} marks (1)");
        for pair in self.marks().windows(2) {
            assert!(
                pair[0].base_offset < pair[1].base_offset
                    && after(pair[0].last_sequence) == pair[1].base_sequence,
                "producer {id}: {:?} does not follow {:?} (2)",
                pair[1],
                pair[0]
            );
        }
        let last = self.marks().last().map_or(0, |mark| mark.base_offset);
        assert!(last < next_offset, "producer {id} has written offset {last} of {next_offset} (2)");
    }
}

/// Whether the batch is entirely before the expected sequence. Half of all sequences count as before.
fn is_behind(first: i32, last: i32, expected: i32) -> bool {
    const HALF: i64 = 1 << 30;
    let distance = |sequence: i32| (i64::from(expected) - i64::from(sequence)).rem_euclid(1 << 31);
    // A batch that begins before the expected sequence and ends after it is neither old nor new.
    (1..HALF).contains(&distance(first)) && (1..=distance(first)).contains(&distance(last))
}

pub(super) fn mark(header: &BatchHeader, base_offset: i64, max_timestamp: i64) -> Mark {
    Mark {
        base_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        base_offset,
        max_timestamp,
    }
}

/// All producers of one partition. Allocates nothing while there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    by_id: BTreeMap<i64, Producer>,
}

impl Producers {
    pub(super) fn get(&self, id: i64) -> Option<&Producer> {
        self.by_id.get(&id)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (i64, &Producer)> {
        self.by_id.iter().map(|(id, producer)| (*id, producer))
    }

    pub(super) fn insert(&mut self, id: i64, producer: Producer) {
        self.by_id.insert(id, producer);
    }

    /// Records an appended batch and the time of its proposal.
    pub(super) fn record(&mut self, header: &BatchHeader, mark: Mark, now_ms: i64) {
        let id = header.producer_id;
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&id) {
            self.forget_half();
        }
        let known = self.by_id.get_mut(&id);
        let producer = match known {
            Some(producer) => {
                producer.record(header, mark);
                producer
            }
            None => self.by_id.entry(id).or_insert(Producer::first(header, mark)),
        };
        // Clocks of two leaders may differ; the time of the last write never decreases.
        producer.last_write_ms = producer.last_write_ms.max(now_ms);
    }

    fn forget_half(&mut self) {
        let mut by_age: Vec<(i64, i64)> = self.by_id.iter().map(|(id, p)| (p.last_write_ms, *id)).collect();
        let half = by_age.len() / 2;
        by_age.sort_unstable();
        for (_, id) in &by_age[..half] {
            self.by_id.remove(id);
        }
    }

    /// Removes those that have not written since `before_ms`.
    pub(super) fn expire(&mut self, before_ms: i64) {
        self.by_id.retain(|_, producer| producer.last_write_ms > before_ms);
    }

    /// Whether [`expire`](Producers::expire) would remove any.
    pub(super) fn has_expired(&self, before_ms: i64) -> bool {
        self.by_id.values().any(|producer| producer.last_write_ms <= before_ms)
    }

    pub(super) fn validate(&self, next_offset: i64) {
        assert!(self.by_id.len() <= PRODUCERS_MAX, "{} producers of one partition", self.by_id.len());
        self.by_id.iter().for_each(|(id, producer)| producer.validate(*id, next_offset));
    }

    pub(super) fn validate_one(&self, id: i64, next_offset: i64) {
        assert!(self.by_id.len() <= PRODUCERS_MAX, "{} producers of one partition", self.by_id.len());
        if let Some(producer) = self.by_id.get(&id) {
            producer.validate(id, next_offset);
        }
    }
}

/// The predicted state of producers with batches in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct ProducersAhead {
    by_id: BTreeMap<i64, Producer>,
}

impl ProducersAhead {
    pub(super) fn get(&self, id: i64) -> Option<&Producer> {
        self.by_id.get(&id)
    }

    /// Records a batch in flight; `applied` is the producer's state before any of these.
    pub(super) fn record(&mut self, header: &BatchHeader, mark: Mark, applied: Option<&Producer>) {
        match (self.by_id.get_mut(&header.producer_id), applied) {
            (Some(ahead), _) => ahead.record(header, mark),
            (None, None) => drop(self.by_id.insert(header.producer_id, Producer::first(header, mark))),
            (None, Some(applied)) => {
                let mut ahead = *applied;
                ahead.record(header, mark);
                self.by_id.insert(header.producer_id, ahead);
            }
        }
    }
}
