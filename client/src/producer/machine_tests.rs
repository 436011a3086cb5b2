use super::*;
use crate::{clock, producer::result::Promise};

const LEADER: i32 = 7;

fn rules() -> Rules {
    Rules {
        codec: Codec::None,
        batch_bytes_max: 200,
        request_bytes_max: 10_000,
        linger: Duration::from_millis(5),
        delivery_timeout: Duration::from_secs(2),
        in_flight_max: 5,
        idempotent: true,
        backoff: Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(10) },
    }
}

fn place() -> Place {
    Place { topic: "a".into(), partition: 0 }
}

/// A machine whose records are numbers, with an identity, and the time.
struct MachineHarness {
    machine: Machine,
    now: Instant,
    next: u32,
    deliveries: BTreeMap<u32, Delivery>,
}

impl MachineHarness {
    fn new(rules: Rules) -> MachineHarness {
        let mut machine = Machine::new(rules);
        assert!(machine.identify(1, 0).is_empty());
        MachineHarness { machine, now: clock::now(), next: 0, deliveries: BTreeMap::new() }
    }

    /// A machine whose partition the broker has appended a batch of, with the sequence 0.
    fn introduced(rules: Rules) -> MachineHarness {
        let mut harness = MachineHarness::new(rules);
        harness.append();
        let first = harness.one();
        assert!(harness.step().is_empty());
        harness.answer(first, appended(0));
        harness
    }

    /// Appends a record that fills a batch of its own.
    fn append(&mut self) -> u32 {
        let (n, added) = self.append_of(198);
        assert!(added.closed || added.opened);
        n
    }

    /// Appends a record of this many bytes, which begins with its number.
    fn append_of(&mut self, bytes: usize) -> (u32, Added) {
        self.next += 1;
        let mut value = vec![b'x'; bytes.max(4)];
        value[..4].copy_from_slice(&self.next.to_be_bytes());
        let record = Record { value: Some(value.into()), ..Record::default() };
        let mut added = self.machine.append(&place(), &record, 0, self.now);
        let delivery = std::mem::replace(&mut added.delivery, Promise::new(place()).delivery(0, 0));
        self.deliveries.insert(self.next, delivery);
        (self.next, added)
    }

    fn step(&mut self) -> Vec<Batch> {
        let step = self.machine.step(self.now, |_| Some(LEADER));
        settle(step.settled);
        step.requests.into_iter().flat_map(|(_, batches)| batches).collect()
    }

    fn answer(&mut self, batch: Batch, outcome: Try) {
        settle(self.machine.answered(LEADER, vec![(batch, outcome)], self.now, 0));
    }

    fn one(&mut self) -> Batch {
        let mut batches = self.step();
        assert_eq!(batches.len(), 1);
        batches.remove(0)
    }

    /// A record's offset, if its result is there.
    fn result(&self, n: u32) -> Option<Result<i64, DeliveryError>> {
        self.deliveries[&n].now().map(|result| result.map(|delivered| delivered.offset))
    }
}

fn settle(settled: Vec<Settled>) {
    settled.into_iter().for_each(|Settled { batch, result }| batch.promise.keep(result));
}

/// The numbers of a batch's records.
fn numbers(batch: &mut Batch) -> Vec<u32> {
    let bytes = batch.encode().expect("encoded");
    let records = millstream_batch::decode_records(&bytes, 1 << 20).expect("records");
    let number = |value: &[u8]| u32::from_be_bytes(value[..4].try_into().expect("four bytes"));
    records.iter().map(|record| number(record.expect("whole").value.expect("a value"))).collect()
}

fn sequence(batch: &Batch) -> i32 {
    batch.sequence.expect("an idempotent batch").first
}

fn refused(code: ErrorCode) -> Try {
    Try::Refused { code, reason: None }
}

fn appended(base_offset: i64) -> Try {
    Try::Appended(Appended { base_offset, log_append_time_ms: -1 })
}

#[test]
fn nothing_is_sent_before_there_is_an_identity() {
    let mut machine = Machine::new(rules());
    let now = clock::now();
    assert!(!machine.step(now, |_| Some(LEADER)).wants_identity, "nothing to send");
    let record = Record { value: Some(vec![0; 300].into()), ..Record::default() };
    machine.append(&place(), &record, 0, now);
    let step = machine.step(now, |_| Some(LEADER));
    assert!(step.wants_identity && step.requests.is_empty());
    machine.identify(4, 2);
    let step = machine.step(now, |_| Some(LEADER));
    let sent = step.requests[0].1[0].sequence;
    assert_eq!(sent, Some(Sequence { producer_id: 4, epoch: 2, first: 0 }));
}

