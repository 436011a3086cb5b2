//! How the log looks on disk. Every number is little endian; `docs/formats.md` tells the same for readers in
//! other languages.

use crc_fast::{CrcAlgorithm, Digest, checksum};
use millstream_model::{GroupId, LogId};

use crate::disk::BLOCK_BYTES;

/// First bytes of a log file.
const FILE_MAGIC: [u8; 8] = *b"MILLWAL\x01";
/// First bytes of a segment.
const SEGMENT_MAGIC: u32 = 0x4753_4d4d;
/// Frames start so far behind the start of their segment.
pub(super) const SEGMENT_HEAD_BYTES: usize = 44;
/// A payload starts so far behind the start of its frame.
pub(super) const FRAME_HEAD_BYTES: usize = 40;
/// The log of a file starts behind its header block.
pub(super) const FILE_HEAD_BYTES: usize = BLOCK_BYTES;

pub(super) fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn crc_of_two(a: &[u8], b: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(a);
    digest.update(b);
    digest.finalize() as u32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A place in the log: the file's sequence number and the offset in it. Later places are larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// The place `offset` bytes into the file `seq`.
    pub fn new(seq: u64, offset: usize) -> Position {
        debug_assert!(offset <= u32::MAX as usize && seq <= u64::from(u32::MAX), "{seq}:{offset}");
        Position(seq << 32 | offset as u64)
    }
    /// Sequence number of the file.
    pub fn seq(self) -> u64 {
        self.0 >> 32
    }
    /// Bytes from the start of the file.
    pub fn offset(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// Writes a file's header block.
pub(super) fn write_file_head(block: &mut [u8], seq: u64, file_bytes: u64) {
    block[..8].copy_from_slice(&FILE_MAGIC);
    block[8..16].copy_from_slice(&seq.to_le_bytes());
    block[16..24].copy_from_slice(&file_bytes.to_le_bytes());
    let crc = crc(&block[..24]);
    block[24..28].copy_from_slice(&crc.to_le_bytes());
}

/// Sequence number and length that a file's header block names; `None` if it is not one.
pub(super) fn read_file_head(block: &[u8]) -> Option<(u64, u64)> {
    let head = block.get(..28)?;
    (head[..8] == FILE_MAGIC && u32_at(head, 24) == crc(&head[..24]))
        .then(|| (u64_at(head, 8), u64_at(head, 16)))
}

/// The head of a segment: what one flush wrote in one piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// Bytes of frames that follow the head.
    pub(super) frames_bytes: usize,
    /// Where the segment lies: a copy of another life of the file does not fit.
    pub(super) at: Position,
    /// Where the log of the file before ended.
    pub(super) previous_end: usize,
    /// Everything before this place was durable when the segment was written.
    pub(super) durable: Position,
}

impl SegmentHead {
    pub(super) fn write(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&(self.frames_bytes as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.at.0.to_le_bytes());
        out[16..24].copy_from_slice(&(self.previous_end as u64).to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.0.to_le_bytes());
        out[32..40].fill(0);
        let crc = crc(&out[..40]);
        out[40..44].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a head that must lie at `at`.
    pub(super) fn read(bytes: &[u8], at: Position) -> Option<SegmentHead> {
        let bytes = bytes.get(..SEGMENT_HEAD_BYTES)?;
        let fits = u32_at(bytes, 0) == SEGMENT_MAGIC && u32_at(bytes, 40) == crc(&bytes[..40]);
        let head = SegmentHead {
            frames_bytes: u32_at(bytes, 4) as usize,
            at: Position(u64_at(bytes, 8)),
            previous_end: u64_at(bytes, 16) as usize,
            durable: Position(u64_at(bytes, 24)),
        };
        (fits && head.at == at).then_some(head)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// An entry of a group's log.
    Entry = 1,
    /// A group's vote.
    Vote = 2,
    /// Entries behind the frame's log id are gone; index 0 and term 0 with `none` payload means all.
    Truncate = 3,
    /// Entries up to the frame's log id are not needed any more.
    Purge = 4,
    /// A group's vote, purge mark and committed mark, repeated at the start of each file.
    GroupState = 5,
    /// Nothing: written to put the durable mark on disk.
    Seal = 6,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [Entry, Vote, Truncate, Purge, GroupState, Seal].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: FrameKind,
    pub(super) entry_kind: u8,
    pub(super) group: GroupId,
    /// Index up to which the group's log was known to be committed.
    pub(super) committed: u64,
    pub(super) id: LogId,
}

impl FrameHead {
    /// Writes the head in front of the payload, which is in place already.
    pub(super) fn write(&self, frame: &mut [u8]) {
        let payload_bytes = frame.len() - FRAME_HEAD_BYTES;
        frame[..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        frame[8] = self.kind as u8;
        frame[9] = self.entry_kind;
        frame[10..12].copy_from_slice(&1u16.to_le_bytes());
        frame[12..16].copy_from_slice(&self.group.0.to_le_bytes());
        frame[16..24].copy_from_slice(&self.committed.to_le_bytes());
        frame[24..32].copy_from_slice(&self.id.term.to_le_bytes());
        frame[32..40].copy_from_slice(&self.id.index.to_le_bytes());
        // The length is under the CRC too.
        let crc = crc_of_two(&frame[..4], &frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the frame that starts `bytes`; gives the head and the payload's length. `None` if its CRC, kind
    /// or version is wrong.
    pub(super) fn read(bytes: &[u8]) -> Option<(FrameHead, usize)> {
        if bytes.len() < FRAME_HEAD_BYTES {
            return None;
        }
        let payload_bytes = u32_at(bytes, 0) as usize;
        let frame = bytes.get(..FRAME_HEAD_BYTES.checked_add(payload_bytes)?)?;
        let version = u16::from_le_bytes([frame[10], frame[11]]);
        if u32_at(frame, 4) != crc_of_two(&frame[..4], &frame[8..]) || version != 1 {
            return None;
        }
        let head = FrameHead {
            kind: FrameKind::from_byte(frame[8])?,
            entry_kind: frame[9],
            group: GroupId(u32_at(frame, 12)),
            committed: u64_at(frame, 16),
            id: LogId::new(u64_at(frame, 24), u64_at(frame, 32)),
        };
        Some((head, payload_bytes))
    }
}
