//! The log's on-disk format. All numbers are little endian; `docs/formats.md` describes it for readers in
//! other languages.

use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, Digest, checksum};
use millstream_model::{LogId, RaftGroupId};

use crate::disk::BLOCK_BYTES;

/// First bytes of a log file; the version follows.
const FILE_MAGIC: [u8; 7] = *b"MILLWAL";
/// Version of the file format.
const FILE_VERSION: u8 = 1;
/// Version of the frame format.
const FRAME_VERSION: u16 = 1;
/// Length of a file's header.
const FILE_HEADER_BYTES: usize = 44;
/// First bytes of a segment.
const SEGMENT_MAGIC: u32 = 0x4753_4d4d;
/// Offset of the first frame in its segment.
pub(super) const SEGMENT_HEAD_BYTES: usize = 44;
/// Offset of the payload in its frame.
pub(super) const FRAME_HEAD_BYTES: usize = 40;
/// The log of a file starts after its header block.
pub(super) const FILE_HEAD_BYTES: usize = BLOCK_BYTES;

/// Longest file of a log, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// Largest payload of a log with files of this length: a file has room for it beside the state of all groups.
pub const fn payload_bytes_max(file_bytes: u64) -> usize {
    (file_bytes / 4 * 3) as usize - FILE_HEAD_BYTES
}

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

/// Name of the log's directory in the store's directory.
pub(super) const DIR: &str = "wal";

/// Path of a file in the log's directory.
pub(super) fn in_dir(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Name of a log file.
pub(super) fn file_name(seq: u64) -> String {
    format!("wal-{seq:016x}.log")
}

/// Name of a spare file.
pub(super) fn spare_name(seq: u64) -> String {
    format!("spare-{seq:016x}.log")
}

/// Sequence number of a log file of this name; `None` for any other file.
pub(super) fn file_seq(name: &str) -> Option<u64> {
    seq_between(name, "wal-")
}

/// Sequence number in the name of a spare file; `None` for any other file.
pub(super) fn spare_seq(name: &str) -> Option<u64> {
    seq_between(name, "spare-")
}

fn seq_between(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".log")?;
    // Only the exact form: `from_str_radix` would accept a sign and any number of digits.
    let plain =
        digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// A place in the log: the file's sequence number and the offset in it. Later places are larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// Largest sequence number. At 1 GiB/s and 64 MiB per file it is reached after eight years without a
    /// pause; the log then refuses further writes.
    pub const SEQ_MAX: u64 = u32::MAX as u64;

    /// The place `offset` bytes into the file `seq`.
    pub fn new(seq: u64, offset: usize) -> Position {
        assert!(offset <= u32::MAX as usize && seq <= Self::SEQ_MAX, "{seq}:{offset} is no place in a log");
        Position(seq << 32 | offset as u64)
    }
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }
    pub(super) fn from_bits(bits: u64) -> Position {
        Position(bits)
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

/// The fields of a file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) seq: u64,
    pub(super) file_bytes: u64,
    /// A number that is unique among all uses of the log's files: frames left from an earlier use are not
    /// taken for the log.
    pub(super) life: u64,
    /// Where the log of this file ends, once the file is complete; 0 before that.
    pub(super) closed_at: u64,
}

/// The result of reading a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileHeadRead {
    Good(FileHead),
    /// Written by another version of the software.
    Unknown(u8),
    Bad,
}

