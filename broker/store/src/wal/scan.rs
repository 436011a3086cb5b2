//! Reads log files as they are on disk, for recovery and for the doctor.

use std::{io, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    OpenError,
    layout::{
        DIR, FILE_HEAD_BYTES, FileHead, FileHeadRead, FrameHead, FrameRead, Position, SEGMENT_HEAD_BYTES,
        SegmentHead, file_name, file_seq, frame_bytes, in_dir, spare_seq, wrong_bit_of_frame,
        wrong_bit_of_segment_head,
    },
    memory::ChunkPool,
};
use crate::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, OpenMode, align_down, align_up};

/// Bytes of one read; a longer segment is read whole.
const WINDOW_BYTES: usize = 4 << 20;
/// Longest frame in which a single wrong bit is looked for. The search takes one step per bit, and the longer
/// the frame, the likelier a torn one matches by accident (at this length, one in five hundred).
const WRONG_BIT_FRAME_BYTES_MAX: usize = 1 << 20;

/// A log file on disk.
pub(super) struct LogFile {
    pub(super) seq: u64,
    pub(super) len: u64,
    pub(super) file: Arc<dyn DiskFile>,
}

/// The content of the log's directory.
#[derive(Default)]
pub(super) struct Listing {
    /// Log files, by number, not checked for gaps.
    pub(super) files: Vec<LogFile>,
    /// Numbers of the spare files.
    pub(super) spares: Vec<u64>,
    /// Every other name.
    pub(super) others: Vec<String>,
}

pub(super) fn list(disk: &dyn Disk) -> Result<Listing, OpenError> {
    let io = |what: String| move |e: io::Error| OpenError::Io { what, reason: e.to_string() };
    let mut listing = Listing::default();
    for (name, len) in disk.list(Path::new(DIR)).map_err(io(format!("the directory {DIR}")))? {
        if let Some(seq) = file_seq(&name) {
            let file = disk.open(&in_dir(&name), OpenMode::DirectRead).map_err(io(name))?;
            listing.files.push(LogFile { seq, len, file });
        } else if let Some(seq) = spare_seq(&name) {
            listing.spares.push(seq);
        } else {
            listing.others.push(name);
        }
    }
    Ok(listing)
}

/// The bit to flip: its byte, and the bit in the byte.
pub(super) type WrongBit = (usize, u8);

/// The result of reading a segment.
pub(super) enum SegmentRead {
    /// No segment of this life of the file starts there.
    None,
    /// A segment starts there, and this is its first bad frame; `None` if the file ends before the segment
    /// does.
    Broken { head: SegmentHead, frame: Option<Range<usize>> },
    /// Every frame is intact. The ranges are those of the frames in `bytes`.
    Whole { head: SegmentHead, bytes: Bytes, frames: Vec<(FrameHead, Range<usize>)> },
}

