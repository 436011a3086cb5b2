//! Opens the log: reads every file, tells a torn tail from damage, and rebuilds what each group has.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::GroupId;

use super::{
    RecoveryBase, WalConfig,
    files::{Files, set_aside},
    group::{GroupIndex, Slot},
    layout::{
        FILE_HEAD_BYTES, FRAME_HEAD_BYTES, FrameHead, FrameKind, Position, SEGMENT_HEAD_BYTES, SegmentHead,
        read_file_head,
    },
    log::{Log, Shared, file_name, file_path},
    memory::ChunkPool,
};
use crate::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, OpenMode, align_up};

/// Bytes that recovery reads at once; a longer segment is read whole.
const WINDOW_BYTES: usize = 4 << 20;

/// Why a log cannot be opened. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("{what} cannot be used: {reason}")]
    Io {
        /// The file or directory.
        what: String,
        /// What the operating system said.
        reason: String,
    },
    /// A part that was durable does not read back as it was written.
    #[error("{file} is damaged at offset {offset}, before data that is known to be durable ({reason})")]
    Damaged {
        /// Name of the file.
        file: String,
        /// Bytes from its start.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file between others is not there.
    #[error("{file} is missing between other log files")]
    Missing {
        /// Name of the file.
        file: String,
    },
}

/// What opening the log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Files that were read.
    pub files: usize,
    /// Frames that were read.
    pub frames: u64,
    /// Where the log ended.
    pub end: Position,
    /// Whether something behind the end was written only in part, and is dropped.
    pub torn: bool,
}

struct LogFile {
    seq: u64,
    len: u64,
    file: Arc<dyn DiskFile>,
}

/// Reads the log and makes it ready to be appended to, in a file of its own.
pub(super) fn recover(
    disk: Arc<dyn Disk>,
    config: WalConfig,
    base: &RecoveryBase,
) -> Result<(Shared, RecoveryReport), OpenError> {
    let io = |what: &str| {
        let what = what.to_string();
        move |e: io::Error| OpenError::Io { what, reason: e.to_string() }
    };
    disk.create_dir(Path::new("wal")).map_err(io("the directory wal"))?;
    let pool = ChunkPool::new(config.chunk_bytes, config.spare_chunks_max);
    let (files, unused) = find(&*disk)?;
    let mut scan =
        Scan { base, groups: HashMap::new(), tops: BTreeMap::new(), report: RecoveryReport::default() };
    let ends = scan.files(&pool, &files)?;
    let Scan { groups, mut tops, mut report, .. } = scan;
    report.files = ends.len();
    let last = ends.last().copied();
    // Files behind the end were made ready, or begun by a write that nobody was told of: they are used again.
    tops.retain(|seq, _| last.is_some_and(|end| *seq <= end.seq()));
    report.end = last.unwrap_or_default();
    let seq = last.map_or(1, |end| end.seq() + 1);
    // Not under their old names, and the last first: a log must be found without a gap after the next start.
    let mut free = unused;
    for file in files.iter().rev().take_while(|file| last.is_none_or(|end| file.seq > end.seq())) {
        free.push(set_aside(&*disk, file.seq).map_err(io(&file_name(file.seq)))?);
    }
    let files = Files::new(disk, config.file_bytes, free).map_err(io("the log's files"))?;
    files.make_now(seq, config.first_file_bytes).map_err(io(&file_name(seq)))?;
    let previous_end = last.map_or(0, Position::offset);
    let mut log =
        Log::new(pool.clone(), groups, tops, (seq, config.first_file_bytes, previous_end), config.file_bytes);
    if last.is_some() {
        // The first frames of the new file say where the one before ended.
        log.write_states().map_err(|e| OpenError::Io { what: file_name(seq), reason: e.to_string() })?;
    }
    Ok((Shared::new(config, pool, files, log), report))
}

/// The log files in order, and spare ones. A file whose header is not its own was being made when the broker
/// ended, if it is the last.
fn find(disk: &dyn Disk) -> Result<(Vec<LogFile>, Vec<PathBuf>), OpenError> {
    let dir = Path::new("wal");
    let names = disk
        .list(dir)
        .map_err(|e| OpenError::Io { what: "the directory wal".into(), reason: e.to_string() })?;
    let (mut files, mut unused) = (Vec::<LogFile>::new(), Vec::new());
    for (name, len) in names {
        if name.starts_with("spare-") {
            unused.push(dir.join(name));
            continue;
        }
        let Some(seq) = name.strip_prefix("wal-").and_then(|n| n.strip_suffix(".log")) else { continue };
        let Ok(seq) = u64::from_str_radix(seq, 16) else { continue };
        if let Some(before) = files.last()
            && before.seq + 1 != seq
        {
            return Err(OpenError::Missing { file: file_name(before.seq + 1) });
        }
        let file = disk
            .open(&file_path(seq), OpenMode::DirectRead)
            .map_err(|e| OpenError::Io { what: file_name(seq), reason: e.to_string() })?;
        files.push(LogFile { seq, len, file });
    }
    Ok((files, unused))
}

