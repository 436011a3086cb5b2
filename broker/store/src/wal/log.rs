//! The log's state under its one lock: where the next frame goes, what is pending, what each group has.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, IoSlice},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    AppendError, ReadError, WalConfig, WalFailed, WalStats,
    files::{Files, next_file_bytes},
    group::{EntrySlot, GroupIndex},
    layout::{
        FILE_HEAD_BYTES, FRAME_HEAD_BYTES, FrameHead, FrameKind, FrameRead, Position, SEGMENT_HEAD_BYTES,
        SegmentHead, file_name, payload_bytes_max,
    },
    memory::{Chunk, ChunkPool},
};
use crate::disk::{AlignedBuf, align_down, align_up};

/// Largest vote. Every file repeats every group's vote, so it is small.
pub(super) const VOTE_BYTES_MAX: usize = 256;

/// Called once something is durable or the log has failed.
pub(super) type Done = Box<dyn FnOnce(Result<(), WalFailed>) + Send>;

/// What the writer waits for: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake {
    /// This many callbacks are pending.
    pub(super) calls: usize,
    /// This many bytes are pending.
    pub(super) bytes: usize,
}

impl Wake {
    /// Anything at all.
    pub(super) const ANY: Wake = Wake { calls: 1, bytes: 0 };
}

/// State shared by all handles and the writer.
pub(super) struct SharedLog {
    pub(super) config: WalConfig,
    pub(super) pool: Arc<ChunkPool>,
    pub(super) files: Arc<Files>,
    pub(super) stats: WalStats,
    log: Mutex<Log>,
    /// The writer waits here while nothing is pending.
    pub(super) work: Condvar,
    durable: AtomicU64,
}

/// The frames being gathered: the end of a chunk, which maps to the end of the log.
struct Open {
    chunk: Arc<Chunk>,
    /// Where in the chunk the segment starts.
    start: usize,
    /// Where in the chunk the next frame goes; `start` while the segment has none.
    cursor: usize,
}

/// Frames to be written in one piece.
pub(super) struct Segment {
    pub(super) chunk: Arc<Chunk>,
    pub(super) range: Range<usize>,
    pub(super) at: Position,
    frames_bytes: usize,
    previous_end: usize,
    file: FileInUse,
}

impl Segment {
    /// Writes the head, now that the durable mark is known.
    pub(super) fn finish(&self, durable: Position, life: u64) {
        let head = SegmentHead {
            frames_bytes: self.frames_bytes,
            at: self.at,
            life,
            previous_end: self.previous_end,
            durable,
        };
        let range = self.range.start..self.range.start + SEGMENT_HEAD_BYTES;
        // SAFETY: the head's space was reserved when the segment was opened and is in no payload.
        head.write(unsafe { self.chunk.part_mut(range) });
    }

    /// The segment as it goes to disk.
    pub(super) fn part(&self) -> IoSlice<'_> {
        IoSlice::new(self.chunk.part(self.range.clone()))
    }

    /// Half the length of the file that the segment goes to.
    pub(super) fn file_middle(&self) -> usize {
        self.file.bytes as usize / 2
    }
}

/// The file that contains the log's end.
#[derive(Clone, Copy, Debug)]
struct FileInUse {
    seq: u64,
    bytes: u64,
}

/// What the log starts with.
pub(super) struct Start {
    pub(super) groups: HashMap<RaftGroupId, GroupIndex>,
    /// For each older file that is in use: its length, and the highest index of each group in it.
    pub(super) older: BTreeMap<u64, FileTops>,
    /// Number and length of the file to continue in.
    pub(super) file: (u64, u64),
    /// Where the log of the previous file ended.
    pub(super) previous_end: usize,
}

/// What a file of the log holds.
#[derive(Clone, Debug, Default)]
pub(super) struct FileTops {
    pub(super) bytes: u64,
    /// Highest index of each group.
    pub(super) tops: HashMap<RaftGroupId, u64>,
}