#[test]
fn what_was_not_sent_comes_again_and_its_time_ends_without_doubt() {
    let mut harness = MachineHarness::new(rules());
    let n = harness.append();
    let batch = harness.one();
    harness.answer(batch, Try::Unsent { reason: "connection refused".into() });
    assert_eq!(harness.machine.trouble().as_deref(), Some("connection refused"));
    harness.now += rules().delivery_timeout;
    assert!(harness.step().is_empty());
    let expired = DeliveryError::Expired { reason: "connection refused".into() };
    assert_eq!(harness.result(n), Some(Err(expired)));
}

/// Where a keyless record goes, of a topic with three partitions.
fn keyless(harness: &mut MachineHarness, bytes: usize) -> usize {
    let partition = harness.machine.keyless("a", 3, || 0);
    let record = Record { value: Some(vec![b'x'; bytes].into()), ..Record::default() };
    let place = Place { topic: "a".into(), partition: partition as i32 };
    harness.machine.append(&place, &record, 0, harness.now);
    partition
}

#[test]
fn records_without_a_key_go_on_when_a_batch_is_closed_for_whatever_reason() {
    let mut harness = MachineHarness::new(rules());
    assert_eq!([keyless(&mut harness, 4), keyless(&mut harness, 4)], [0, 0], "one batch");
    harness.now += rules().linger;
    harness.step();
    assert_eq!([keyless(&mut harness, 4), keyless(&mut harness, 198)], [1, 1], "it has waited long enough");
    assert_eq!([keyless(&mut harness, 4), keyless(&mut harness, 4)], [2, 2], "it is full");
    harness.machine.flush();
    harness.step();
    assert_eq!(keyless(&mut harness, 4), 0, "it is flushed");
}

#[test]
fn partitions_get_equal_shares_of_slow_and_of_fast_records() {
    for records_in_linger in [1, 5, 2_000] {
        let (mut harness, mut shares) = (MachineHarness::new(rules()), [0usize; 3]);
        for n in 0..30_000 {
            if n % records_in_linger == 0 {
                harness.now += rules().linger;
                harness.step();
            }
            shares[keyless(&mut harness, 4)] += 1;
        }
        let most_apart = shares.iter().max().expect("three") - shares.iter().min().expect("three");
        assert!(most_apart <= 300, "{records_in_linger} at a time: {shares:?}");
    }
}

#[test]
fn a_small_batch_waits_for_more_records_and_no_longer() {
    let mut harness = MachineHarness::new(rules());
    let (_, added) = harness.append_of(4);
    assert!(added.opened && !added.closed);
    let step = harness.machine.step(harness.now, |_| Some(LEADER));
    assert!(step.requests.is_empty());
    assert_eq!(step.wake_at, Some(harness.now + rules().linger));
    let (_, added) = harness.append_of(4);
    assert!(!added.opened && !added.closed);
    harness.now += rules().linger;
    assert_eq!(harness.one().count, 2);
}

#[test]
fn a_flush_sends_what_is_there() {
    let mut harness = MachineHarness::new(rules());
    let (record, _) = harness.append_of(4);
    harness.machine.flush();
    let batch = harness.one();
    harness.answer(batch, appended(5));
    assert!(harness.machine.is_idle());
    assert_eq!(harness.result(record), Some(Ok(5)));
}

