//! The log's state under its one lock: where the next frame goes, what is to be written, what each group has.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::{GroupId, LogId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    AppendError, ReadError, WalConfig, WalFailed, WalStats,
    files::Files,
    group::{GroupIndex, Slot},
    layout::{
        FILE_HEAD_BYTES, FRAME_HEAD_BYTES, FrameHead, FrameKind, Position, SEGMENT_HEAD_BYTES, SegmentHead,
    },
    memory::{Chunk, ChunkPool},
};
use crate::disk::{AlignedBuf, align_down, align_up};

/// Called once something is durable, or the log has failed.
pub(super) type Done = Box<dyn FnOnce(Result<(), WalFailed>) + Send>;

/// What all handles and the writer share.
pub(super) struct Shared {
    pub(super) config: WalConfig,
    pub(super) pool: Arc<ChunkPool>,
    pub(super) files: Files,
    pub(super) stats: WalStats,
    log: Mutex<Log>,
    /// The writer waits here while there is nothing to write.
    pub(super) work: Condvar,
}

/// Frames that are being gathered: the end of a chunk, which maps to the end of the log.
struct Open {
    chunk: Arc<Chunk>,
    /// Where in the chunk the segment starts.
    start: usize,
    /// Where in the chunk the next frame goes; `start` while the segment has none.
    cursor: usize,
}

/// Frames that are to be written in one piece.
pub(super) struct Segment {
    pub(super) chunk: Arc<Chunk>,
    pub(super) range: Range<usize>,
    pub(super) at: Position,
    frames_bytes: usize,
    previous_end: usize,
}

impl Segment {
    /// Writes the head, now that it is known what is durable.
    pub(super) fn finish(&self, durable: Position) {
        let head = SegmentHead {
            frames_bytes: self.frames_bytes,
            at: self.at,
            previous_end: self.previous_end,
            durable,
        };
        let range = self.range.start..self.range.start + SEGMENT_HEAD_BYTES;
        // SAFETY: the head's room was reserved when the segment was opened and is in no payload.
        head.write(unsafe { self.chunk.part_mut(range) });
    }
}

pub(super) struct Log {
    pub(super) groups: HashMap<GroupId, GroupIndex>,
    pool: Arc<ChunkPool>,
    open: Option<Open>,
    sealed: Vec<Segment>,
    done: Vec<Done>,
    /// The file that the next segment goes to, its length, and where in it.
    seq: u64,
    file_bytes: u64,
    file_cursor: usize,
    previous_end: usize,
    later_file_bytes: u64,
    /// Highest index of each group in each file.
    pub(super) tops: BTreeMap<u64, HashMap<GroupId, u64>>,
    pub(super) durable: Position,
    pub(super) failed: Option<WalFailed>,
    pub(super) stopping: bool,
    pub(super) writer_waits: bool,
}

impl Log {
    pub(super) fn new(
        pool: Arc<ChunkPool>,
        groups: HashMap<GroupId, GroupIndex>,
        tops: BTreeMap<u64, HashMap<GroupId, u64>>,
        (seq, file_bytes, previous_end): (u64, u64, usize),
        later_file_bytes: u64,
    ) -> Log {
        let mut log = Log {
            groups,
            pool,
            open: None,
            sealed: Vec::new(),
            done: Vec::new(),
            seq,
            file_bytes,
            file_cursor: FILE_HEAD_BYTES,
            previous_end,
            later_file_bytes,
            tops,
            durable: Position::new(seq, FILE_HEAD_BYTES),
            failed: None,
            stopping: false,
            writer_waits: false,
        };
        log.tops.entry(seq).or_default();
        log
    }

    pub(super) fn group(&mut self, group: GroupId) -> &mut GroupIndex {
        self.groups.entry(group).or_default()
    }

    pub(super) fn note_top(&mut self, seq: u64, group: GroupId, index: u64) {
        let top = self.tops.entry(seq).or_default().entry(group).or_default();
        *top = (*top).max(index);
    }