impl FileHead {
    pub(super) fn write(&self, block: &mut [u8]) {
        block[..7].copy_from_slice(&FILE_MAGIC);
        block[7] = FILE_VERSION;
        block[8..16].copy_from_slice(&self.seq.to_le_bytes());
        block[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        block[24..32].copy_from_slice(&self.life.to_le_bytes());
        block[32..40].copy_from_slice(&self.closed_at.to_le_bytes());
        let crc = crc(&block[..40]);
        block[40..FILE_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    pub(super) fn read(block: &[u8]) -> FileHeadRead {
        let Some(head) = block.get(..FILE_HEADER_BYTES) else { return FileHeadRead::Bad };
        if head[..7] != FILE_MAGIC || u32_at(head, 40) != crc(&head[..40]) {
            return FileHeadRead::Bad;
        }
        if head[7] != FILE_VERSION {
            return FileHeadRead::Unknown(head[7]);
        }
        FileHeadRead::Good(FileHead {
            seq: u64_at(head, 8),
            file_bytes: u64_at(head, 16),
            life: u64_at(head, 24),
            closed_at: u64_at(head, 32),
        })
    }
}

/// A segment's head. A segment is what one flush wrote from one piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// Bytes of frames that follow the head.
    pub(super) frames_bytes: usize,
    /// Where the segment lies.
    pub(super) at: Position,
    /// The file's life: a segment that an earlier life left does not match.
    pub(super) life: u64,
    /// Where the log of the previous file ended.
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
        out[32..40].copy_from_slice(&self.life.to_le_bytes());
        let crc = crc(&out[..40]);
        out[40..44].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a head that must lie at `at`, of any life.
    pub(super) fn read(bytes: &[u8], at: Position) -> Option<SegmentHead> {
        let bytes = bytes.get(..SEGMENT_HEAD_BYTES)?;
        let fits = u32_at(bytes, 0) == SEGMENT_MAGIC && u32_at(bytes, 40) == crc(&bytes[..40]);
        let head = SegmentHead {
            frames_bytes: u32_at(bytes, 4) as usize,
            at: Position(u64_at(bytes, 8)),
            previous_end: u64_at(bytes, 16) as usize,
            durable: Position(u64_at(bytes, 24)),
            life: u64_at(bytes, 32),
        };
        (fits && head.at == at).then_some(head)
    }

    /// Bytes of the segment without its padding.
    pub(super) fn bytes(&self) -> usize {
        SEGMENT_HEAD_BYTES + self.frames_bytes
    }
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// An entry of a group's log.
    Entry = 1,
    /// A group's vote.
    Vote = 2,
    /// Truncation: entries after the frame's log id are gone; all of them if the second byte of the kind is
    /// 0.
    Truncate = 3,
    /// Purge: entries up to the frame's log id are no longer needed.
    Purge = 4,
    /// A group's vote, purge mark and committed mark, repeated at the start of each file.
    GroupState = 5,
    /// No content: written to put the durable mark on disk.
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
    pub(super) group: RaftGroupId,
    /// Index up to which the group's log was known to be committed.
    pub(super) committed: u64,
    pub(super) id: LogId,
}

impl FrameHead {
    /// Writes the head in front of the payload, which is already in place.
    pub(super) fn write(&self, frame: &mut [u8]) {
        let payload_bytes = frame.len() - FRAME_HEAD_BYTES;
        frame[..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        frame[8] = self.kind as u8;
        frame[9] = self.entry_kind;
        frame[10..12].copy_from_slice(&FRAME_VERSION.to_le_bytes());
        frame[12..16].copy_from_slice(&self.group.0.to_le_bytes());
        frame[16..24].copy_from_slice(&self.committed.to_le_bytes());
        frame[24..32].copy_from_slice(&self.id.term.to_le_bytes());
        frame[32..40].copy_from_slice(&self.id.index.to_le_bytes());
        // The CRC covers the length too.
        let crc = crc_of_two(&frame[..4], &frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the frame at the start of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> FrameRead {
        let Some(frame) = frame_of(bytes) else { return FrameRead::Bad };
        if u32_at(frame, 4) != frame_crc(frame) {
            return FrameRead::Bad;
        }
        let version = u16::from_le_bytes([frame[10], frame[11]]);
        match FrameKind::from_byte(frame[8]) {
            Some(kind) if version == FRAME_VERSION => {
                let head = Self::fields(kind, frame);
                // No log gets that far, and rejecting it here spares callers the overflow check.
                if head.id.index == u64::MAX { FrameRead::Bad } else { FrameRead::Good(head) }
            }
            _ => FrameRead::Unknown(version),
        }
    }

    /// The decoded fields, without checking the CRC.
    pub(super) fn read_unchecked(frame: &[u8]) -> Option<FrameHead> {
        let frame = frame.get(..FRAME_HEAD_BYTES)?;
        Some(Self::fields(FrameKind::from_byte(frame[8])?, frame))
    }

    fn fields(kind: FrameKind, frame: &[u8]) -> FrameHead {
        FrameHead {
            kind,
            entry_kind: frame[9],
            group: RaftGroupId(u32_at(frame, 12)),
            committed: u64_at(frame, 16),
            id: LogId::new(u64_at(frame, 24), u64_at(frame, 32)),
        }
    }
}

/// The result of reading a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameRead {
    Good(FrameHead),
    /// Its CRC matches, and another version of the software wrote it.
    Unknown(u16),
    Bad,
}

/// Length of the frame at the start of `bytes`, from its own length field.
pub(super) fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let payload = bytes.get(..FRAME_HEAD_BYTES).map(|head| u32_at(head, 0) as usize)?;
    FRAME_HEAD_BYTES.checked_add(payload)
}

fn frame_of(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..frame_bytes(bytes)?)
}

fn frame_crc(frame: &[u8]) -> u32 {
    crc_of_two(&frame[..4], &frame[8..])
}

/// The reflected polynomial of CRC-32C.
const CRC_POLYNOMIAL: u32 = 0x82f6_3b78;

/// The single bit of `frame` that must be flipped for its CRC to match: its byte and its place there. `None`
/// if no single bit does. One step per bit, so some milliseconds for a frame of 1 MiB.
pub(super) fn wrong_bit_of_frame(frame: &[u8]) -> Option<(usize, u8)> {
    let stored = u32_at(frame, 4);
    let (byte, bit) = wrong_bit(stored ^ frame_crc(frame), frame.len() - 4)?;
    // The CRC covers everything but itself.
    Some(match byte {
        None => (4 + usize::from(bit / 8), bit % 8),
        Some(byte) if byte < 4 => (byte, bit),
        Some(byte) => (byte + 4, bit),
    })
}

/// The same for the head of a segment.
pub(super) fn wrong_bit_of_segment_head(head: &[u8]) -> Option<(usize, u8)> {
    let (byte, bit) = wrong_bit(u32_at(head, 40) ^ crc(&head[..40]), 40)?;
    Some(byte.map_or((40 + usize::from(bit / 8), bit % 8), |byte| (byte, bit)))
}

/// Which bit of `len` bytes changes their CRC by `difference`; no byte if it is a bit of the CRC itself.
fn wrong_bit(difference: u32, len: usize) -> Option<(Option<usize>, u8)> {
    if difference.count_ones() == 1 {
        return Some((None, difference.trailing_zeros() as u8));
    }
    // The effect of the last bit, then of the one before it, and so on.
    let mut change = CRC_POLYNOMIAL;
    for bit in (0..len * 8).rev() {
        if change == difference {
            return Some((Some(bit / 8), (bit % 8) as u8));
        }
        change = (change >> 1) ^ if change & 1 == 1 { CRC_POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEAD_BYTES + payload.len()];
        frame[FRAME_HEAD_BYTES..].copy_from_slice(payload);
        let id = LogId::new(7, 9);
        FrameHead { kind: FrameKind::Entry, entry_kind: 3, group: RaftGroupId(5), committed: 4, id }
            .write(&mut frame);
        frame
    }

    #[test]
    fn a_frame_reads_back_and_no_flipped_bit_goes_unseen_or_unfound() {
        let good = frame(b"a payload of some bytes");
        let FrameRead::Good(head) = FrameHead::read(&good) else { panic!("a good frame") };
        assert_eq!((head.group, head.committed, head.id), (RaftGroupId(5), 4, LogId::new(7, 9)));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(FrameHead::read(&bad), FrameRead::Bad, "byte {at} bit {bit}");
                assert_eq!(wrong_bit_of_frame(&bad), Some((at, bit)));
            }
        }
        let mut two = good.clone();
        (two[20], two[50]) = (two[20] ^ 1, two[50] ^ 1);
        assert_eq!(wrong_bit_of_frame(&two), None);
    }

