//! The producer's decisions: when a batch is full, what is sent next and to whom, what is tried again, what has failed.
//!
//! No input, no output, no clock: records, answers and the time go in, requests and results come out.
//!
//! Invariants, each said as an absence:
//! 1. No batch of a partition is sent for the first time while an earlier one waits to be tried again.
//! 2. No record of an idempotent producer is given a second sequence while its first try may have been appended.
//! 3. No more than `in_flight_max` batches of one partition are on their way: a broker remembers as many.
//! 4. No batch follows another one of its partition on its way before the broker has appended one under the producer's
//!    identity: a broker that knows nothing of a producer yet takes any sequence, and could take a later batch first.
//! 5. No record is forgotten: each is in exactly one batch until its result is delivered.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_batch::Codec;
use millstream_protocol::ErrorCode;

use super::{
    Record,
    batch::{Batch, Place, Sequence, plus, record_bytes},
    partitioner::Sticky,
    result::{Appended, Delivery, DeliveryError},
};
use crate::backoff::Backoff;

/// Why a batch is not even tried.
const NO_LEADER: &str = "the partition has no leader";

/// What the machine goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) codec: Codec,
    pub(crate) batch_bytes_max: usize,
    pub(crate) request_bytes_max: usize,
    pub(crate) linger: Duration,
    pub(crate) delivery_timeout: Duration,
    /// Batches of a partition, and requests to a broker, that may be on their way.
    pub(crate) in_flight_max: usize,
    pub(crate) idempotent: bool,
    pub(crate) backoff: Backoff,
}

/// What became of a batch's try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Try {
    /// It is in the log; -1 where the broker does not say where.
    Appended(Appended),
    /// The broker said no.
    Refused { code: ErrorCode, reason: Option<String> },
    /// Nothing was sent: the broker cannot be reached.
    Unsent { reason: String },
    /// No answer.
    Lost { reason: String },
    /// It could not be encoded, so nothing was sent.
    Unencodable { reason: String },
}

/// What adding a record did.
#[derive(Debug)]
pub(crate) struct Added {
    /// A batch was closed: there is something to send.
    pub(crate) closed: bool,
    /// A batch was begun: there is something to wait for.
    pub(crate) opened: bool,
    pub(crate) delivery: Delivery,
}

/// A batch with its end.
pub(crate) struct Settled {
    pub(crate) batch: Batch,
    pub(crate) result: Result<Appended, DeliveryError>,
}

/// What is to be done next.
pub(crate) struct Step {
    /// A produce request: the broker, and at most one batch of each partition.
    pub(crate) requests: Vec<(i32, Vec<Batch>)>,
    /// A producer id is needed; pass it to [`Machine::identify`].
    pub(crate) wants_identity: bool,
    /// Topics whose leaders are not known, or not any more.
    pub(crate) stale: BTreeSet<Arc<str>>,
    /// Batches whose time is over.
    pub(crate) settled: Vec<Settled>,
    /// When to look again, if nothing happens before.
    pub(crate) wake_at: Option<Instant>,
}

#[derive(Default)]
struct Partition {
    open: Option<Batch>,
    ready: VecDeque<Batch>,
    /// In the order of their sequences.
    again: VecDeque<Batch>,
    in_flight: usize,
    next_sequence: i32,
    /// The broker has appended a batch under this identity.
    introduced: bool,
    /// Whether it is in the machine's list of those that are not idle.
    busy: bool,
    /// Bytes of the last batch, which the next one will need too.
    last_bytes: usize,
    /// The broker takes no batches as large as the rules allow.
    batch_bytes_max: Option<usize>,
    /// What the last try that failed ended with.
    last_failure: Option<String>,
    /// Nothing was appended since then.
    failing: bool,
}

impl Partition {
    fn is_idle(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.again.is_empty() && self.in_flight == 0
    }

    /// Among those that are tried again, where its sequence belongs.
    fn put_again(&mut self, batch: Batch) {
        let at = self.again.iter().position(|other| is_before(batch.sequence, other.sequence));
        self.again.insert(at.unwrap_or(self.again.len()), batch);
    }

    fn fail(&mut self, reason: String) {
        (self.last_failure, self.failing) = (Some(reason), true);
    }