struct Scan<'a> {
    base: &'a RecoveryBase,
    groups: HashMap<GroupId, GroupIndex>,
    tops: BTreeMap<u64, HashMap<GroupId, u64>>,
    report: RecoveryReport,
}

impl Scan<'_> {
    /// Reads the files; gives the end of the log in each that has any of it.
    fn files(&mut self, pool: &Arc<ChunkPool>, files: &[LogFile]) -> Result<Vec<Position>, OpenError> {
        let mut ends: Vec<Position> = Vec::new();
        for file in files {
            let mut reader = Reader::new(pool, file);
            let named = reader.file_head()?;
            if let Some(head) = reader.segment_head(FILE_HEAD_BYTES)? {
                if let Some(before) = ends.last()
                    && before.offset() != head.previous_end
                {
                    return Err(damaged(before.seq(), before.offset(), "the next file follows a later end"));
                }
                if named != Some(file.seq) {
                    return Err(damaged(file.seq, 0, "the file's header is not its own"));
                }
            }
            let end = self.file(&mut reader)?;
            let later = reader.durable_mark_behind(end)?;
            if later.is_some_and(|mark| mark > Position::new(file.seq, end)) {
                return Err(damaged(file.seq, end, "a later part says that it was durable"));
            }
            if end == FILE_HEAD_BYTES {
                // Made ready and never used, or only in a write that failed: nothing can be behind it.
                break;
            }
            self.report.torn = reader.something_at(end)?;
            ends.push(Position::new(file.seq, end));
        }
        // What follows a file without any log must have none either.
        for file in files.iter().skip(ends.len() + 1) {
            if Reader::new(pool, file).segment_head(FILE_HEAD_BYTES)?.is_some() {
                return Err(damaged(
                    file.seq - 1,
                    FILE_HEAD_BYTES,
                    "the next file has a log and this one has none",
                ));
            }
        }
        Ok(ends)
    }

    /// Reads the segments of one file; gives the offset behind the last good one.
    fn file(&mut self, reader: &mut Reader<'_>) -> Result<usize, OpenError> {
        let mut at = FILE_HEAD_BYTES;
        self.tops.entry(reader.file.seq).or_default();
        while let Some(head) = reader.segment_head(at)? {
            let Some(segment) = reader.segment(at, head.frames_bytes)? else { break };
            let Some(frames) = check_frames(&segment) else { break };
            for (frame, start, payload_bytes) in frames {
                let place = Position::new(reader.file.seq, at + start);
                let payload_start = start + FRAME_HEAD_BYTES;
                let payload = segment.slice(payload_start..payload_start + payload_bytes);
                self.frame(frame, place, payload);
            }
            at += align_up(SEGMENT_HEAD_BYTES + head.frames_bytes);
        }
        Ok(at)
    }

    fn frame(&mut self, head: FrameHead, at: Position, payload: Bytes) {
        self.report.frames += 1;
        let keep_above = self.base.flushed.get(&head.group).copied();
        let index = self.groups.entry(head.group).or_default();
        match head.kind {
            FrameKind::Seal => return,
            FrameKind::Vote => index.vote = Some(Bytes::copy_from_slice(&payload)),
            FrameKind::Truncate => index.truncate_after((head.entry_kind != 0).then_some(head.id)),
            FrameKind::Purge => index.purge(head.id),
            FrameKind::GroupState => {
                if head.entry_kind & 1 != 0 && index.purged.is_none_or(|purged| purged.index < head.id.index)
                {
                    index.purge(head.id);
                }
                if head.entry_kind & 2 != 0 {
                    index.vote = Some(Bytes::copy_from_slice(&payload));
                }
            }
            FrameKind::Entry => {
                push_entry(index, &head, at, payload, keep_above);
                let top = self.tops.entry(at.seq()).or_default().entry(head.group).or_default();
                *top = (*top).max(head.id.index);
            }
        }
        if let Some(committed) = head.committed.checked_sub(1).and_then(|last| index.log_id(last)) {
            index.committed = index.committed.max(Some(committed));
        }
    }
}