pub(super) struct Log {
    pub(super) groups: HashMap<RaftGroupId, GroupIndex>,
    pool: Arc<ChunkPool>,
    open: Option<Open>,
    sealed: Vec<Segment>,
    done: Vec<Done>,
    file: FileInUse,
    /// Where in the file the open segment goes.
    file_cursor: usize,
    previous_end: usize,
    later_file_bytes: u64,
    /// The files in use, by number.
    pub(super) files: BTreeMap<u64, FileTops>,
    pub(super) failed: Option<WalFailed>,
    pub(super) stopping: bool,
    /// What the writer waits for, if it waits.
    pub(super) wake_at: Option<Wake>,
}

impl Log {
    pub(super) fn new(pool: Arc<ChunkPool>, start: Start, later_file_bytes: u64) -> Log {
        let (seq, bytes) = start.file;
        let mut files = start.older;
        files.insert(seq, FileTops { bytes, tops: HashMap::new() });
        Log {
            groups: start.groups,
            pool,
            open: None,
            sealed: Vec::new(),
            done: Vec::new(),
            file: FileInUse { seq, bytes },
            file_cursor: FILE_HEAD_BYTES,
            previous_end: start.previous_end,
            later_file_bytes,
            files,
            failed: None,
            stopping: false,
            wake_at: None,
        }
    }

    pub(super) fn group(&mut self, group: RaftGroupId) -> &mut GroupIndex {
        self.groups.entry(group).or_default()
    }

    pub(super) fn note_top(&mut self, seq: u64, group: RaftGroupId, index: u64) {
        let top = self.files.entry(seq).or_default().tops.entry(group).or_default();
        *top = (*top).max(index);
    }

    pub(super) fn when_durable(&mut self, done: Done) {
        self.done.push(done);
    }

    /// Largest payload: a file must have space for it beside the state of all groups.
    fn payload_bytes_max(&self) -> usize {
        payload_bytes_max(self.later_file_bytes)
    }

    /// Most groups: their states fill an eighth of a file at most.
    fn groups_max(&self) -> usize {
        (self.later_file_bytes / 8) as usize / (FRAME_HEAD_BYTES + VOTE_BYTES_MAX)
    }

    /// Whether a frame of `group` can be appended.
    pub(super) fn admit(&self, group: RaftGroupId, payload_bytes: usize) -> Result<(), AppendError> {
        if let Some(failed) = &self.failed {
            return Err(AppendError::Failed(failed.clone()));
        }
        if payload_bytes > self.payload_bytes_max() {
            return Err(AppendError::TooLarge { bytes: payload_bytes, bytes_max: self.payload_bytes_max() });
        }
        if self.groups.len() >= self.groups_max() && !self.groups.contains_key(&group) {
            return Err(AppendError::TooManyGroups { groups_max: self.groups_max() });
        }
        // A frame starts at most a handful of files.
        if self.file.seq + 64 > Position::SEQ_MAX {
            return Err(AppendError::Exhausted { files_max: Position::SEQ_MAX });
        }
        Ok(())
    }