    fn close(&mut self) -> bool {
        let closed = self.open.take();
        let any = closed.is_some();
        self.last_bytes = closed.as_ref().map_or(0, Batch::payload_bytes);
        self.ready.extend(closed);
        any
    }
}

/// See the module.
pub(crate) struct Machine {
    rules: Rules,
    partitions: HashMap<Place, Partition>,
    /// By topic, where its keyless records go.
    sticky: HashMap<Arc<str>, Sticky>,
    /// Partitions that are not idle, in an order that does not depend on chance.
    busy: BTreeSet<Place>,
    requests_in_flight: HashMap<i32, usize>,
    identity: Option<(i64, i16)>,
    /// Why the last question for an identity had no answer.
    identity_failure: Option<String>,
    /// A sequence is lost: sequences begin anew under another identity once nothing is in flight.
    renew: bool,
    flushing: bool,
    stale: BTreeSet<Arc<str>>,
}

impl Machine {
    pub(crate) fn new(rules: Rules) -> Machine {
        Machine {
            rules,
            partitions: HashMap::new(),
            sticky: HashMap::new(),
            busy: BTreeSet::new(),
            requests_in_flight: HashMap::new(),
            identity: None,
            identity_failure: None,
            renew: false,
            flushing: false,
            stale: BTreeSet::new(),
        }
    }

    /// The partition for a record without a key.
    pub(crate) fn keyless(&mut self, topic: &str, partitions: usize, start: impl FnOnce() -> u64) -> usize {
        match self.sticky.get_mut(topic) {
            Some(sticky) => sticky.partition(partitions, start),
            None => self.sticky.entry(topic.into()).or_default().partition(partitions, start),
        }
    }

    /// Adds a record to the partition's open batch, or to a new one.
    pub(crate) fn append(
        &mut self,
        place: &Place,
        record: &Record,
        timestamp_ms: i64,
        now: Instant,
    ) -> Added {
        let bytes = record_bytes(record);
        let partition = match self.partitions.get_mut(place) {
            Some(partition) => partition,
            None => self.partitions.entry(place.clone()).or_default(),
        };
        if !std::mem::replace(&mut partition.busy, true) {
            self.busy.insert(place.clone());
        }
        let bytes_max = partition.batch_bytes_max.unwrap_or(self.rules.batch_bytes_max);
        let full = |open: &Batch, more: usize| open.payload_bytes() + more > bytes_max;
        let mut closed = partition.open.as_ref().is_some_and(|open| full(open, bytes)) && partition.close();
        let (codec, room_bytes) = (self.rules.codec, partition.last_bytes);
        let opened = partition.open.is_none();
        let open = partition.open.get_or_insert_with(|| Batch::new(place.clone(), codec, room_bytes, now));
        let delivery = open.push(record, timestamp_ms);
        if full(open, 0) {
            closed |= partition.close();
        }
        if closed {
            self.go_on_behind(place);
        }
        Added { closed, opened, delivery }
    }

    /// A batch of this partition was closed: keyless records go on with another one.
    fn go_on_behind(&mut self, place: &Place) {
        if let (Some(sticky), Ok(partition)) =
            (self.sticky.get_mut(&place.topic), usize::try_from(place.partition))
        {
            sticky.closed(partition);
        }
    }

    /// What is known of a topic is to be asked for anew.
    pub(crate) fn refresh(&mut self, topic: &str) {
        if !self.stale.contains(topic) {
            self.stale.insert(topic.into());
        }
    }

    /// From now on no batch waits for more records, until everything is delivered.
    pub(crate) fn flush(&mut self) {
        self.flushing = true;
    }

    /// Whether every record has its result.
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// What keeps records from getting through: why the last try failed where nothing was appended since.
    pub(crate) fn trouble(&self) -> Option<String> {
        let failing = || self.partitions.values().find(|partition| partition.failing);
        self.identity_failure.clone().or_else(|| failing()?.last_failure.clone())
    }

    /// There is no producer id yet.
    pub(crate) fn identity_failed(&mut self, reason: String) {
        self.identity_failure = Some(reason);
    }