fn push_entry(
    index: &mut GroupIndex,
    head: &FrameHead,
    at: Position,
    payload: Bytes,
    keep_above: Option<u64>,
) {
    if index.purged.is_some_and(|purged| head.id.index <= purged.index) {
        return;
    }
    if index.slots.is_empty() && index.purged.is_none() {
        index.first = head.id.index;
    }
    // An entry in place of another one follows a truncation whose frame was lost with a torn tail.
    if head.id.index < index.end() {
        let keep = head.id.index - index.first;
        index.slots.truncate(keep as usize);
    }
    let keep = keep_above.is_none_or(|flushed| head.id.index > flushed);
    index.slots.push_back(Slot {
        term: head.id.term,
        kind: head.entry_kind,
        at,
        payload_bytes: payload.len() as u32,
        payload: keep.then_some(payload),
    });
}

/// The frames of a segment, if every one of them is whole.
fn check_frames(segment: &[u8]) -> Option<Vec<(FrameHead, usize, usize)>> {
    let mut frames = Vec::new();
    let mut at = SEGMENT_HEAD_BYTES;
    while at < segment.len() {
        let (head, payload_bytes) = FrameHead::read(&segment[at..])?;
        frames.push((head, at, payload_bytes));
        at += FRAME_HEAD_BYTES + payload_bytes;
    }
    Some(frames)
}

fn damaged(seq: u64, offset: usize, reason: &str) -> OpenError {
    OpenError::Damaged { file: file_name(seq), offset, reason: reason.to_string() }
}

/// Reads one file through a window of log memory, so that payloads need no copy.
struct Reader<'a> {
    pool: &'a Arc<ChunkPool>,
    file: &'a LogFile,
    window: Bytes,
    window_at: usize,
}

impl<'a> Reader<'a> {
    fn new(pool: &'a Arc<ChunkPool>, file: &'a LogFile) -> Reader<'a> {
        Reader { pool, file, window: Bytes::new(), window_at: 0 }
    }

    fn io(&self, error: &io::Error) -> OpenError {
        OpenError::Io { what: file_name(self.file.seq), reason: error.to_string() }
    }

    fn file_head(&mut self) -> Result<Option<u64>, OpenError> {
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        match self.file.file.read_exact_at(&mut block, 0) {
            Ok(()) => Ok(read_file_head(&block).map(|(seq, _)| seq)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(self.io(&e)),
        }
    }

    /// `len` bytes from `at` on, or `None` if the file is shorter.
    fn bytes(&mut self, at: usize, len: usize) -> Result<Option<Bytes>, OpenError> {
        if (at + len) as u64 > self.file.len {
            return Ok(None);
        }
        if at < self.window_at || at + len > self.window_at + self.window.len() {
            let whole = align_up(len).max(WINDOW_BYTES).min(self.file.len as usize - at);
            // A file that was cut short may not end at a block.
            let whole = whole / BLOCK_BYTES * BLOCK_BYTES;
            if whole < len {
                return Ok(None);
            }
            let chunk = self.pool.take(whole);
            // SAFETY: nobody else has this chunk yet.
            let part = unsafe { chunk.part_mut(0..whole) };
            self.file.file.read_exact_at(part, at as u64).map_err(|e| self.io(&e))?;
            (self.window, self.window_at) = (chunk.bytes(0..whole), at);
        }
        let start = at - self.window_at;
        Ok(Some(self.window.slice(start..start + len)))
    }

    fn segment_head(&mut self, at: usize) -> Result<Option<SegmentHead>, OpenError> {
        let Some(block) = self.bytes(at, BLOCK_BYTES)? else { return Ok(None) };
        Ok(SegmentHead::read(&block, Position::new(self.file.seq, at)))
    }

    /// The segment's head and frames.
    fn segment(&mut self, at: usize, frames_bytes: usize) -> Result<Option<Bytes>, OpenError> {
        let len = SEGMENT_HEAD_BYTES + frames_bytes;
        let whole = self.bytes(at, align_up(len))?;
        Ok(whole.map(|segment| segment.slice(..len)))
    }

    /// The largest durable mark of any good segment head behind `end`.
    fn durable_mark_behind(&mut self, end: usize) -> Result<Option<Position>, OpenError> {
        let mut mark = None;
        let mut at = end;
        while (at + BLOCK_BYTES) as u64 <= self.file.len {
            mark = mark.max(self.segment_head(at)?.map(|head| head.durable));
            at += BLOCK_BYTES;
        }
        Ok(mark)
    }

    /// Whether a segment of this file's life was begun at `at`.
    fn something_at(&mut self, at: usize) -> Result<bool, OpenError> {
        Ok(self.segment_head(at)?.is_some())
    }
}
