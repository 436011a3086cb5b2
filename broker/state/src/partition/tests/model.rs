//! The machine against a model that keeps every batch and computes everything by brute force.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::partition::{
    ProduceRefusal, encode_drop_partitions, encode_expire_producers, encode_set_log_start,
};

/// What one epoch of a producer wrote: first and last sequence, offset.
#[derive(Clone, Debug, Default)]
struct Written {
    epoch: i16,
    batches: Vec<(i32, i32, i64)>,
    last_ms: i64,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    start: i64,
    end: i64,
    producers: BTreeMap<i64, Written>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    partitions: BTreeMap<u64, Partition>,
}

impl Model {
    fn append(&mut self, draft: &Draft, now_ms: i64) -> AppendOutcome {
        let Some(partition) = self.partitions.get_mut(&draft.partition) else {
            return AppendOutcome::UnknownPartition;
        };
        let judged = draft.producer.map(|producer| partition.judge(producer, draft.records));
        if let Some(Err(duplicate @ AppendOutcome::Duplicate { .. })) = judged {
            return duplicate;
        }
        if draft.base_offset != partition.end {
            return AppendOutcome::OffsetMismatch { expected: partition.end, found: draft.base_offset };
        }
        if let Some(Err(refused)) = judged {
            return refused;
        }
        if let Some((id, epoch, first)) = draft.producer {
            let written = partition
                .producers
                .entry(id)
                .or_insert_with(|| Written { last_ms: now_ms, ..Written::default() });
            if written.batches.is_empty() || written.epoch != epoch {
                (written.epoch, written.batches) = (epoch, Vec::new());
            }
            written.batches.push((first, first + draft.records - 1, partition.end));
            written.last_ms = written.last_ms.max(now_ms);
        }
        partition.end += i64::from(draft.records);
        AppendOutcome::Appended { base_offset: draft.base_offset }
    }
}

impl Partition {
    fn judge(&self, (id, epoch, first): (i64, i16, i32), records: i32) -> Result<(), AppendOutcome> {
        let refuse = |refusal| Err(AppendOutcome::Refused(refusal));
        let last = first + records - 1;
        let Some(written) = self.producers.get(&id) else { return Ok(()) };
        if epoch < written.epoch {
            return refuse(ProduceRefusal::InvalidProducerEpoch { current: written.epoch, found: epoch });
        }
        if epoch > written.epoch {
            return match first {
                0 => Ok(()),
                found => refuse(ProduceRefusal::OutOfOrderSequence { expected: 0, found }),
            };
        }
        let batches = &written.batches;
        let recent = &batches[batches.len().saturating_sub(5)..];
        if let Some((_, _, base_offset)) = recent.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
            return Err(AppendOutcome::Duplicate { base_offset: *base_offset, max_timestamp: 1000 });
        }
        let expected = batches.last().map_or(0, |(_, l, _)| l + 1);
        let in_log = |sequence: i32| batches.iter().any(|(f, l, _)| (*f..=*l).contains(&sequence));
        if first == expected {
            Ok(())
        } else if in_log(0) && (first..=last).all(in_log) {
            refuse(ProduceRefusal::DuplicateSequence { last: expected - 1, found: first })
        } else {
            refuse(ProduceRefusal::OutOfOrderSequence { expected, found: first })
        }
    }
}

/// A random command, relative to the current state.
#[derive(Clone, Debug)]
enum ShardStep {
    Create(u64),
    Drop(u64),
    Append(Vec<BatchShape>),
    LogStart(u64, i64),
    Expire(i64),
    /// One of the two machines is replaced by its restored snapshot.
    Restart,
}

/// A random batch: its sequence and offset relative to the expected ones.
#[derive(Clone, Debug)]
struct BatchShape {
    partition: u64,
    records: i32,
    producer: Option<(i64, i16)>,
    sequence_off: i32,
    offset_off: i64,
    /// Instead of a new batch, repeats one that was sent before: 0 is the last one.
    again: Option<usize>,
}

fn shape() -> impl Strategy<Value = BatchShape> {
    let epoch = prop_oneof![20 => Just(0i16), 1 => Just(1), 1 => Just(2)];
    let producer = prop::option::weighted(0.9, (0i64..2, epoch));
    let sequence_off = prop_oneof![8 => Just(0), 1 => -8i32..0, 1 => 1i32..4];
    let offset_off = prop_oneof![15 => Just(0), 1 => -3i64..4];
    let again = prop::option::weighted(0.2, 0usize..8);
    (0u64..3, 1i32..4, producer, sequence_off, offset_off, again).prop_map(
        |(partition, records, producer, sequence_off, offset_off, again)| BatchShape {
            partition,
            records,
            producer,
            sequence_off,
            offset_off,
            again,
        },
    )
}