    /// The producer id that was asked for: sequences begin with 0.
    pub(crate) fn identify(&mut self, id: i64, epoch: i16) -> Vec<Settled> {
        (self.identity, self.identity_failure) = (Some((id, epoch)), None);
        self.renew = false;
        let mut settled = Vec::new();
        for partition in self.partitions.values_mut() {
            (partition.next_sequence, partition.introduced) = (0, false);
            let reason = partition.last_failure.clone().unwrap_or_default();
            for mut batch in std::mem::take(&mut partition.again) {
                if batch.doubtful {
                    // Under another sequence the broker could not tell that it has the batch already.
                    let result = Err(DeliveryError::Unknown { reason: reason.clone() });
                    settled.push(Settled { batch, result });
                } else {
                    batch.sequence = None;
                    partition.again.push_back(batch);
                }
            }
        }
        self.forget_idle();
        settled
    }

    /// What is to be done now. `leader` knows who leads a partition.
    pub(crate) fn step(&mut self, now: Instant, leader: impl Fn(&Place) -> Option<i32>) -> Step {
        let mut step = Step {
            requests: Vec::new(),
            wants_identity: false,
            stale: std::mem::take(&mut self.stale),
            settled: self.expire(now),
            wake_at: None,
        };
        let in_flight = self.requests_in_flight.values().any(|n| *n > 0);
        if self.rules.idempotent && (self.identity.is_none() || self.renew) {
            step.wants_identity = !self.busy.is_empty() && !in_flight;
            step.wake_at = self.next_deadline();
            return step;
        }
        let mut by_broker: BTreeMap<i32, Vec<Batch>> = BTreeMap::new();
        let mut bytes: HashMap<i32, usize> = HashMap::new();
        for place in self.busy.clone() {
            let Some(wait) = self.close_if_due(&place, now) else { continue };
            step.wake_at = earlier(step.wake_at, wait);
            let Some(next_bytes) = self.next_bytes(&place, now, &mut step.wake_at) else { continue };
            let Some(broker) = leader(&place) else {
                step.stale.insert(place.topic.clone());
                if let Some(partition) = self.partitions.get_mut(&place).filter(|p| !p.failing) {
                    partition.fail(NO_LEADER.to_string());
                }
                continue;
            };
            let taken = bytes.entry(broker).or_default();
            let is_full = *taken > 0 && *taken + next_bytes > self.rules.request_bytes_max;
            if is_full || self.requests_in_flight.get(&broker).is_some_and(|n| *n >= self.rules.in_flight_max)
            {
                continue;
            }
            *taken += next_bytes;
            by_broker.entry(broker).or_default().extend(self.take_next(&place));
        }
        for (broker, batches) in by_broker {
            *self.requests_in_flight.entry(broker).or_default() += 1;
            step.requests.push((broker, batches));
        }
        step.wake_at = earlier(step.wake_at, self.next_deadline());
        step
    }

    /// Closes the partition's open batch when it has waited long enough; else says when it will have. The outer `None` is
    /// an unknown partition.
    fn close_if_due(&mut self, place: &Place, now: Instant) -> Option<Option<Instant>> {
        let partition = self.partitions.get_mut(place)?;
        let Some(open) = &partition.open else { return Some(None) };
        let due = open.created + self.rules.linger;
        if self.flushing || due <= now {
            partition.close();
            self.go_on_behind(place);
            return Some(None);
        }
        Some(Some(due))
    }

    /// Bytes of the batch that may be sent next, if one may.
    fn next_bytes(&self, place: &Place, now: Instant, wake_at: &mut Option<Instant>) -> Option<usize> {
        let partition = self.partitions.get(place)?;
        if let Some(first) = partition.again.front() {
            if partition.in_flight > 0 {
                return None;
            }
            if first.not_before > now {
                *wake_at = earlier(*wake_at, Some(first.not_before));
                return None;
            }
            return Some(first.payload_bytes());
        }
        let many = self.rules.idempotent && partition.introduced;
        let in_flight_max = if many { self.rules.in_flight_max } else { 1 };
        let first = partition.ready.front().filter(|_| partition.in_flight < in_flight_max)?;
        Some(first.payload_bytes())
    }

