//! The encoding of a shard's commands.
//!
//! Little endian. Each begins with a version u8 = 1 and a kind u8. Kinds 1 to 63 are of partitions, 64 to 127
//! of consumer groups (see [`crate::group`]); those are passed on undecoded.
//!
//! | kind | command | body |
//! | --- | --- | --- |
//! | 1 | append of earlier versions, read only | as 7; the largest timestamps in the batches' headers may be wrong |
//! | 2 | create partitions | count u32, count × (partition u64, start offset i64, epoch base i32) |
//! | 3 | drop partitions | count u32, count × partition u64 |
//! | 4 | set log start | count u32, count × (partition u64, offset i64) |
//! | 5 | expire producers | before i64 (ms) |
//! | 6 | extend | count u32, count × (partition u64, offset i64) |
//! | 7 | append | now i64 (ms), count u32, count × (partition u64, length u32), the batches end to end |

use std::ops::RangeInclusive;

use bytes::Bytes;
use millstream_model::{
    PartitionId,
    batch::{BatchError, BatchHeader},
};

use crate::wire::{DecodeError, Input, Output};

const VERSION: u8 = 1;
const KIND_APPEND_UNCHECKED: u8 = 1;
const KIND_CREATE: u8 = 2;
const KIND_DROP: u8 = 3;
const KIND_SET_LOG_START: u8 = 4;
const KIND_EXPIRE_PRODUCERS: u8 = 5;
const KIND_EXTEND: u8 = 6;
const KIND_APPEND: u8 = 7;
const KINDS_OF_GROUPS: RangeInclusive<u8> = 64..=127;

/// Version, kind, now, count.
const APPEND_HEAD_BYTES: usize = 14;
/// Partition, length.
const TABLE_ROW_BYTES: usize = 12;

/// A partition to create in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPartition {
    /// Its id.
    pub id: PartitionId,
    /// Offset of its first record in this shard.
    pub start_offset: i64,
    /// Added to the shard's term it gives the leader epoch that clients see.
    pub epoch_base: i32,
}

impl From<PartitionId> for NewPartition {
    /// A partition that was in no other shard before.
    fn from(id: PartitionId) -> NewPartition {
        NewPartition { id, start_offset: 0, epoch_base: 0 }
    }
}

/// A command of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardCommand {
    /// Appends batches.
    Append(AppendCommand),
    /// Creates partitions.
    CreatePartitions(Vec<NewPartition>),
    /// Drops partitions.
    DropPartitions(Vec<PartitionId>),
    /// Moves log starts up.
    SetLogStart(Vec<(PartitionId, i64)>),
    /// A command of the groups, undecoded.
    Group(Bytes),
    /// Removes producers that have not written since a time in milliseconds.
    ExpireProducers {
        /// That time.
        before_ms: i64,
    },
    /// Moves the ends of partitions up to where their records end: the entries of these records are lost.
    Extend(Vec<(PartitionId, i64)>),
}

/// Batches of several partitions, slices of the command's memory.
///
/// The table and the header of each batch were checked when the command was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendCommand {
    now_ms: i64,
    count: usize,
    headers_checked: bool,
    bytes: Bytes,
}

impl AppendCommand {
    /// Time of the proposal, in milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Whether the largest timestamp in each header was compared with the records before the command was proposed.
    pub fn headers_checked(&self) -> bool {
        self.headers_checked
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each batch with its partition and header, in order.
    pub(super) fn batches(&self) -> impl Iterator<Item = (PartitionId, BatchHeader, Bytes)> {
        let mut at = APPEND_HEAD_BYTES + self.count * TABLE_ROW_BYTES;
        (0..self.count).map(move |index| {
            let (partition, length) = self.row(index);
            let batch = self.bytes.slice(at..at + length);
            at += length;
            let header = BatchHeader::parse(&batch).expect("decode has read the header of every batch");
            (partition, header, batch)
        })
    }

    fn row(&self, index: usize) -> (PartitionId, usize) {
        let at = APPEND_HEAD_BYTES + index * TABLE_ROW_BYTES;
        let (mut partition, mut length) = ([0; 8], [0; 4]);
        partition.copy_from_slice(&self.bytes[at..at + 8]);
        length.copy_from_slice(&self.bytes[at + 8..at + 12]);
        (PartitionId(u64::from_le_bytes(partition)), u32::from_le_bytes(length) as usize)
    }
}

/// Decodes a command.
pub fn decode(command: Bytes) -> Result<ShardCommand, DecodeError> {
    let mut input = Input::new(&command);
    let version = input.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version { found: version, known: VERSION });
    }
    let kind = input.u8()?;
    let decoded = match kind {
        KIND_APPEND | KIND_APPEND_UNCHECKED => return decode_append(command, kind == KIND_APPEND),
        KIND_CREATE => ShardCommand::CreatePartitions(rows(&mut input, 20, |input| {
            let id = PartitionId(input.u64()?);
            Ok(NewPartition { id, start_offset: offset(input.i64()?)?, epoch_base: input.i32()? })
        })?),
        KIND_DROP => {
            ShardCommand::DropPartitions(rows(&mut input, 8, |input| Ok(PartitionId(input.u64()?)))?)
        }
        KIND_SET_LOG_START => ShardCommand::SetLogStart(offsets(&mut input)?),
        KIND_EXPIRE_PRODUCERS => ShardCommand::ExpireProducers { before_ms: input.i64()? },
        KIND_EXTEND => ShardCommand::Extend(offsets(&mut input)?),
        kind if KINDS_OF_GROUPS.contains(&kind) => return Ok(ShardCommand::Group(command)),
        other => return Err(DecodeError::Kind(other)),
    };
    input.end()?;
    Ok(decoded)
}