    pub(super) fn when_durable(&mut self, done: Done) {
        self.done.push(done);
    }

    /// Largest payload that a file can hold beside the state of all groups.
    fn payload_bytes_max(&self) -> usize {
        self.later_file_bytes as usize - FILE_HEAD_BYTES - (1 << 16)
    }

    /// Puts a frame behind the last one; gives its place and its payload as readers will share it.
    pub(super) fn write_frame(
        &mut self,
        head: FrameHead,
        payload_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(Position, Bytes), AppendError> {
        if let Some(failed) = &self.failed {
            return Err(AppendError::Failed(failed.clone()));
        }
        if payload_bytes > self.payload_bytes_max() {
            return Err(AppendError::TooLarge { bytes: payload_bytes, bytes_max: self.payload_bytes_max() });
        }
        let (chunk, range, at) = self.reserve(FRAME_HEAD_BYTES + payload_bytes)?;
        // SAFETY: reserved just now.
        let frame = unsafe { chunk.part_mut(range.clone()) };
        write(&mut frame[FRAME_HEAD_BYTES..]);
        head.write(frame);
        Ok((at, chunk.bytes(range.start + FRAME_HEAD_BYTES..range.end)))
    }

    fn reserve(&mut self, bytes: usize) -> Result<(Arc<Chunk>, Range<usize>, Position), AppendError> {
        if !self.fits(bytes) {
            self.seal();
            if !self.fits(bytes) {
                self.open = None;
                self.open_chunk(bytes)?;
            }
        }
        let (seq, file_cursor) = (self.seq, self.file_cursor);
        let open = self.open.as_mut().expect("a segment is open: it fits or was just opened");
        if open.cursor == open.start {
            open.cursor += SEGMENT_HEAD_BYTES;
        }
        let range = open.cursor..open.cursor + bytes;
        open.cursor = range.end;
        let at = Position::new(seq, file_cursor + range.start - open.start);
        Ok((open.chunk.clone(), range, at))
    }

    /// Whether the open segment takes a frame of so many bytes, in its chunk and in the file.
    fn fits(&self, bytes: usize) -> bool {
        let Some(open) = &self.open else { return false };
        let head = if open.cursor == open.start { SEGMENT_HEAD_BYTES } else { 0 };
        let end = open.cursor + head + bytes;
        let end_in_file = self.file_cursor + align_up(end - open.start);
        end <= open.chunk.capacity() && end_in_file as u64 <= self.file_bytes
    }

    fn open_chunk(&mut self, bytes: usize) -> Result<(), AppendError> {
        let needed = align_up(SEGMENT_HEAD_BYTES + bytes);
        let rotate = (self.file_cursor + needed) as u64 > self.file_bytes;
        let states: usize = if rotate { self.groups.values().map(state_bytes).sum() } else { 0 };
        self.open = Some(Open { chunk: self.pool.take(align_up(needed + states)), start: 0, cursor: 0 });
        if rotate {
            self.previous_end = self.file_cursor;
            self.seq += 1;
            self.file_bytes = self.later_file_bytes;
            self.file_cursor = FILE_HEAD_BYTES;
            self.tops.entry(self.seq).or_default();
            self.write_states()?;
        }
        Ok(())
    }

    /// Repeats what must not go with the files before this one.
    pub(super) fn write_states(&mut self) -> Result<(), AppendError> {
        let mut groups: Vec<GroupId> = self.groups.keys().copied().collect();
        groups.sort();
        for group in groups {
            let index = self.group(group);
            let (purged, vote) = (index.purged, index.vote.clone().unwrap_or_default());
            let has = u8::from(purged.is_some()) | u8::from(index.vote.is_some()) << 1;
            let head = self.head(FrameKind::GroupState, has, group, purged.unwrap_or_default());
            self.write_frame(head, vote.len(), |out| out.copy_from_slice(&vote))?;
        }
        Ok(())
    }

    /// Closes the open segment; the next frame starts a new one, at a block of its own.
    fn seal(&mut self) {
        let Some(open) = &mut self.open else { return };
        if open.cursor == open.start {
            return;
        }
        let end = align_up(open.cursor);
        // SAFETY: the padding is reserved with the segment's last block and is in no payload.
        unsafe { open.chunk.part_mut(open.cursor..end) }.fill(0);
        self.sealed.push(Segment {
            chunk: open.chunk.clone(),
            range: open.start..end,
            at: Position::new(self.seq, self.file_cursor),
            frames_bytes: open.cursor - open.start - SEGMENT_HEAD_BYTES,
            previous_end: self.previous_end,
        });
        self.file_cursor += end - open.start;
        open.start = end;
        open.cursor = end;
        if end == open.chunk.capacity() {
            self.open = None;
        }
    }

    /// Everything that is to be written, and whom to tell.
    pub(super) fn take(&mut self) -> (Vec<Segment>, Vec<Done>) {
        self.seal();
        (std::mem::take(&mut self.sealed), std::mem::take(&mut self.done))
    }

    pub(super) fn has_work(&self) -> bool {
        !self.sealed.is_empty()
            || !self.done.is_empty()
            || self.open.as_ref().is_some_and(|o| o.cursor > o.start)
    }

    /// Whether someone waits for what is to be written.
    pub(super) fn has_listener(&self) -> bool {
        !self.done.is_empty()
    }

    /// Lets the memory of an idle log go.
    pub(super) fn close_chunk(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.cursor == open.start && open.start > 0) {
            self.open = None;
        }
    }

