//! The encoding of the group commands.

use std::sync::Arc;

use bytes::Bytes;

use super::record::{CommittedOffset, GroupRecord};
use crate::wire::{DecodeError, Input, Output};

/// The only kind of group command: a list of operations.
pub const GROUP_COMMAND_KIND: u8 = 64;
const VERSION: u8 = 1;

/// One change of a shard's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupOp {
    /// Sets a group's generation.
    Put {
        /// Group name.
        group: Arc<str>,
        /// Its state.
        record: GroupRecord,
    },
    /// Deletes a group with its offsets.
    Remove {
        /// Group name.
        group: Arc<str>,
    },
    /// Commits offsets.
    Commit {
        /// Group name.
        group: Arc<str>,
        /// One per partition.
        offsets: Vec<OffsetEntry>,
    },
    /// Deletes committed offsets.
    DeleteOffsets {
        /// Group name.
        group: Arc<str>,
        /// Topics and partitions.
        partitions: Vec<(Arc<str>, i32)>,
    },
    /// Deletes all groups' offsets of a topic, because the topic was deleted.
    DropTopic {
        /// Topic name.
        topic: Arc<str>,
    },
    /// Deletes a group's expired offsets, and the group itself if it is empty and has no offsets left.
    Expire {
        /// Group name.
        group: Arc<str>,
        /// Wall-clock time of the leader, in milliseconds.
        now_ms: i64,
        /// Retention time of offsets, in milliseconds.
        retention_ms: i64,
    },
}

/// A partition's new committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Topic name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub committed: CommittedOffset,
}

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const COMMIT: u8 = 3;
const DELETE_OFFSETS: u8 = 4;
const DROP_TOPIC: u8 = 5;
const EXPIRE: u8 = 6;

/// Encodes a command that applies `ops` in order.
pub fn encode<'a>(ops: impl ExactSizeIterator<Item = &'a GroupOp>) -> Bytes {
    let mut out = Output::command(VERSION, GROUP_COMMAND_KIND);
    out.count(ops.len());
    ops.for_each(|op| op.write(&mut out));
    out.into_command()
}

/// Decodes a command from [`encode`].
pub fn decode(command: &[u8]) -> Result<Vec<GroupOp>, DecodeError> {
    let mut input = Input::new(command);
    let version = input.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version { found: version, known: VERSION });
    }
    match input.u8()? {
        GROUP_COMMAND_KIND => {}
        other => return Err(DecodeError::Kind(other)),
    }
    let count = input.count(5)?;
    let ops = (0..count).map(|_| GroupOp::read(&mut input)).collect::<Result<_, _>>()?;
    input.end()?;
    Ok(ops)
}

impl GroupOp {
    /// The group that it changes; `None` if it may change any.
    pub(super) fn group(&self) -> Option<&Arc<str>> {
        match self {
            GroupOp::Put { group, .. }
            | GroupOp::Remove { group }
            | GroupOp::Commit { group, .. }
            | GroupOp::DeleteOffsets { group, .. }
            | GroupOp::Expire { group, .. } => Some(group),
            GroupOp::DropTopic { .. } => None,
        }
    }

    /// Approximate size of the operation in a log entry.
    pub fn size_hint(&self) -> usize {
        match self {
            GroupOp::Put { group, record } => {
                let member = |m: &super::MemberRecord| {
                    let protocols: usize =
                        m.protocols.iter().map(|(name, data)| name.len() + data.len() + 8).sum();
                    protocols + m.assignment.len() + m.id.len() + m.client_id.len() + m.client_host.len() + 64
                };
                group.len() + 64 + record.members.iter().map(member).sum::<usize>()
            }
            GroupOp::Commit { group, offsets } => {
                group.len()
                    + offsets.iter().map(|o| o.topic.len() + o.committed.metadata.len() + 48).sum::<usize>()
            }
            GroupOp::DeleteOffsets { group, partitions } => {
                group.len() + partitions.iter().map(|(topic, _)| topic.len() + 8).sum::<usize>()
            }
            GroupOp::Remove { group: name } | GroupOp::DropTopic { topic: name } => name.len() + 8,
            GroupOp::Expire { group, .. } => group.len() + 24,
        }
    }

    fn write(&self, out: &mut Output) {
        match self {
            GroupOp::Put { group, record } => {
                head(out, PUT, group);
                record.write(out);
            }
            GroupOp::Remove { group } => head(out, REMOVE, group),
            GroupOp::Commit { group, offsets } => {
                head(out, COMMIT, group);
                out.count(offsets.len());
                for entry in offsets {
                    out.text(&entry.topic);
                    out.i32(entry.partition);
                    entry.committed.write(out);
                }
            }
            GroupOp::DeleteOffsets { group, partitions } => {
                head(out, DELETE_OFFSETS, group);
                out.count(partitions.len());
                for (topic, partition) in partitions {
                    out.text(topic);
                    out.i32(*partition);
                }
            }
            GroupOp::DropTopic { topic } => head(out, DROP_TOPIC, topic),
            GroupOp::Expire { group, now_ms, retention_ms } => {
                head(out, EXPIRE, group);
                out.i64(*now_ms);
                out.i64(*retention_ms);
            }
        }
    }

    fn read(input: &mut Input<'_>) -> Result<GroupOp, DecodeError> {
        let op = input.u8()?;
        let name: Arc<str> = input.text()?.into();
        Ok(match op {
            PUT => GroupOp::Put { group: name, record: GroupRecord::read(input)? },
            REMOVE => GroupOp::Remove { group: name },
            COMMIT => GroupOp::Commit { group: name, offsets: read_offsets(input)? },
            DELETE_OFFSETS => {
                let count = input.count(8)?;
                let partitions = (0..count).map(|_| read_partition(input)).collect::<Result<_, _>>()?;
                GroupOp::DeleteOffsets { group: name, partitions }
            }
            DROP_TOPIC => GroupOp::DropTopic { topic: name },
            EXPIRE => GroupOp::Expire { group: name, now_ms: input.i64()?, retention_ms: input.i64()? },
            other => return Err(DecodeError::Value { field: "a group operation", value: other.into() }),
        })
    }
}

fn head(out: &mut Output, op: u8, name: &str) {
    out.u8(op);
    out.text(name);
}

fn read_partition(input: &mut Input<'_>) -> Result<(Arc<str>, i32), DecodeError> {
    Ok((input.text()?.into(), input.i32()?))
}

fn read_offsets(input: &mut Input<'_>) -> Result<Vec<OffsetEntry>, DecodeError> {
    let count = input.count(33)?;
    let mut last: Option<Arc<str>> = None;
    let entry = |_| {
        let text = input.text()?;
        // Partitions of the same topic are adjacent and share its name.
        let topic = last.take().filter(|topic| **topic == *text).unwrap_or_else(|| text.into());
        last = Some(topic.clone());
        Ok(OffsetEntry { topic, partition: input.i32()?, committed: CommittedOffset::read(input)? })
    };
    (0..count).map(entry).collect()
}