    fn take_next(&mut self, place: &Place) -> Option<Batch> {
        let partition = self.partitions.get_mut(place)?;
        let mut batch = partition.again.pop_front().or_else(|| partition.ready.pop_front())?;
        partition.in_flight += 1;
        if let (None, Some((producer_id, epoch)), true) =
            (batch.sequence, self.identity, self.rules.idempotent)
        {
            let first = partition.next_sequence;
            partition.next_sequence = plus(first, batch.count as i32);
            batch.sequence = Some(Sequence { producer_id, epoch, first });
        }
        Some(batch)
    }

    /// Takes in the answer to a request.
    pub(crate) fn answered(
        &mut self,
        broker: i32,
        tries: Vec<(Batch, Try)>,
        now: Instant,
        chance: u64,
    ) -> Vec<Settled> {
        if let Some(n) = self.requests_in_flight.get_mut(&broker) {
            *n = n.saturating_sub(1);
        }
        let settled: Vec<_> = tries
            .into_iter()
            .filter_map(|(batch, outcome)| self.judge(batch, outcome, now, chance))
            .collect();
        self.forget_idle();
        settled
    }

    fn judge(&mut self, batch: Batch, outcome: Try, now: Instant, chance: u64) -> Option<Settled> {
        if let Some(partition) = self.partitions.get_mut(&batch.place) {
            partition.in_flight = partition.in_flight.saturating_sub(1);
        }
        match outcome {
            Try::Appended(appended) => {
                self.introduce(&batch);
                Some(Settled { batch, result: Ok(appended) })
            }
            // It is in the log; where, the broker does not remember.
            Try::Refused { code: ErrorCode::DUPLICATE_SEQUENCE_NUMBER, .. } => {
                self.introduce(&batch);
                let appended = Appended { base_offset: -1, log_append_time_ms: -1 };
                Some(Settled { batch, result: Ok(appended) })
            }
            Try::Unsent { reason } => {
                self.stale.insert(batch.place.topic.clone());
                self.try_again(batch, false, reason, now, chance);
                None
            }
            Try::Lost { reason } => {
                self.stale.insert(batch.place.topic.clone());
                self.try_again(batch, true, reason, now, chance);
                None
            }
            Try::Unencodable { reason } => {
                self.renew |= batch.sequence.is_some();
                Some(Settled { batch, result: Err(DeliveryError::Encoding(reason)) })
            }
            Try::Refused { code, reason } => self.judge_refusal(batch, code, reason, now, chance),
        }
    }

    /// Records get through, and the broker knows the producer now, if this is its identity still.
    fn introduce(&mut self, batch: &Batch) {
        let identity = batch.sequence.map(|sequence| (sequence.producer_id, sequence.epoch));
        if let Some(partition) = self.partitions.get_mut(&batch.place) {
            partition.failing = false;
            partition.introduced |= identity == self.identity;
        }
    }

    fn judge_refusal(
        &mut self,
        batch: Batch,
        code: ErrorCode,
        reason: Option<String>,
        now: Instant,
        chance: u64,
    ) -> Option<Settled> {
        if breaks_sequence(code) {
            if self.has_earlier(&batch) && code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER {
                // An earlier batch is missing because it failed: both come again, in order.
                self.try_again(batch, false, code.name().to_string(), now, chance);
                return None;
            }
            self.renew = true;
            if batch.doubtful {
                return Some(Settled {
                    batch,
                    result: Err(DeliveryError::Unknown { reason: code.name().to_string() }),
                });
            }
            self.try_again(batch, false, code.name().to_string(), now, chance);
            return None;
        }
        if code.is_retriable() && code != ErrorCode::CORRUPT_MESSAGE {
            if needs_new_leader(code) {
                self.stale.insert(batch.place.topic.clone());
            }
            let doubtful =
                code == ErrorCode::REQUEST_TIMED_OUT || code == ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND;
            let words = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            self.try_again(batch, doubtful, format!("{}{words}", code.name()), now, chance);
            return None;
        }
        let batch = self.split(batch, code, now)?;
        // Its sequence is not in the log and never will be; what follows would be out of order.
        self.renew |= batch.sequence.is_some();
        Some(Settled { batch, result: Err(DeliveryError::Refused { code, reason }) })
    }