    pub(super) fn end(&self) -> Position {
        Position::new(self.seq, self.file_cursor)
    }
}

fn state_bytes(index: &GroupIndex) -> usize {
    FRAME_HEAD_BYTES + index.vote.as_ref().map_or(0, Bytes::len)
}

impl Shared {
    pub(super) fn new(config: WalConfig, pool: Arc<ChunkPool>, files: Files, log: Log) -> Shared {
        let stats = WalStats::default();
        Shared { config, pool, files, stats, log: Mutex::new(log), work: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// Looks at the log, or notes what needs no write.
    pub(super) fn with<R>(&self, look: impl FnOnce(&mut Log) -> R) -> R {
        look(&mut self.log.lock())
    }

    /// Changes the log and wakes the writer if it waits.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Log) -> R) -> R {
        let mut log = self.log.lock();
        let result = change(&mut log);
        if log.writer_waits {
            log.writer_waits = false;
            self.work.notify_one();
        }
        result
    }

    /// Reads a payload back from its file and checks it.
    pub(super) fn read_payload(&self, group: GroupId, id: LogId, slot: &Slot) -> Result<Bytes, ReadError> {
        let damaged =
            |reason: String| ReadError::Damaged { group, id, file: file_name(slot.at.seq()), reason };
        let file = self.files.open_for_read(slot.at.seq()).map_err(|e: io::Error| damaged(e.to_string()))?;
        let start = align_down(slot.at.offset());
        let end = slot.at.offset() + FRAME_HEAD_BYTES + slot.payload_bytes as usize;
        let mut window = AlignedBuf::zeroed(align_up(end) - start);
        file.read_exact_at(&mut window, start as u64).map_err(|e| damaged(e.to_string()))?;
        let frame = &window[slot.at.offset() - start..end - start];
        match FrameHead::read(frame) {
            Some((head, bytes)) if head.id == id && head.group == group => {
                Ok(Bytes::copy_from_slice(&frame[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + bytes]))
            }
            _ => Err(damaged("the frame's checksum does not fit".to_string())),
        }
    }
}

/// Path of a log file in the store's directory.
pub(super) fn file_path(seq: u64) -> PathBuf {
    PathBuf::from("wal").join(file_name(seq))
}

/// Name of a log file.
pub(super) fn file_name(seq: u64) -> String {
    format!("wal-{seq:016x}.log")
}
