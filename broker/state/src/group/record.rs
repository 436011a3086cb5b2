//! The replicated form of a group, and its encoding.

use std::sync::Arc;

use bytes::Bytes;

use crate::wire::{DecodeError, Input, Output};

/// A group's last complete generation.
///
/// Its members are those that got an assignment; a group without members is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// The protocol type: `consumer`, `connect`; `None` if only offsets were committed.
    pub protocol_type: Option<String>,
    /// The generation's number.
    pub generation: i32,
    /// The protocol that the members agreed on, that is, an assignor.
    pub protocol: Option<String>,
    /// Id of the leader, which assigns.
    pub leader: Option<Arc<str>>,
    /// Wall-clock time of the last change of state, in milliseconds.
    pub state_since_ms: i64,
    /// The members, sorted by id.
    pub members: Vec<MemberRecord>,
}

/// A member of a group's generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Member id, from the coordinator.
    pub id: Arc<str>,
    /// Instance id of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Client id.
    pub client_id: String,
    /// The client's address in Kafka's form.
    pub client_host: String,
    /// Rebalance timeout.
    pub rebalance_timeout_ms: i32,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Protocols that the member supports, the preferred one first, each with the member's metadata.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// The member's assignment.
    pub assignment: Bytes,
}

/// A committed offset of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset of the next record to read.
    pub offset: i64,
    /// Leader epoch of the last record read, or -1.
    pub leader_epoch: i32,
    /// The client's metadata string.
    pub metadata: String,
    /// Wall-clock time of the commit, in milliseconds.
    pub commit_ms: i64,
    /// Expiry time from the commit itself, which old clients send.
    pub expire_ms: Option<i64>,
}

/// Approximate memory of a group, a topic of it, a committed offset, a member and a protocol of a member,
/// beside their texts and blobs: with their share of half-full maps.
pub(super) const GROUP_BYTES: usize = 320;
pub(super) const TOPIC_BYTES: usize = 112;
const OFFSET_BYTES: usize = 128;
const MEMBER_BYTES: usize = 384;
const PROTOCOL_BYTES: usize = 48;

/// Smallest size of an encoded member: six lengths, two timeouts, one flag.
const MEMBER_BYTES_MIN: usize = 29;

impl GroupRecord {
    /// Its approximate memory.
    pub(super) fn bytes(&self) -> usize {
        self.members.iter().map(MemberRecord::bytes).sum()
    }

    pub(super) fn write(&self, out: &mut Output) {
        out.optional_text(self.protocol_type.as_deref());
        out.i32(self.generation);
        out.optional_text(self.protocol.as_deref());
        out.optional_text(self.leader.as_deref());
        out.i64(self.state_since_ms);
        out.count(self.members.len());
        self.members.iter().for_each(|member| member.write(out));
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<GroupRecord, DecodeError> {
        let protocol_type = input.optional_text()?;
        let generation = input.i32()?;
        let protocol = input.optional_text()?;
        let leader = input.optional_text()?.map(Arc::from);
        let state_since_ms = input.i64()?;
        let count = input.count(MEMBER_BYTES_MIN)?;
        let members = (0..count).map(|_| MemberRecord::read(input)).collect::<Result<_, _>>()?;
        Ok(GroupRecord { protocol_type, generation, protocol, leader, state_since_ms, members })
    }
}

/// Approximate memory of a member's protocols.
pub(super) fn protocol_bytes(protocols: &[(Arc<str>, Bytes)]) -> usize {
    protocols.iter().map(|(name, metadata)| PROTOCOL_BYTES + name.len() + metadata.len()).sum()
}

impl MemberRecord {
    /// Its approximate memory.
    pub(super) fn bytes(&self) -> usize {
        let names = 2 * self.id.len() + self.client_id.len() + self.client_host.len();
        let instance = self.instance_id.as_ref().map_or(0, |id| 2 * id.len());
        MEMBER_BYTES + names + instance + protocol_bytes(&self.protocols) + self.assignment.len()
    }

    fn write(&self, out: &mut Output) {
        out.text(&self.id);
        out.optional_text(self.instance_id.as_deref());
        out.text(&self.client_id);
        out.text(&self.client_host);
        out.i32(self.rebalance_timeout_ms);
        out.i32(self.session_timeout_ms);
        out.count(self.protocols.len());
        for (name, metadata) in &self.protocols {
            out.text(name);
            write_blob(out, metadata);
        }
        write_blob(out, &self.assignment);
    }

    fn read(input: &mut Input<'_>) -> Result<MemberRecord, DecodeError> {
        let id = input.text()?.into();
        let instance_id = input.optional_text()?.map(Arc::from);
        let (client_id, client_host) = (input.text()?, input.text()?);
        let (rebalance_timeout_ms, session_timeout_ms) = (input.i32()?, input.i32()?);
        let count = input.count(8)?;
        let protocols = (0..count).map(|_| read_protocol(input)).collect::<Result<_, _>>()?;
        let assignment = read_blob(input)?;
        Ok(MemberRecord {
            id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            protocols,
            assignment,
        })
    }
}

impl CommittedOffset {
    /// Its approximate memory.
    pub(super) fn bytes(&self) -> usize {
        OFFSET_BYTES + self.metadata.len()
    }

    pub(super) fn write(&self, out: &mut Output) {
        out.i64(self.offset);
        out.i32(self.leader_epoch);
        out.text(&self.metadata);
        out.i64(self.commit_ms);
        out.flag(self.expire_ms.is_some());
        if let Some(at) = self.expire_ms {
            out.i64(at);
        }
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<CommittedOffset, DecodeError> {
        let (offset, leader_epoch) = (input.i64()?, input.i32()?);
        let metadata = input.text()?;
        let commit_ms = input.i64()?;
        let expires = input.flag("the mark of an expiry time")?;
        let expire_ms = if expires { Some(input.i64()?) } else { None };
        Ok(CommittedOffset { offset, leader_epoch, metadata, commit_ms, expire_ms })
    }
}

fn write_blob(out: &mut Output, blob: &[u8]) {
    out.count(blob.len());
    out.raw(blob);
}

fn read_protocol(input: &mut Input<'_>) -> Result<(Arc<str>, Bytes), DecodeError> {
    Ok((input.text()?.into(), read_blob(input)?))
}

/// Copies, so that a group never keeps the log's memory alive.
fn read_blob(input: &mut Input<'_>) -> Result<Bytes, DecodeError> {
    let length = input.count(1)?;
    Ok(Bytes::copy_from_slice(input.take(length)?))
}
