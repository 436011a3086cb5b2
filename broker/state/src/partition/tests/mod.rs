//! The shard machine, driven by encoded commands.

mod appends;
mod encoding;
mod failovers;
mod model;
mod producers;

use bytes::Bytes;
use millstream_model::{
    LogId, PartitionId,
    batch::{BatchBuilder, BatchHeader, Codec, NewRecord, stamp},
};

use super::{
    AppendOutcome, Effect, ShardMachine, ShardReply, append_command_len, decode, encode_create_partitions,
    write_append_head,
};

/// A batch to be appended.
#[derive(Clone, Copy, Debug)]
struct Draft {
    partition: u64,
    records: i32,
    base_offset: i64,
    leader_epoch: i32,
    timestamp_ms: i64,
    /// Id, epoch, first sequence.
    producer: Option<(i64, i16, i32)>,
}

fn draft(partition: u64, base_offset: i64, records: i32) -> Draft {
    Draft { partition, records, base_offset, leader_epoch: 1, timestamp_ms: 1000, producer: None }
}

impl Draft {
    fn by(self, id: i64, epoch: i16, sequence: i32) -> Draft {
        Draft { producer: Some((id, epoch, sequence)), ..self }
    }

    fn in_epoch(self, leader_epoch: i32) -> Draft {
        Draft { leader_epoch, ..self }
    }

    fn bytes(&self) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        if let Some((id, epoch, sequence)) = self.producer {
            builder = builder.producer(id, epoch, sequence);
        }
        for _ in 0..self.records {
            builder.push(NewRecord {
                timestamp_ms: self.timestamp_ms,
                value: Some(b"v"),
                ..NewRecord::default()
            });
        }
        let mut bytes = builder.build().expect("an uncompressed batch").to_vec();
        stamp(&mut bytes, self.base_offset, self.leader_epoch);
        bytes.into()
    }

    fn header(&self) -> BatchHeader {
        BatchHeader::parse(&self.bytes()).expect("a whole batch")
    }
}

/// The command that appends these batches.
fn append_command(now_ms: i64, drafts: &[Draft]) -> Bytes {
    let batches: Vec<Bytes> = drafts.iter().map(Draft::bytes).collect();
    let table: Vec<_> =
        drafts.iter().zip(&batches).map(|(d, b)| (PartitionId(d.partition), b.len())).collect();
    let mut out = vec![0xEE; append_command_len(&table)];
    let mut at = write_append_head(&mut out, now_ms, &table);
    for batch in &batches {
        out[at..at + batch.len()].copy_from_slice(batch);
        at += batch.len();
    }
    assert_eq!(at, out.len(), "the length that was asked for is the one that is used");
    out.into()
}

fn apply(machine: &mut ShardMachine, command: Bytes) -> (ShardReply, Vec<Effect>) {
    let mut effects = Vec::new();
    let command = decode(command).expect("a command of ours");
    let reply = machine.apply(LogId::new(1, 1), command, &mut effects);
    machine.validate();
    (reply, effects)
}

fn create(machine: &mut ShardMachine, ids: &[u64]) -> Vec<Effect> {
    let new: Vec<_> = ids.iter().map(|id| PartitionId(*id).into()).collect();
    apply(machine, encode_create_partitions(&new)).1
}

/// Appends at time 0 and returns the outcome of each batch.
fn append(machine: &mut ShardMachine, drafts: &[Draft]) -> Vec<AppendOutcome> {
    match apply(machine, append_command(0, drafts)).0 {
        ShardReply::Append(outcomes) => outcomes,
        other => panic!("{other:?} is no answer to an append"),
    }
}

/// Appends one batch.
fn append_one(machine: &mut ShardMachine, draft: Draft) -> AppendOutcome {
    append(machine, &[draft])[0]
}

/// A shard with partition 1.
fn shard() -> ShardMachine {
    let mut machine = ShardMachine::new();
    create(&mut machine, &[1]);
    machine
}

fn next_offset(machine: &ShardMachine, partition: u64) -> i64 {
    machine.partition(PartitionId(partition)).expect("the partition is there").next_offset()
}