    #[test]
    fn an_index_behind_which_there_is_none_is_no_frame() {
        let head = |index| {
            let mut bytes = frame(b"x");
            let id = LogId::new(7, index);
            FrameHead { kind: FrameKind::Purge, entry_kind: 0, group: RaftGroupId(5), committed: 4, id }
                .write(&mut bytes);
            FrameHead::read(&bytes)
        };
        assert_eq!(head(u64::MAX), FrameRead::Bad);
        assert!(matches!(head(u64::MAX - 1), FrameRead::Good(_)));
    }

    #[test]
    fn a_frame_of_another_version_is_not_taken_for_a_bad_one() {
        let mut newer = frame(b"x");
        newer[10] = 2;
        let crc = frame_crc(&newer);
        newer[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FrameHead::read(&newer), FrameRead::Unknown(2));
        assert_eq!(FrameHead::read(&newer[..newer.len() - 1]), FrameRead::Bad);
    }

    #[test]
    fn heads_read_back_and_every_flipped_bit_of_them_is_found() {
        let head = SegmentHead {
            frames_bytes: 1000,
            at: Position::new(3, 8192),
            life: 77,
            previous_end: 4096,
            durable: Position::new(3, 4096),
        };
        let mut bytes = [0; SEGMENT_HEAD_BYTES];
        head.write(&mut bytes);
        assert_eq!(SegmentHead::read(&bytes, head.at), Some(head));
        assert_eq!(SegmentHead::read(&bytes, Position::new(3, 4096)), None);
        for bit in 0..SEGMENT_HEAD_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHead::read(&bad, head.at), None);
            assert_eq!(wrong_bit_of_segment_head(&bad), Some((bit / 8, (bit % 8) as u8)));
        }
        let file = FileHead { seq: 3, file_bytes: 1 << 20, life: 77, closed_at: 8192 };
        let mut block = [0; BLOCK_BYTES];
        file.write(&mut block);
        assert_eq!(FileHead::read(&block), FileHeadRead::Good(file));
        block[7] = 9;
        let crc = crc(&block[..40]);
        block[40..44].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHead::read(&block), FileHeadRead::Unknown(9));
        block[0] = 0;
        assert_eq!(FileHead::read(&block), FileHeadRead::Bad);
    }

    #[test]
    fn names_are_read_only_as_they_are_written() {
        assert_eq!(file_seq(&file_name(0xabc)), Some(0xabc));
        assert_eq!(spare_seq(&spare_name(1)), Some(1));
        for name in ["wal-1.log", "wal-+000000000000001.log", "wal-000000000000000A.log", "fresh.tmp", "wal-"]
        {
            assert_eq!(file_seq(name), None, "{name}");
        }
    }
}