fn offsets(input: &mut Input<'_>) -> Result<Vec<(PartitionId, i64)>, DecodeError> {
    rows(input, 16, |input| Ok((PartitionId(input.u64()?), offset(input.i64()?)?)))
}

fn offset(value: i64) -> Result<i64, DecodeError> {
    if value < 0 { Err(DecodeError::Value { field: "an offset", value }) } else { Ok(value) }
}

fn rows<'a, T>(
    input: &mut Input<'a>,
    row_bytes: usize,
    row: impl Fn(&mut Input<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = input.count(row_bytes)?;
    (0..count).map(|_| row(input)).collect()
}

fn decode_append(command: Bytes, headers_checked: bool) -> Result<ShardCommand, DecodeError> {
    let mut input = Input::new(&command[2..]);
    let now_ms = input.i64()?;
    let count = input.count(TABLE_ROW_BYTES)?;
    let mut table = Input::new(input.take(count * TABLE_ROW_BYTES)?);
    for _ in 0..count {
        let (_, length) = (table.u64()?, table.u32()? as usize);
        let batch = input.take(length)?;
        let header = BatchHeader::parse(batch)?;
        if header.total_bytes() != length {
            return Err(BatchError::Truncated { have: length, need: header.total_bytes() }.into());
        }
        if header.last_offset_delta < 0 {
            let value = header.last_offset_delta.into();
            return Err(DecodeError::Value { field: "a batch's last offset delta", value });
        }
    }
    input.end()?;
    Ok(ShardCommand::Append(AppendCommand { now_ms, count, headers_checked, bytes: command }))
}

/// Length of an append command for batches of these lengths, including the batches.
pub fn append_command_len(table: &[(PartitionId, usize)]) -> usize {
    APPEND_HEAD_BYTES + table.iter().map(|(_, length)| TABLE_ROW_BYTES + length).sum::<usize>()
}

/// Writes the part of an append command that precedes the batches; returns its length. The batches follow end
/// to end, in the order of the table.
pub fn write_append_head(out: &mut [u8], now_ms: i64, table: &[(PartitionId, usize)]) -> usize {
    let (head, rest) = out.split_at_mut(APPEND_HEAD_BYTES);
    head[0] = VERSION;
    head[1] = KIND_APPEND;
    head[2..10].copy_from_slice(&now_ms.to_le_bytes());
    head[10..14].copy_from_slice(&(table.len() as u32).to_le_bytes());
    for (row, (partition, length)) in rest.chunks_exact_mut(TABLE_ROW_BYTES).zip(table) {
        row[..8].copy_from_slice(&partition.0.to_le_bytes());
        row[8..].copy_from_slice(&(*length as u32).to_le_bytes());
    }
    APPEND_HEAD_BYTES + table.len() * TABLE_ROW_BYTES
}

/// Encodes a command that creates partitions.
pub fn encode_create_partitions(partitions: &[NewPartition]) -> Bytes {
    let mut out = Output::command(VERSION, KIND_CREATE);
    out.count(partitions.len());
    for partition in partitions {
        out.u64(partition.id.0);
        out.i64(partition.start_offset);
        out.i32(partition.epoch_base);
    }
    out.into_command()
}

/// Encodes a command that drops partitions and their records.
pub fn encode_drop_partitions(partitions: &[PartitionId]) -> Bytes {
    let mut out = Output::command(VERSION, KIND_DROP);
    out.count(partitions.len());
    partitions.iter().for_each(|partition| out.u64(partition.0));
    out.into_command()
}

/// Encodes a command that moves log starts up; records below them are deleted.
pub fn encode_set_log_start(moves: &[(PartitionId, i64)]) -> Bytes {
    encode_offsets(KIND_SET_LOG_START, moves)
}

/// Encodes a command that moves the ends of partitions up to where their records end.
pub fn encode_extend(ends: &[(PartitionId, i64)]) -> Bytes {
    encode_offsets(KIND_EXTEND, ends)
}

fn encode_offsets(kind: u8, offsets: &[(PartitionId, i64)]) -> Bytes {
    let mut out = Output::command(VERSION, kind);
    out.count(offsets.len());
    for (partition, offset) in offsets {
        out.u64(partition.0);
        out.i64(*offset);
    }
    out.into_command()
}

/// Encodes a command that removes producers that have not written for `expiration_ms`.
pub fn encode_expire_producers(now_ms: i64, expiration_ms: i64) -> Bytes {
    let mut out = Output::command(VERSION, KIND_EXPIRE_PRODUCERS);
    out.i64(now_ms.saturating_sub(expiration_ms));
    out.into_command()
}
