//! A leader that stamps ahead of the applied state, followed by another one: both sides of the contract
//! between [`PartitionAhead`] and the machine.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::partition::{PartitionAhead, Verdict};

/// One event at the leader.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A producer sends its next batch, or repeats its last one.
    Send { producer: i64, records: i32, again: bool },
    /// The oldest command in flight is applied.
    Apply,
    /// The leader loses what is in flight, and the next one starts from the applied state.
    Fail { kept: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0i64..3, 1i32..4, prop::bool::weighted(0.2))
            .prop_map(|(producer, records, again)| Event::Send { producer, records, again }),
        4 => Just(Event::Apply),
        1 => (0usize..4).prop_map(|kept| Event::Fail { kept }),
    ]
}

/// A client that sends batches one after the other, and after a failure repeats all that are not
/// acknowledged.
#[derive(Clone, Debug, Default)]
struct Client {
    next_sequence: i32,
    /// Sent and not acknowledged: first sequence and number of records.
    unacked: VecDeque<(i32, i32)>,
}

struct Leader {
    epoch: i32,
    ahead: Option<PartitionAhead>,
    in_flight: VecDeque<Draft>,
}

impl Leader {
    /// Queues a batch unless it is a duplicate; a duplicate of an applied batch is acknowledged.
    fn submit(&mut self, machine: &ShardMachine, producer: i64, (first, records): (i32, i32)) -> bool {
        let applied = machine.partition(PartitionId(1)).expect("there");
        let made = draft(1, 0, records).by(producer, 0, first).in_epoch(self.epoch);
        let ahead = self.ahead.get_or_insert_with(|| PartitionAhead::new(applied));
        match ahead.check(applied, &made.header()) {
            Verdict::Append => {
                let base_offset = ahead.advance(applied, &made.header(), 1000);
                self.in_flight.push_back(Draft { base_offset, ..made });
                false
            }
            Verdict::Duplicate { base_offset, .. } => base_offset < applied.next_offset(),
            Verdict::Refuse(refusal) => panic!("{refusal} to a client that does nothing wrong"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_is_in_the_log_once_and_in_order_whatever_fails(events in proptest::collection::vec(event(), 1..80)) {
        let mut machine = shard();
        let mut clients = vec![Client::default(); 3];
        let mut leader = Leader { epoch: 1, ahead: None, in_flight: VecDeque::new() };
        let mut log: Vec<(i64, i32)> = Vec::new();
        for event in events {
            match event {
                Event::Send { producer, records, again } => {
                    let client = &mut clients[producer as usize];
                    let batch = match client.unacked.back() {
                        Some(last) if again => *last,
                        // No client has more than five batches in flight.
                        _ if client.unacked.len() == 5 => continue,
                        _ => {
                            let batch = (client.next_sequence, records);
                            client.next_sequence += records;
                            client.unacked.push_back(batch);
                            batch
                        }
                    };
                    if leader.submit(&machine, producer, batch) {
                        client.unacked.retain(|other| *other != batch);
                    }
                }
                Event::Apply => {
                    let Some(oldest) = leader.in_flight.pop_front() else { continue };
                    let outcome = append_one(&mut machine, oldest);
                    prop_assert_eq!(outcome, AppendOutcome::Appended { base_offset: oldest.base_offset });
                    let (id, _, first) = oldest.producer.expect("every client is idempotent");
                    log.extend((first..first + oldest.records).map(|sequence| (id, sequence)));
                    clients[id as usize].unacked.retain(|(other, _)| *other != first);
                    if leader.in_flight.is_empty() {
                        leader.ahead = None;
                    }
                }
                Event::Fail { kept } => {
                    // The next leader's log has some of what was in flight, and no client was notified.
                    for draft in leader.in_flight.drain(..).take(kept) {
                        let outcome = append_one(&mut machine, draft);
                        prop_assert_eq!(outcome, AppendOutcome::Appended { base_offset: draft.base_offset });
                        let (id, _, first) = draft.producer.expect("every client is idempotent");
                        log.extend((first..first + draft.records).map(|sequence| (id, sequence)));
                    }
                    leader = Leader { epoch: leader.epoch + 1, ahead: None, in_flight: VecDeque::new() };
                    for (id, client) in (0..).zip(&mut clients) {
                        client.unacked.retain(|batch| !leader.submit(&machine, id, *batch));
                    }
                }
            }
        }
        for id in 0..3 {
            let sequences: Vec<i32> = log.iter().filter(|(other, _)| *other == id).map(|(_, s)| *s).collect();
            prop_assert!(sequences.iter().copied().eq(0..sequences.len() as i32), "producer {}: {:?}", id, sequences);
        }
        prop_assert_eq!(next_offset(&machine, 1), log.len() as i64);
        prop_assert_eq!(machine.stats().offset_mismatches, 0);
    }
}