    /// Appends a frame that was admitted; returns its place and its payload as readers will share it.
    pub(super) fn put(
        &mut self,
        head: FrameHead,
        payload_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> (Position, Bytes) {
        let (chunk, range, at) = self.reserve(FRAME_HEAD_BYTES + payload_bytes);
        // SAFETY: reserved just now.
        let frame = unsafe { chunk.part_mut(range.clone()) };
        write(&mut frame[FRAME_HEAD_BYTES..]);
        head.write(frame);
        (at, chunk.bytes(range.start + FRAME_HEAD_BYTES..range.end))
    }

    fn reserve(&mut self, bytes: usize) -> (Arc<Chunk>, Range<usize>, Position) {
        if !self.fits(bytes) {
            self.make_room(bytes);
        }
        let (seq, file_cursor) = (self.file.seq, self.file_cursor);
        let open = self.open.as_mut().expect("a segment is open: it fits or was just opened");
        if open.cursor == open.start {
            open.cursor += SEGMENT_HEAD_BYTES;
        }
        let range = open.cursor..open.cursor + bytes;
        assert!(
            range.end <= open.chunk.capacity(),
            "a frame ends at {} of {}",
            range.end,
            open.chunk.capacity()
        );
        open.cursor = range.end;
        let at = Position::new(seq, file_cursor + range.start - open.start);
        (open.chunk.clone(), range, at)
    }

    /// Whether the open segment has space for a frame of `bytes`, in its chunk and in the file.
    fn fits(&self, bytes: usize) -> bool {
        let Some(open) = &self.open else { return false };
        let head = if open.cursor == open.start { SEGMENT_HEAD_BYTES } else { 0 };
        let end = open.cursor + head + bytes;
        let end_in_file = self.file_cursor + align_up(end - open.start);
        end <= open.chunk.capacity() && end_in_file as u64 <= self.file.bytes
    }

    /// Opens a segment with space for a frame of `bytes`, in the next file if this one is full.
    fn make_room(&mut self, bytes: usize) {
        self.seal();
        let needed = align_up(SEGMENT_HEAD_BYTES + bytes);
        while (self.file_cursor + needed) as u64 > self.file.bytes {
            self.begin_file();
            self.put_states();
            self.seal();
        }
        if !self.fits(bytes) {
            self.open = Some(Open { chunk: self.pool.take(needed), start: 0, cursor: 0 });
        }
    }

    fn begin_file(&mut self) {
        assert!(
            self.sealed.last().is_none_or(|last| last.at.seq() == self.file.seq),
            "a segment of a later file"
        );
        self.previous_end = self.file_cursor;
        let bytes = next_file_bytes(self.file.bytes, self.later_file_bytes);
        self.file = FileInUse { seq: self.file.seq + 1, bytes };
        self.file_cursor = FILE_HEAD_BYTES;
        self.files.insert(self.file.seq, FileTops { bytes, tops: HashMap::new() });
    }

    /// Repeats the group states, which must not be lost when older files are recycled or one of them is
    /// missing.
    pub(super) fn put_states(&mut self) {
        let mut groups: Vec<RaftGroupId> = self.groups.keys().copied().collect();
        groups.sort();
        for group in groups {
            let index = self.group(group);
            let (purged, vote) = (index.purged, index.vote.clone());
            if purged.is_none() && vote.is_none() && index.slots.is_empty() {
                continue;
            }
            let has = u8::from(purged.is_some()) | u8::from(vote.is_some()) << 1;
            let head = self.head(FrameKind::GroupState, has, group, purged.unwrap_or_default());
            let vote = vote.unwrap_or_default();
            self.put(head, vote.len(), |out| out.copy_from_slice(&vote));
        }
    }

    /// Appends a frame without content, so that the durable mark gets on disk.
    pub(super) fn put_seal(&mut self) {
        // A failed log reports it at the next append.
        if self.failed.is_none() {
            let head = FrameHead {
                kind: FrameKind::Seal,
                entry_kind: 0,
                group: RaftGroupId::METADATA,
                committed: 0,
                id: LogId::default(),
            };
            self.put(head, 0, |_| {});
        }
    }

    /// Closes the open segment; the next frame starts a new one, at a block boundary.
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
            at: Position::new(self.file.seq, self.file_cursor),
            frames_bytes: open.cursor - open.start - SEGMENT_HEAD_BYTES,
            previous_end: self.previous_end,
            file: self.file,
        });
        self.file_cursor += end - open.start;
        assert!(
            self.file_cursor as u64 <= self.file.bytes,
            "the log ends at {} of {:?}",
            self.file_cursor,
            self.file
        );
        open.start = end;
        open.cursor = end;
        if end == open.chunk.capacity() {
            self.open = None;
        }
    }

    /// Moves everything that is pending, with its callbacks, to empty lists.
    pub(super) fn take(&mut self, segments: &mut Vec<Segment>, done: &mut Vec<Done>) {
        self.seal();
        segments.append(&mut self.sealed);
        done.append(&mut self.done);
    }

    pub(super) fn has_work(&self) -> bool {
        !self.sealed.is_empty()
            || !self.done.is_empty()
            || self.open.as_ref().is_some_and(|o| o.cursor > o.start)
    }

    /// Bytes pending, approximately.
    pub(super) fn pending_bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.cursor - open.start);
        open + self.sealed.iter().map(|segment| segment.range.len()).sum::<usize>()
    }

    /// Number of callbacks pending.
    pub(super) fn calls(&self) -> usize {
        self.done.len()
    }

    /// Whether the writer's wait is over. A frame without a callback wakes only an idle writer.
    fn wakes(&self) -> bool {
        self.wake_at.is_some_and(|wake| self.calls() >= wake.calls || self.pending_bytes() >= wake.bytes)
    }

    /// Whether a callback is pending.
    pub(super) fn has_listener(&self) -> bool {
        !self.done.is_empty()
    }

    /// Releases the memory of an idle log.
    pub(super) fn close_chunk(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.cursor == open.start && open.start > 0) {
            self.open = None;
        }
    }

    /// Where the next segment goes.
    pub(super) fn end(&self) -> Position {
        Position::new(self.file.seq, self.file_cursor)
    }

    /// Total length of the files that a group still needs, the last one up to the log's end.
    pub(super) fn size_bytes(&self) -> u64 {
        let older: u64 = self.files.range(..self.file.seq).map(|(_, file)| file.bytes).sum();
        older + self.file_cursor as u64
    }

    /// The oldest files that no group needs.
    pub(super) fn unneeded_files(&self) -> Vec<u64> {
        let purged = |group: &RaftGroupId, top: u64| {
            let index = self.groups.get(group);
            index.is_none_or(|index| index.purged.is_some_and(|purged| purged.index >= top))
        };
        let older = self.files.range(..self.file.seq);
        let unneeded = older.take_while(|(_, file)| file.tops.iter().all(|(group, top)| purged(group, *top)));
        unneeded.map(|(&seq, _)| seq).collect()
    }
}