    /// A batch that is too large for the broker comes again in two pieces, and later ones are made smaller; gives back what
    /// cannot be split.
    fn split(&mut self, batch: Batch, code: ErrorCode, now: Instant) -> Option<Batch> {
        if !matches!(code, ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE) {
            return Some(batch);
        }
        let bytes = batch.payload_bytes();
        let mut pieces = batch.split(self.rules.codec);
        if pieces.len() < 2 {
            return pieces.pop();
        }
        for mut piece in pieces {
            piece.not_before = now;
            let Some(partition) = self.partitions.get_mut(&piece.place) else { continue };
            partition.last_failure = Some(code.name().to_string());
            let smaller = partition.batch_bytes_max.unwrap_or(self.rules.batch_bytes_max).min(bytes / 2);
            partition.batch_bytes_max = Some(smaller);
            partition.put_again(piece);
        }
        None
    }

    /// Whether an earlier batch of the partition is on its way or waits to be tried again.
    fn has_earlier(&self, batch: &Batch) -> bool {
        let Some(partition) = self.partitions.get(&batch.place) else { return false };
        let earlier = |other: &Batch| is_before(other.sequence, batch.sequence);
        partition.in_flight > 0 || partition.again.iter().any(earlier)
    }

    fn try_again(&mut self, mut batch: Batch, doubtful: bool, reason: String, now: Instant, chance: u64) {
        batch.failures += 1;
        batch.doubtful |= doubtful;
        batch.not_before = now + self.rules.backoff.after(batch.failures, chance);
        let Some(partition) = self.partitions.get_mut(&batch.place) else { return };
        partition.fail(reason);
        partition.put_again(batch);
    }

    /// Batches whose time is over and that are not on their way.
    fn expire(&mut self, now: Instant) -> Vec<Settled> {
        let timeout = self.rules.delivery_timeout;
        let mut settled = Vec::new();
        for place in &self.busy {
            let Some(partition) = self.partitions.get_mut(place) else { continue };
            let is_over = |batch: &Batch| batch.created + timeout <= now;
            if partition.open.as_ref().is_some_and(is_over) {
                partition.close();
            }
            let reason = partition.last_failure.as_ref().or(self.identity_failure.as_ref());
            let reason = reason.cloned().unwrap_or_else(|| NO_LEADER.to_string());
            for queue in [&mut partition.again, &mut partition.ready] {
                while let Some(batch) = queue.pop_front_if(|batch| is_over(batch)) {
                    // A sequence that was sent and is given up leaves a gap.
                    self.renew |= batch.sequence.is_some();
                    let reason = reason.clone();
                    let result = Err(match batch.doubtful {
                        true => DeliveryError::Unknown { reason },
                        false => DeliveryError::Expired { reason },
                    });
                    settled.push(Settled { batch, result });
                }
            }
        }
        self.forget_idle();
        settled
    }

    fn next_deadline(&self) -> Option<Instant> {
        let partitions = self.busy.iter().filter_map(|place| self.partitions.get(place));
        let oldest = partitions
            .flat_map(|p| p.again.front().into_iter().chain(p.ready.front()).chain(p.open.as_ref()));
        oldest.map(|batch| batch.created + self.rules.delivery_timeout).min()
    }

    fn forget_idle(&mut self) {
        let partitions = &mut self.partitions;
        self.busy.retain(|place| {
            let Some(partition) = partitions.get_mut(place) else { return false };
            partition.busy = !partition.is_idle();
            partition.busy
        });
        if self.busy.is_empty() {
            self.flushing = false;
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn is_before(a: Option<Sequence>, b: Option<Sequence>) -> bool {
    match (a, b) {
        // Half of all sequences are before another one.
        (Some(a), Some(b)) => {
            (1..1 << 30).contains(&(i64::from(b.first) - i64::from(a.first)).rem_euclid(1 << 31))
        }
        // A batch that was never sent is behind all that were.
        (Some(_), None) => true,
        _ => false,
    }
}

fn breaks_sequence(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::UNKNOWN_PRODUCER_ID
    )
}

fn needs_new_leader(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::FENCED_LEADER_EPOCH
    )
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