/// Reads one file through a window of log memory, so that payloads are not copied.
pub(super) struct Reader<'a> {
    pool: &'a Arc<ChunkPool>,
    pub(super) file: &'a LogFile,
    /// The file's header, if it is good and belongs to this file.
    pub(super) header: Option<FileHead>,
    window: Bytes,
    window_at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(pool: &'a Arc<ChunkPool>, file: &'a LogFile) -> Result<Reader<'a>, OpenError> {
        let mut reader = Reader { pool, file, header: None, window: Bytes::new(), window_at: 0 };
        reader.header = match read_head(&*file.file).map_err(|e| reader.io(&e))? {
            FileHeadRead::Good(head) if head.seq == file.seq => Some(head),
            FileHeadRead::Unknown(version) => {
                return Err(reader.unsupported(0, version.into()));
            }
            _ => None,
        };
        Ok(reader)
    }

    fn io(&self, error: &io::Error) -> OpenError {
        OpenError::Io { what: file_name(self.file.seq), reason: error.to_string() }
    }

    fn life(&self) -> Option<u64> {
        self.header.map(|header| header.life)
    }

    fn unsupported(&self, offset: usize, version: u16) -> OpenError {
        OpenError::Unsupported { file: file_name(self.file.seq), offset, version }
    }

    /// `len` bytes from `at` on, or `None` if the file is shorter.
    pub(super) fn bytes(&mut self, at: usize, len: usize) -> Result<Option<Bytes>, OpenError> {
        // A truncated file may not end at a block boundary.
        let file_len = align_down(self.file.len as usize);
        if at.checked_add(len).is_none_or(|end| end > file_len) {
            return Ok(None);
        }
        if at < self.window_at || at + len > self.window_at + self.window.len() {
            // The old window first, so that its memory is reused.
            self.window = Bytes::new();
            let whole = align_up(len).max(WINDOW_BYTES).min(file_len - at);
            let chunk = self.pool.take(whole);
            // SAFETY: this chunk is not shared yet.
            let part = unsafe { chunk.part_mut(0..whole) };
            self.file.file.read_exact_at(part, at as u64).map_err(|e| self.io(&e))?;
            (self.window, self.window_at) = (chunk.bytes(0..whole), at);
        }
        let start = at - self.window_at;
        Ok(Some(self.window.slice(start..start + len)))
    }

    /// The segment head at a block, of any life.
    fn any_head(&mut self, at: usize) -> Result<Option<SegmentHead>, OpenError> {
        let Some(block) = self.bytes(at, BLOCK_BYTES)? else { return Ok(None) };
        Ok(SegmentHead::read(&block, Position::new(self.file.seq, at)))
    }

    /// The segment head at a block.
    pub(super) fn head(&mut self, at: usize) -> Result<Option<SegmentHead>, OpenError> {
        let life = self.life();
        Ok(self.any_head(at)?.filter(|head| Some(head.life) == life))
    }

    /// The segment at a block.
    pub(super) fn segment(&mut self, at: usize) -> Result<SegmentRead, OpenError> {
        let Some(head) = self.head(at)? else { return Ok(SegmentRead::None) };
        let Some(bytes) = self.bytes(at, align_up(head.bytes()))? else {
            return Ok(SegmentRead::Broken { head, frame: None });
        };
        let bytes = bytes.slice(..head.bytes());
        let mut frames = Vec::new();
        let mut start = SEGMENT_HEAD_BYTES;
        while start < bytes.len() {
            let len = frame_bytes(&bytes[start..]).unwrap_or(0);
            match FrameHead::read(&bytes[start..]) {
                FrameRead::Good(frame) => frames.push((frame, start..start + len)),
                FrameRead::Unknown(version) => return Err(self.unsupported(at + start, version)),
                FrameRead::Bad => return Ok(SegmentRead::Broken { head, frame: Some(start..bytes.len()) }),
            }
            start += len;
        }
        Ok(SegmentRead::Whole { head, bytes, frames })
    }

    /// The place and head of the next segment of this life from `at` on; of any life if the file has none.
    pub(super) fn next_head(&mut self, mut at: usize) -> Result<Option<(usize, SegmentHead)>, OpenError> {
        let life = self.life();
        while at + BLOCK_BYTES <= self.file.len as usize {
            if let Some(head) = self.any_head(at)?
                && life.is_none_or(|life| life == head.life)
            {
                return Ok(Some((at, head)));
            }
            at += BLOCK_BYTES;
        }
        Ok(None)
    }

    /// Whether there is a segment from `at` on, and the latest durable mark of those.
    pub(super) fn marks_from(&mut self, mut at: usize) -> Result<(bool, Option<Position>), OpenError> {
        let (mut any, mut mark) = (false, None);
        while let Some((found, head)) = self.next_head(at)? {
            any = true;
            mark = mark.max(Some(head.durable));
            at = found + BLOCK_BYTES;
        }
        Ok((any, mark))
    }

    /// The segment head at a block with its one wrong bit corrected, and the byte and bit.
    pub(super) fn fixed_head(&mut self, at: usize) -> Result<Option<(SegmentHead, WrongBit)>, OpenError> {
        let Some(block) = self.bytes(at, BLOCK_BYTES)? else { return Ok(None) };
        let mut head = block[..SEGMENT_HEAD_BYTES].to_vec();
        let Some((byte, bit)) = wrong_bit_of_segment_head(&head) else { return Ok(None) };
        head[byte] ^= 1 << bit;
        let head = SegmentHead::read(&head, Position::new(self.file.seq, at));
        Ok(head.filter(|head| Some(head.life) == self.life()).map(|head| (head, (byte, bit))))
    }

    /// The one wrong bit of the segment at `at`: its offset in the file and the bit there. A torn write
    /// leaves whole sectors with their old content; that flipping one bit makes such a segment intact by
    /// accident is improbable enough to ignore.
    pub(super) fn single_wrong_bit(&mut self, at: usize) -> Result<Option<(usize, u8)>, OpenError> {
        match self.segment(at)? {
            SegmentRead::None => {
                let Some((head, (byte, bit))) = self.fixed_head(at)? else { return Ok(None) };
                // A write torn within the head may have left one that differs in a single bit, but no good frames.
                let Some(bytes) = self.bytes(at, align_up(head.bytes()))? else { return Ok(None) };
                let good = has_good_frames(&bytes[SEGMENT_HEAD_BYTES..head.bytes()]);
                Ok(good.then_some((at + byte, bit)))
            }
            SegmentRead::Broken { head, frame: Some(broken) } => {
                let Some(bytes) = self.bytes(at, align_up(head.bytes()))? else { return Ok(None) };
                let fixed = fix_frame(&bytes[broken.start..head.bytes()]);
                Ok(fixed.map(|(byte, bit)| (at + broken.start + byte, bit)))
            }
            _ => Ok(None),
        }
    }
}