#[test]
fn batches_that_failed_come_again_in_order_and_before_new_ones() {
    let mut harness = MachineHarness::introduced(rules());
    for _ in 0..4 {
        harness.append();
    }
    let mut sent: Vec<_> = (0..3).map(|_| harness.one()).collect();
    assert_eq!(sent.iter().map(sequence).collect::<Vec<_>>(), [1, 2, 3]);
    // The last answer comes first: it is out of order because the first one failed.
    harness.answer(sent.pop().expect("3"), refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    harness.answer(sent.pop().expect("2"), refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    harness.answer(sent.pop().expect("1"), refused(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert!(harness.step().is_empty(), "not before the wait is over");
    harness.now += Duration::from_millis(20);
    for expected in 1..5 {
        let batch = harness.one();
        assert_eq!(sequence(&batch), expected);
        // The last of them may be followed by a new one.
        if expected < 3 {
            assert!(harness.step().is_empty(), "one after the other while there is something to try again");
        }
        harness.answer(batch, appended(i64::from(expected) * 10));
    }
    let offsets: Vec<_> = (2..=5).map(|n| harness.result(n)).collect();
    assert_eq!(offsets, [10, 20, 30, 40].map(|offset| Some(Ok(offset))));
}

#[test]
fn no_more_than_the_allowed_batches_are_on_their_way() {
    let mut harness = MachineHarness::introduced(rules());
    for _ in 0..9 {
        harness.append();
    }
    let sent: Vec<_> = std::iter::from_fn(|| harness.step().pop()).collect();
    assert_eq!(sent.len(), rules().in_flight_max);
}

#[test]
fn a_batch_that_may_be_in_the_log_is_not_given_another_sequence() {
    let mut harness = MachineHarness::introduced(rules());
    let (lost, refused_one) = (harness.append(), harness.append());
    let (first, second) = (harness.one(), harness.one());
    harness.answer(first, Try::Lost { reason: "gone".into() });
    harness.answer(second, refused(ErrorCode::MESSAGE_TOO_LARGE));
    assert!(matches!(harness.result(refused_one), Some(Err(DeliveryError::Refused { .. }))));
    let behind = harness.append();
    let step = harness.machine.step(harness.now, |_| Some(LEADER));
    assert!(step.wants_identity, "the refused batch left a gap");
    let settled = harness.machine.identify(2, 0);
    settle(settled);
    assert!(matches!(harness.result(lost), Some(Err(DeliveryError::Unknown { .. }))));
    harness.now += Duration::from_millis(20);
    let batch = harness.one();
    assert_eq!(batch.sequence, Some(Sequence { producer_id: 2, epoch: 0, first: 0 }));
    harness.answer(batch, appended(3));
    assert_eq!(harness.result(behind), Some(Ok(3)));
}

#[test]
fn a_duplicate_is_delivered() {
    let mut harness = MachineHarness::new(rules());
    let record = harness.append();
    let batch = harness.one();
    harness.answer(batch, refused(ErrorCode::DUPLICATE_SEQUENCE_NUMBER));
    assert_eq!(harness.result(record), Some(Ok(-1)));
}

#[test]
fn what_takes_too_long_fails_and_says_whether_it_may_be_in_the_log() {
    let mut harness = MachineHarness::new(rules());
    let (sent, unsent) = (harness.append(), harness.append());
    let batch = harness.one();
    harness.answer(batch, Try::Lost { reason: "gone".into() });
    harness.now += rules().delivery_timeout;
    assert!(harness.step().is_empty());
    assert!(matches!(harness.result(sent), Some(Err(DeliveryError::Unknown { reason })) if reason == "gone"));
    assert!(matches!(harness.result(unsent), Some(Err(DeliveryError::Expired { .. }))));
    assert!(harness.machine.is_idle());
}

#[test]
fn a_topic_whose_leader_is_not_known_is_asked_for() {
    let mut harness = MachineHarness::new(rules());
    harness.append();
    let step = harness.machine.step(harness.now, |_| None);
    assert!(step.requests.is_empty() && step.stale.contains("a"));
}

#[test]
fn without_idempotence_one_batch_at_a_time_keeps_the_order() {
    let mut harness = MachineHarness::new(Rules { idempotent: false, ..rules() });
    let (first, second) = (harness.append(), harness.append());
    let batch = harness.one();
    assert_eq!(batch.sequence, None);
    assert!(harness.step().is_empty());
    harness.answer(batch, Try::Lost { reason: "gone".into() });
    harness.now += Duration::from_millis(20);
    let batch = harness.one();
    harness.answer(batch, appended(1));
    let batch = harness.one();
    harness.answer(batch, appended(2));
    assert_eq!((harness.result(first), harness.result(second)), (Some(Ok(1)), Some(Ok(2))));
}

#[test]
fn sequences_wrap() {
    assert_eq!(plus(i32::MAX, 1), 0);
    let at = |first| Some(Sequence { producer_id: 1, epoch: 0, first });
    assert!(is_before(at(i32::MAX), at(0)) && !is_before(at(0), at(i32::MAX)) && !is_before(at(3), at(3)));
}

#[test]
fn a_batch_that_is_too_large_comes_again_in_pieces_and_later_ones_are_smaller() {
    let mut harness = MachineHarness::introduced(rules());
    for _ in 0..4 {
        harness.append_of(25);
    }
    harness.now += rules().linger;
    let mut large = harness.one();
    assert_eq!(numbers(&mut large), [2, 3, 4, 5]);
    let bytes = large.payload_bytes();
    let behind = harness.append();
    let sent_behind = harness.one();
    harness.answer(large, refused(ErrorCode::MESSAGE_TOO_LARGE));
    harness.answer(sent_behind, refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    harness.now += Duration::from_millis(20);
    for (expected, sequence_expected) in [(vec![2, 3], 1), (vec![4, 5], 3), (vec![behind], 5)] {
        let mut piece = harness.one();
        assert_eq!((numbers(&mut piece), sequence(&piece)), (expected, sequence_expected));
        harness.answer(piece, appended(i64::from(sequence_expected)));
    }
    assert_eq!(
        (2..=6).map(|n| harness.result(n).expect("a result").expect("there")).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    for _ in 0..4 {
        harness.append_of(25);
    }
    harness.now += rules().linger;
    assert!(harness.one().payload_bytes() <= bytes / 2);
}

/// A broker that appends batches in the order of their sequences and no other, from whichever it sees first, as Kafka does.
#[derive(Default)]
struct Log {
    next: BTreeMap<i64, i32>,
    numbers: Vec<u32>,
}

impl Log {
    fn take(&mut self, batch: &mut Batch) -> Try {
        let sequence = batch.sequence.expect("an idempotent batch");
        let next = self.next.entry(sequence.producer_id).or_insert(sequence.first);
        if sequence.first < *next {
            return refused(ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
        }
        if sequence.first > *next {
            return refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        *next += batch.count as i32;
        self.numbers.extend(numbers(batch));
        appended(self.numbers.len() as i64)
    }
}

/// Whatever goes wrong in whatever order: every record gets one result, what is reported as stored is stored, nothing is
/// there twice, and the order is kept.
#[test]
fn chaos_forgets_nothing_and_keeps_order() {
    for seed in 0..300u64 {
        let (mut harness, mut log, mut identities) = (MachineHarness::new(rules()), Log::default(), 1);
        let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |n: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % n
        };
        let mut flying: Vec<(Batch, Try)> = Vec::new();
        for _ in 0..300 {
            match draw(4) {
                0 if harness.next < 60 => drop(harness.append_of(20 + draw(180) as usize)),
                1 if !flying.is_empty() => {
                    let (batch, outcome) = flying.remove(draw(flying.len() as u64) as usize);
                    harness.answer(batch, outcome);
                }
                _ => {
                    harness.now += Duration::from_millis(draw(30));
                    let step = harness.machine.step(harness.now, |_| Some(LEADER));
                    settle(step.settled);
                    if step.wants_identity {
                        identities += 1;
                        settle(harness.machine.identify(identities, 0));
                    }
                    // The broker sees batches in the order in which they are sent; answers come in any order.
                    for mut batch in step.requests.into_iter().flat_map(|(_, batches)| batches) {
                        let outcome = match draw(8) {
                            0 => Try::Lost { reason: "on the way there".into() },
                            1 => {
                                log.take(&mut batch);
                                Try::Lost { reason: "on the way back".into() }
                            }
                            2 => refused(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                            3 if batch.count > 1 => {
                                numbers(&mut batch);
                                refused(ErrorCode::MESSAGE_TOO_LARGE)
                            }
                            _ => log.take(&mut batch),
                        };
                        flying.push((batch, outcome));
                    }
                }
            }
        }
        harness.now += rules().delivery_timeout;
        for (batch, outcome) in flying {
            harness.answer(batch, outcome);
        }
        harness.step();
        assert!(harness.machine.is_idle(), "seed {seed}");
        assert!(log.numbers.is_sorted_by(|a, b| a < b), "seed {seed}: {:?}", log.numbers);
        for n in 1..=harness.next {
            match harness.result(n).unwrap_or_else(|| panic!("seed {seed}: {n} has no result")) {
                Ok(_) => assert!(log.numbers.contains(&n), "seed {seed}: {n} is not there"),
                Err(DeliveryError::Unknown { .. }) => {}
                Err(error) => assert!(!log.numbers.contains(&n), "seed {seed}: {n} is there: {error}"),
            }
        }
    }
}

#[test]
fn what_keeps_records_from_getting_through_is_known_until_one_does() {
    let mut harness = MachineHarness::new(rules());
    assert_eq!(harness.machine.trouble(), None);
    let n = harness.append();
    let batch = harness.one();
    let full = Some("the disk is full".to_string());
    harness.answer(batch, Try::Refused { code: ErrorCode::KAFKA_STORAGE_ERROR, reason: full });
    let said = "KAFKA_STORAGE_ERROR: the disk is full";
    assert_eq!(harness.machine.trouble().as_deref(), Some(said));
    harness.now += Duration::from_millis(20);
    let batch = harness.one();
    assert_eq!(harness.machine.trouble().as_deref(), Some(said), "it is on its way, and not yet through");
    harness.answer(batch, appended(0));
    assert_eq!((harness.result(n), harness.machine.trouble()), (Some(Ok(0)), None));

    let n = harness.append();
    assert!(harness.machine.step(harness.now, |_| None).requests.is_empty());
    assert_eq!(harness.machine.trouble().as_deref(), Some(NO_LEADER));
    harness.now += rules().delivery_timeout;
    assert!(harness.step().is_empty());
    assert!(matches!(harness.result(n), Some(Err(DeliveryError::Expired { .. }))));
    assert_eq!(harness.machine.trouble().as_deref(), Some(NO_LEADER), "giving up is not getting through");

    let mut machine = Machine::new(rules());
    machine.identity_failed("no answer".to_string());
    assert_eq!(machine.trouble().as_deref(), Some("no answer"));
    assert!(machine.identify(1, 0).is_empty() && machine.trouble().is_none());
}