impl SharedLog {
    pub(super) fn new(config: WalConfig, pool: Arc<ChunkPool>, files: Files, log: Log) -> SharedLog {
        let durable = AtomicU64::new(0);
        let shared = SharedLog {
            config,
            pool,
            files: Arc::new(files),
            stats: WalStats::default(),
            log: Mutex::new(log),
            work: Condvar::new(),
            durable,
        };
        shared.set_durable(shared.with(|log| log.end()));
        shared
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// Reads the state, or changes what needs no write.
    pub(super) fn with<R>(&self, look: impl FnOnce(&mut Log) -> R) -> R {
        look(&mut self.log.lock())
    }

    /// Changes the state and wakes the writer if its wait is over.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Log) -> R) -> R {
        let mut log = self.log.lock();
        let result = change(&mut log);
        let wake = log.wakes();
        if wake {
            log.wake_at = None;
        }
        drop(log);
        if wake {
            self.work.notify_one();
        }
        result
    }

    /// Everything before this place is durable.
    pub(super) fn durable(&self) -> Position {
        Position::from_bits(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn set_durable(&self, end: Position) {
        let before = self.durable.swap(end.to_bits(), Ordering::Release);
        assert!(before <= end.to_bits(), "what is durable ended at {before}, and now at {}", end.to_bits());
    }

    /// Reads a payload back from its file and verifies it.
    pub(super) fn read_payload(
        &self,
        group: RaftGroupId,
        id: LogId,
        slot: &EntrySlot,
    ) -> Result<Bytes, ReadError> {
        self.read_frame(group, id, slot).map_err(|reason| {
            // The file may have been recycled meanwhile.
            match self.with(|log| log.groups.get(&group).and_then(|index| index.purged)) {
                Some(purged) if purged.index >= id.index => {
                    ReadError::Purged { group, index: id.index, first: purged.index + 1 }
                }
                _ => ReadError::Damaged { group, id, file: file_name(slot.at.seq()), reason },
            }
        })
    }

    fn read_frame(&self, group: RaftGroupId, id: LogId, slot: &EntrySlot) -> Result<Bytes, String> {
        let io = |e: io::Error| e.to_string();
        let file = self.files.open_for_read(slot.at.seq()).map_err(io)?;
        let start = align_down(slot.at.offset());
        let payload_bytes = slot.payload_bytes as usize;
        let end = slot.at.offset() + FRAME_HEAD_BYTES + payload_bytes;
        let mut window = AlignedBuf::zeroed(align_up(end) - start);
        file.read_exact_at(&mut window, start as u64).map_err(io)?;
        let frame = &window[slot.at.offset() - start..end - start];
        match FrameHead::read(frame) {
            FrameRead::Good(head) if head.id == id && head.group == group => {
                Ok(Bytes::copy_from_slice(&frame[FRAME_HEAD_BYTES..]))
            }
            FrameRead::Good(head) => Err(format!("there is entry {} of {}", head.id, head.group)),
            _ => Err("the frame has a checksum mismatch".to_string()),
        }
    }
}