/// The one wrong bit in the frame that starts `rest`, if flipping it makes everything in `rest` good.
fn fix_frame(rest: &[u8]) -> Option<(usize, u8)> {
    let (byte, bit) = wrong_bit_of_first(rest)?;
    let mut rest = rest.to_vec();
    rest[byte] ^= 1 << bit;
    has_good_frames(&rest).then_some((byte, bit))
}

/// Whether these bytes are good frames, one after the other to their end.
fn has_good_frames(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let FrameRead::Good(_) = FrameHead::read(rest) else { return false };
        let Some(after) = frame_bytes(rest).and_then(|bytes| rest.get(bytes..)) else { return false };
        rest = after;
    }
    true
}

/// The one wrong bit in the frame that starts `rest`.
pub(super) fn wrong_bit_of_first(rest: &[u8]) -> Option<(usize, u8)> {
    let len = frame_bytes(rest)?;
    if len <= rest.len().min(WRONG_BIT_FRAME_BYTES_MAX)
        && let Some(found) = wrong_bit_of_frame(&rest[..len])
        // With a wrong length the frame would be another one.
        && found.0 >= 4
    {
        return Some(found);
    }
    // A wrong length: where the frame ends is unknown.
    let mut rest = rest.to_vec();
    (0..32u8).map(|bit| (usize::from(bit / 8), bit % 8)).find(|&(byte, bit)| {
        rest[byte] ^= 1 << bit;
        let good = matches!(FrameHead::read(&rest), FrameRead::Good(_));
        rest[byte] ^= 1 << bit;
        good
    })
}

/// Reads a file's header block.
pub(super) fn read_head(file: &dyn DiskFile) -> io::Result<FileHeadRead> {
    let mut block = AlignedBuf::zeroed(FILE_HEAD_BYTES);
    match file.read_exact_at(&mut block, 0) {
        Ok(()) => Ok(FileHead::read(&block)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(FileHeadRead::Bad),
        Err(e) => Err(e),
    }
}
