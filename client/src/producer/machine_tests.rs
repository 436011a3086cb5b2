use super::*;
use crate::clock;

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
struct Rig {
    machine: Machine<u32>,
    now: Instant,
    next: u32,
    results: BTreeMap<u32, Result<i64, DeliveryError>>,
}

impl Rig {
    fn new(rules: Rules) -> Rig {
        let mut machine = Machine::new(rules);
        assert!(machine.identify(1, 0).is_empty());
        Rig { machine, now: clock::now(), next: 0, results: BTreeMap::new() }
    }

    /// Appends a record that fills a batch of its own.
    fn append(&mut self) -> u32 {
        let record = Record { value: Some(vec![b'x'; 198].into()), ..Record::default() };
        self.next += 1;
        let added = self.machine.append(&place(), &record, 0, self.next, self.now);
        assert!(added.closed || added.opened);
        self.next
    }

    fn step(&mut self) -> Vec<Batch<u32>> {
        let step = self.machine.step(self.now, |_| Some(LEADER));
        self.settle(step.settled);
        step.requests.into_iter().flat_map(|(_, batches)| batches).collect()
    }

    fn settle(&mut self, settled: Vec<Settled<u32>>) {
        for Settled { batch, result } in settled {
            for (at, receipt) in batch.receipts.into_iter().enumerate() {
                let offset = result.clone().map(|(base, _)| base + at as i64);
                assert!(self.results.insert(receipt.tell, offset).is_none(), "told twice");
            }
        }
    }

    fn answer(&mut self, batch: Batch<u32>, outcome: Try) {
        let settled = self.machine.answered(LEADER, vec![(batch, outcome)], self.now, 0);
        self.settle(settled);
    }

    fn one(&mut self) -> Batch<u32> {
        let mut batches = self.step();
        assert_eq!(batches.len(), 1);
        batches.remove(0)
    }
}

fn sequence(batch: &Batch<u32>) -> i32 {
    batch.sequence.expect("an idempotent batch").first
}

fn refused(code: ErrorCode) -> Try {
    Try::Refused { code, reason: None }
}

fn appended(base_offset: i64) -> Try {
    Try::Appended { base_offset, log_append_time_ms: -1 }
}

#[test]
fn nothing_is_sent_before_there_is_an_identity() {
    let mut machine = Machine::<u32>::new(rules());
    let now = clock::now();
    assert!(!machine.step(now, |_| Some(LEADER)).wants_identity, "nothing to send");
    let record = Record { value: Some(vec![0; 300].into()), ..Record::default() };
    machine.append(&place(), &record, 0, 1, now);
    let step = machine.step(now, |_| Some(LEADER));
    assert!(step.wants_identity && step.requests.is_empty());
    machine.identify(4, 2);
    let step = machine.step(now, |_| Some(LEADER));
    let sent = step.requests[0].1[0].sequence;
    assert_eq!(sent, Some(Sequence { producer_id: 4, epoch: 2, first: 0 }));
}

#[test]
fn a_small_batch_waits_for_more_records_and_no_longer() {
    let mut rig = Rig::new(rules());
    let record = Record { value: Some(vec![1].into()), ..Record::default() };
    let added = rig.machine.append(&place(), &record, 0, 1, rig.now);
    assert_eq!(added, Added { opened: true, closed: false });
    let step = rig.machine.step(rig.now, |_| Some(LEADER));
    assert!(step.requests.is_empty());
    assert_eq!(step.wake_at, Some(rig.now + rules().linger));
    assert_eq!(rig.machine.append(&place(), &record, 0, 2, rig.now), Added::default());
    rig.now += rules().linger;
    assert_eq!(rig.one().receipts.len(), 2);
}

#[test]
fn a_flush_sends_what_is_there() {
    let mut rig = Rig::new(rules());
    rig.machine.append(&place(), &Record::default(), 0, 1, rig.now);
    rig.machine.flush();
    let batch = rig.one();
    rig.answer(batch, appended(5));
    assert!(rig.machine.is_idle());
    assert_eq!(rig.results[&1], Ok(5));
}

