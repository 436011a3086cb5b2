//! The encoding of a shard's state.
//!
//! Little endian: version u8 = 1; count u32 of partitions, sorted by id, each: id u64, log start i64, next offset
//! i64, epoch base i32, count u16 of epochs (epoch i32, offset i64), count u32 of producers, sorted by id (id i64,
//! epoch i16, whole u8, last write i64, count u8 of marks, each base and last sequence i32, base offset i64, max
//! timestamp i64); and the rest is the groups' snapshot.

use std::io::{self, Read, Write};

use millstream_model::PartitionId;

use super::{
    PartitionState, ShardMachine, ShardRestoreError,
    epochs::{EPOCHS_MAX, Epochs},
    producers::{BATCHES_KEPT, Mark, PRODUCERS_MAX, Producer, Producers},
};
use crate::{
    group::{GroupMachine, GroupSnapshot},
    wire::{DecodeError, Input, Items, Output},
};

const VERSION: u8 = 1;
const PRODUCER_BYTES_MIN: usize = 44;

/// The captured state of a shard.
///
/// The partitions, which change with every record, are already encoded; the groups, of which there is far
/// more, are shared with the machine, which copies a group on write.
#[derive(Debug)]
pub struct ShardSnapshot {
    partitions: Vec<u8>,
    groups: GroupSnapshot,
}

impl ShardSnapshot {
    pub(super) fn capture(machine: &ShardMachine) -> ShardSnapshot {
        let producers: usize = machine.partitions.values().map(|state| state.producers.iter().len()).sum();
        let mut out = Output::with_capacity(64 + machine.partitions.len() * 48 + producers * 144);
        out.u8(VERSION);
        out.count(machine.partitions.len());
        for (id, state) in &machine.partitions {
            out.u64(id.0);
            write_partition(&mut out, state);
        }
        ShardSnapshot { partitions: out.into_bytes(), groups: machine.groups.snapshot() }
    }

    /// Writes the snapshot in pieces.
    pub fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.partitions)?;
        drop(self.partitions);
        self.groups.write_to(out)
    }

    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("memory takes all");
        bytes
    }
}

fn write_partition(out: &mut Output, state: &PartitionState) {
    out.i64(state.log_start);
    out.i64(state.next_offset);
    out.i32(state.epoch_base);
    out.u16(state.epochs.iter().len() as u16);
    for start in state.epochs.iter() {
        out.i32(start.epoch);
        out.i64(start.offset);
    }
    out.count(state.producers.iter().len());
    for (id, producer) in state.producers.iter() {
        out.i64(id);
        out.i16(producer.epoch);
        out.flag(producer.whole);
        out.i64(producer.last_write_ms);
        out.u8(producer.count);
        for mark in producer.marks() {
            out.i32(mark.base_sequence);
            out.i32(mark.last_sequence);
            out.i64(mark.base_offset);
            out.i64(mark.max_timestamp);
        }
    }
}

pub(super) fn read(source: impl Read) -> Result<ShardMachine, ShardRestoreError> {
    let mut items = Items::new(source);
    let version = items.item(|input| input.u8())?;
    if version != VERSION {
        return Err(DecodeError::Version { found: version, known: VERSION }.into());
    }
    let mut machine = ShardMachine::new();
    for _ in 0..items.count()? {
        let (id, state) = items.item(|input| Ok((PartitionId(input.u64()?), read_partition(input)?)))?;
        machine.partitions.insert(id, state);
    }
    machine.groups = GroupMachine::restore_items(items)?;
    Ok(machine)
}

fn read_partition(input: &mut Input<'_>) -> Result<PartitionState, DecodeError> {
    let (log_start, next_offset, epoch_base) = (input.i64()?, input.i64()?, input.i32()?);
    if log_start < 0 || log_start > next_offset {
        return Err(DecodeError::Value { field: "a log start", value: log_start });
    }
    let mut state = PartitionState { log_start, next_offset, epoch_base, ..PartitionState::new(0, 0) };
    state.epochs = read_epochs(input)?;
    state.producers = read_producers(input)?;
    Ok(state)
}

fn read_epochs(input: &mut Input<'_>) -> Result<Epochs, DecodeError> {
    let mut epochs = Epochs::default();
    let count = input.u16()?;
    if usize::from(count) > EPOCHS_MAX {
        return Err(DecodeError::Value { field: "the number of epochs", value: count.into() });
    }
    for _ in 0..count {
        let (epoch, offset) = (input.i32()?, input.i64()?);
        epochs.record(epoch, offset);
    }
    Ok(epochs)
}

fn read_producers(input: &mut Input<'_>) -> Result<Producers, DecodeError> {
    let mut producers = Producers::default();
    let count = input.count(PRODUCER_BYTES_MIN)?;
    if count > PRODUCERS_MAX {
        return Err(DecodeError::Value { field: "the number of producers", value: count as i64 });
    }
    for _ in 0..count {
        let id = input.i64()?;
        producers.insert(id, read_producer(input)?);
    }
    Ok(producers)
}

fn read_producer(input: &mut Input<'_>) -> Result<Producer, DecodeError> {
    let (epoch, whole, last_write_ms) =
        (input.i16()?, input.flag("a producer's mark of wholeness")?, input.i64()?);
    let count = input.u8()?;
    if !(1..=BATCHES_KEPT).contains(&usize::from(count)) {
        return Err(DecodeError::Value { field: "the number of a producer's batches", value: count.into() });
    }
    let mut marks = [Mark::default(); BATCHES_KEPT];
    for mark in &mut marks[..usize::from(count)] {
        let (base_sequence, last_sequence) = (input.i32()?, input.i32()?);
        *mark = Mark { base_sequence, last_sequence, base_offset: input.i64()?, max_timestamp: input.i64()? };
    }
    Ok(Producer { epoch, whole, count, last_write_ms, marks })
}