fn step() -> impl Strategy<Value = ShardStep> {
    prop_oneof![
        3 => (0u64..3).prop_map(ShardStep::Create),
        1 => (0u64..3).prop_map(ShardStep::Drop),
        40 => proptest::collection::vec(shape(), 1..5).prop_map(ShardStep::Append),
        2 => (0u64..3, 0i64..20).prop_map(|(id, to)| ShardStep::LogStart(id, to)),
        1 => (0i64..60).prop_map(ShardStep::Expire),
        3 => Just(ShardStep::Restart),
    ]
}

/// Makes the shapes of one command concrete, each as if the preceding ones were appended.
fn concrete(model: &Model, shapes: &[BatchShape], now_ms: i64) -> Vec<Draft> {
    let mut model = model.clone();
    let mut drafts = Vec::new();
    for shape in shapes {
        let partition = model.partitions.get(&shape.partition).cloned().unwrap_or_default();
        let offset = (partition.end + shape.offset_off).max(0);
        let mut made = draft(shape.partition, offset, shape.records);
        if let Some((id, epoch)) = shape.producer {
            let sent =
                partition.producers.get(&id).filter(|w| w.epoch == epoch).map_or(&[][..], |w| &w.batches);
            let next = sent.last().map_or(0, |(_, last, _)| last + 1);
            let before = shape.again.and_then(|back| sent.iter().rev().nth(back));
            made = match before {
                Some((first, last, _)) => Draft { records: last - first + 1, ..made }.by(id, epoch, *first),
                None => made.by(id, epoch, (next + shape.sequence_off).max(0)),
            };
        }
        model.append(&made, now_ms);
        drafts.push(made);
    }
    drafts
}

fn command(model: &mut Model, step: &ShardStep, now_ms: i64) -> Option<(Bytes, Option<Vec<AppendOutcome>>)> {
    let id = PartitionId;
    Some(match step {
        ShardStep::Restart => return None,
        ShardStep::Create(partition) => {
            model.partitions.entry(*partition).or_default();
            (encode_create_partitions(&[id(*partition).into()]), None)
        }
        ShardStep::Drop(partition) => {
            model.partitions.remove(partition);
            (encode_drop_partitions(&[id(*partition)]), None)
        }
        ShardStep::LogStart(partition, to) => {
            if let Some(state) = model.partitions.get_mut(partition) {
                state.start = state.start.max((*to).min(state.end));
            }
            (encode_set_log_start(&[(id(*partition), *to)]), None)
        }
        ShardStep::Expire(idle_ms) => {
            for state in model.partitions.values_mut() {
                state.producers.retain(|_, written| written.last_ms > now_ms - idle_ms);
            }
            (encode_expire_producers(now_ms, *idle_ms), None)
        }
        ShardStep::Append(shapes) => {
            let drafts = concrete(model, shapes, now_ms);
            let outcomes = drafts.iter().map(|draft| model.append(draft, now_ms)).collect();
            (append_command(now_ms, &drafts), Some(outcomes))
        }
    })
}

fn inserted(effects: &[Effect]) -> Vec<(u64, i64)> {
    let insert = |effect: &Effect| match effect {
        Effect::Insert { partition, base_offset, .. } => Some((partition.0, *base_offset)),
        _ => None,
    };
    effects.iter().filter_map(insert).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn machine_and_model_agree_and_a_restart_changes_nothing(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut model, mut machine, mut restarted) = (Model::default(), ShardMachine::new(), ShardMachine::new());
        for (now_ms, step) in (0..).zip(&steps) {
            let Some((command, expected)) = command(&mut model, step, now_ms) else {
                restarted = ShardMachine::restore(&restarted.snapshot().into_bytes()[..]).expect("our own snapshot");
                continue;
            };
            let (reply, effects) = apply(&mut machine, command.clone());
            prop_assert_eq!(apply(&mut restarted, command), (reply.clone(), effects.clone()));
            if let Some(expected) = expected {
                let appended = expected.iter().filter(|o| matches!(o, AppendOutcome::Appended { .. })).count();
                prop_assert_eq!(inserted(&effects).len(), appended);
                prop_assert_eq!(reply, ShardReply::Append(expected));
            }
            prop_assert_eq!(machine.snapshot().into_bytes(), restarted.snapshot().into_bytes());
        }
        let bounds = |(id, p): (PartitionId, &crate::partition::PartitionState)| (id.0, p.log_start(), p.next_offset());
        let model: Vec<_> = model.partitions.iter().map(|(id, p)| (*id, p.start, p.end)).collect();
        prop_assert_eq!(machine.partitions().map(bounds).collect::<Vec<_>>(), model);
    }
}