#[test]
fn batches_that_failed_come_again_in_order_and_before_new_ones() {
    let mut rig = Rig::new(rules());
    for _ in 0..4 {
        rig.append();
    }
    let mut sent: Vec<_> = (0..3).map(|_| rig.one()).collect();
    assert_eq!(sent.iter().map(sequence).collect::<Vec<_>>(), [0, 1, 2]);
    // The last answer comes first: it is out of order because the first one failed.
    rig.answer(sent.pop().expect("2"), refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    rig.answer(sent.pop().expect("1"), refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    rig.answer(sent.pop().expect("0"), refused(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert!(rig.step().is_empty(), "not before the wait is over");
    rig.now += Duration::from_millis(20);
    for expected in 0..4 {
        let batch = rig.one();
        assert_eq!(sequence(&batch), expected);
        // The last of them may be followed by a new one.
        if expected < 2 {
            assert!(rig.step().is_empty(), "one after the other while there is something to try again");
        }
        rig.answer(batch, appended(i64::from(expected) * 10));
    }
    assert_eq!(rig.results.values().cloned().map(Result::unwrap).collect::<Vec<_>>(), [0, 10, 20, 30]);
}

#[test]
fn no_more_than_the_allowed_batches_are_on_their_way() {
    let mut rig = Rig::new(rules());
    for _ in 0..9 {
        rig.append();
    }
    let sent: Vec<_> = std::iter::from_fn(|| rig.step().pop()).collect();
    assert_eq!(sent.len(), rules().in_flight_max);
}

#[test]
fn a_batch_that_may_be_in_the_log_is_not_given_another_sequence() {
    let mut rig = Rig::new(rules());
    let (lost, refused_one) = (rig.append(), rig.append());
    let (first, second) = (rig.one(), rig.one());
    rig.answer(first, Try::Lost { reason: "gone".into() });
    rig.answer(second, refused(ErrorCode::MESSAGE_TOO_LARGE));
    assert!(matches!(rig.results[&refused_one], Err(DeliveryError::Refused { .. })));
    let behind = rig.append();
    let step = rig.machine.step(rig.now, |_| Some(LEADER));
    assert!(step.wants_identity, "the refused batch left a gap");
    let settled = rig.machine.identify(2, 0);
    rig.settle(settled);
    assert!(matches!(rig.results[&lost], Err(DeliveryError::Unknown { .. })));
    rig.now += Duration::from_millis(20);
    let batch = rig.one();
    assert_eq!(batch.sequence, Some(Sequence { producer_id: 2, epoch: 0, first: 0 }));
    rig.answer(batch, appended(3));
    assert_eq!(rig.results[&behind], Ok(3));
}

#[test]
fn a_duplicate_is_delivered() {
    let mut rig = Rig::new(rules());
    let record = rig.append();
    let batch = rig.one();
    rig.answer(batch, refused(ErrorCode::DUPLICATE_SEQUENCE_NUMBER));
    assert_eq!(rig.results[&record], Ok(-1));
}

#[test]
fn what_takes_too_long_fails_and_says_whether_it_may_be_in_the_log() {
    let mut rig = Rig::new(rules());
    let (sent, unsent) = (rig.append(), rig.append());
    let batch = rig.one();
    rig.answer(batch, Try::Lost { reason: "gone".into() });
    rig.now += rules().delivery_timeout;
    assert!(rig.step().is_empty());
    assert!(matches!(&rig.results[&sent], Err(DeliveryError::Unknown { reason }) if reason == "gone"));
    assert!(matches!(rig.results[&unsent], Err(DeliveryError::Expired { .. })));
    assert!(rig.machine.is_idle());
}

#[test]
fn a_topic_whose_leader_is_not_known_is_asked_for() {
    let mut rig = Rig::new(rules());
    rig.append();
    let step = rig.machine.step(rig.now, |_| None);
    assert!(step.requests.is_empty() && step.stale.contains("a"));
}

#[test]
fn without_idempotence_one_batch_at_a_time_keeps_the_order() {
    let mut rig = Rig::new(Rules { idempotent: false, ..rules() });
    let (first, second) = (rig.append(), rig.append());
    let batch = rig.one();
    assert_eq!(batch.sequence, None);
    assert!(rig.step().is_empty());
    rig.answer(batch, Try::Lost { reason: "gone".into() });
    rig.now += Duration::from_millis(20);
    let batch = rig.one();
    rig.answer(batch, appended(1));
    let batch = rig.one();
    rig.answer(batch, appended(2));
    assert_eq!((&rig.results[&first], &rig.results[&second]), (&Ok(1), &Ok(2)));
}

#[test]
fn sequences_wrap() {
    assert_eq!(plus(i32::MAX, 1), 0);
    let at = |first| Some(Sequence { producer_id: 1, epoch: 0, first });
    assert!(is_before(at(i32::MAX), at(0)) && !is_before(at(0), at(i32::MAX)) && !is_before(at(3), at(3)));
}

/// Whatever goes wrong in whatever order: every record gets one result, and what was appended keeps its order.
#[test]
fn chaos_forgets_nothing_and_keeps_order() {
    for seed in 0..200u64 {
        let mut rig = Rig::new(rules());
        let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |n: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % n
        };
        let (mut flying, mut log, mut offset) = (Vec::new(), Vec::<u32>::new(), 0);
        for _ in 0..200 {
            match draw(4) {
                0 if rig.next < 40 => {
                    rig.append();
                }
                1 if !flying.is_empty() => {
                    let at = draw(flying.len() as u64) as usize;
                    let batch: Batch<u32> = flying.remove(at);
                    let outcome = match draw(6) {
                        0 => Try::Lost { reason: "lost".into() },
                        1 => refused(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                        _ if rig.machine.has_earlier(&batch) && draw(2) == 0 => {
                            refused(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
                        }
                        _ => {
                            offset += 1;
                            log.extend(batch.receipts.iter().map(|receipt| receipt.tell));
                            appended(offset)
                        }
                    };
                    rig.answer(batch, outcome);
                }
                _ => {
                    rig.now += Duration::from_millis(draw(30));
                    flying.extend(rig.step());
                }
            }
        }
        rig.now += rules().delivery_timeout;
        for batch in flying {
            rig.answer(batch, Try::Lost { reason: "end".into() });
        }
        rig.step();
        assert!(rig.machine.is_idle(), "seed {seed}");
        assert_eq!(rig.results.len(), rig.next as usize, "seed {seed}");
    }
}
