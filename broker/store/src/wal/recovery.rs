//! Opens the log: reads every file, distinguishes a torn tail from damage, and rebuilds the state of each
//! group.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::RaftGroupId;

use super::{
    RecoveryBase, WalConfig,
    files::{
        FilePlan, Files, Lives, NoFile, RecoveredFiles, add_free, next_file_bytes, set_aside, write_head,
    },
    group::{EntrySlot, GroupIndex},
    layout::{
        DIR, FILE_HEAD_BYTES, FRAME_HEAD_BYTES, FileHead, FileHeadRead, FrameHead, FrameKind, Position,
        file_name, in_dir, spare_name,
    },
    log::{FileTops, Log, SharedLog, Start},
    memory::ChunkPool,
    scan::{Listing, LogFile, Reader, SegmentRead, list, read_head},
};
use crate::disk::{BLOCK_BYTES, Disk, OpenMode, align_up};

/// Name of the marker file of a repair: while it exists, the log's directory is between two states.
pub(super) const REPAIR_NAME: &str = "repair-unfinished";

/// Payloads up to this length are copied, so that they do not keep the whole read window alive.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// Why a log cannot be opened. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// An operation of the operating system failed.
    #[error("{what} cannot be used: {reason}")]
    Io {
        /// The file or directory.
        what: String,
        /// The operating system's error.
        reason: String,
    },
    /// A part that was durable does not read back as it was written.
    #[error("{file} is damaged at offset {offset}: {reason}")]
    Damaged {
        /// Name of the file.
        file: String,
        /// Bytes from its start.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file that the log needs is absent.
    #[error("{file} is missing")]
    Missing {
        /// Name of the file.
        file: String,
    },
    /// The log has later entries of a group but not these.
    #[error("entries {first} to {last} of {group} are in no log file: earlier files are missing")]
    EntriesMissing {
        /// The group.
        group: RaftGroupId,
        /// First index that is missing.
        first: u64,
        /// Last index that is missing.
        last: u64,
    },
    /// The runs have entries of a group of which the log has no trace, not even a vote.
    #[error("the log has no trace of {group}, although runs have entries of it: log files are missing")]
    GroupMissing {
        /// The group.
        group: RaftGroupId,
    },
    /// Written by a newer version of the broker.
    #[error("{file} at offset {offset} has version {version}, which this version of the broker cannot read")]
    Unsupported {
        /// Name of the file.
        file: String,
        /// Bytes from its start.
        offset: usize,
        /// The version.
        version: u16,
    },
    /// A repair was started and not finished.
    #[error("a repair of the log was started and not finished; run it again")]
    RepairUnfinished,
}

/// What opening the log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Number of files read.
    pub files: usize,
    /// Number of frames read.
    pub frames: u64,
    /// Where the log ended.
    pub end: Position,
    /// Whether the log ended with a partial write, which is dropped.
    pub torn: bool,
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let what = what.into();
    move |e| OpenError::Io { what, reason: e.to_string() }
}

fn no_file(seq: u64) -> impl FnOnce(NoFile) -> OpenError {
    move |error| {
        let (NoFile::NotYet(error) | NoFile::Broken(error)) = error;
        io_error(file_name(seq))(error)
    }
}

/// Reads the log and prepares it for appends, in a new file.
pub(super) fn recover(
    disk: Arc<dyn Disk>,
    config: WalConfig,
    base: &RecoveryBase,
) -> Result<(SharedLog, RecoveryReport), OpenError> {
    disk.create_dir(Path::new(DIR)).map_err(io_error(format!("the directory {DIR}")))?;
    let pool = ChunkPool::new(config.chunk_bytes, config.spare_bytes_max);
    let (listing, scan, last) = read(&*disk, &pool, base)?;
    let report = RecoveryReport {
        files: last.map_or(0, |last| listing.files.iter().filter(|file| file.seq <= last.seq()).count()),
        frames: scan.frames,
        end: last.unwrap_or_default(),
        torn: scan.torn,
    };
    if let Some(file) = last.and_then(|last| listing.files.iter().find(|file| file.seq == last.seq())) {
        // The page cache may hold writes of a killed process that are not durable. From now on they count.
        file.file.sync().map_err(io_error(file_name(file.seq)))?;
    }
    let (files, file) = ready_files(disk, &config, &listing, last.map_or(0, |last| last.seq()))?;
    let start = Start {
        groups: scan.groups,
        older: scan.older,
        file,
        previous_end: last.map_or(0, Position::offset),
    };
    Ok((begin(config, pool, files, start), report))
}

fn begin(config: WalConfig, pool: Arc<ChunkPool>, files: Files, start: Start) -> SharedLog {
    let mut log = Log::new(pool.clone(), start, config.file_bytes);
    // The first frames of the new file say where the previous one ended.
    log.put_states();
    pool.trim();
    SharedLog::new(config, pool, files, log)
}

/// Creates an empty log whose first file is `seq`, with lives that follow `lives`; for a repair.
pub(super) fn create(
    disk: Arc<dyn Disk>,
    config: WalConfig,
    seq: u64,
    lives: Lives,
) -> Result<SharedLog, OpenError> {
    disk.create_dir(Path::new(DIR)).map_err(io_error(format!("the directory {DIR}")))?;
    let pool = ChunkPool::new(config.chunk_bytes, config.spare_bytes_max);
    let plan = FilePlan { file_bytes: config.file_bytes, spare_files_max: config.spare_files_max };
    let files = Files::new(disk, plan, RecoveredFiles { lives, ..RecoveredFiles::default() });
    files.make_first(seq, config.first_file_bytes).map_err(no_file(seq))?;
    let start = Start {
        groups: HashMap::new(),
        older: BTreeMap::new(),
        file: (seq, config.first_file_bytes),
        previous_end: 0,
    };
    Ok(begin(config, pool, files, start))
}

/// Checks that the log would open; changes nothing.
pub(super) fn judge(disk: &dyn Disk, base: &RecoveryBase) -> Result<(), OpenError> {
    let config = WalConfig::default();
    read(disk, &ChunkPool::new(config.chunk_bytes, config.chunk_bytes), base).map(|_| ())
}

/// Reads everything; returns the files, their content, and where the log ends.
fn read<'a>(
    disk: &dyn Disk,
    pool: &Arc<ChunkPool>,
    base: &'a RecoveryBase,
) -> Result<(Listing, Scan<'a>, Option<Position>), OpenError> {
    let listing = list(disk)?;
    if listing.others.iter().any(|name| name == REPAIR_NAME) {
        return Err(OpenError::RepairUnfinished);
    }
    check_row(&listing)?;
    let mut scan = Scan::new(base);
    let last = scan.files(pool, &listing.files)?;
    scan.check_groups()?;
    if last.is_none()
        && let Some(first) = listing.files.first()
        && first.seq > 1
    {
        // The current file always exists, so something has removed it.
        return Err(OpenError::Missing { file: file_name(first.seq - 1) });
    }
    Ok((listing, scan, last))
}

/// Log files have consecutive numbers: they are created in sequence, and only the oldest are removed.
fn check_row(listing: &Listing) -> Result<(), OpenError> {
    let gap = listing.files.windows(2).find(|pair| pair[0].seq + 1 != pair[1].seq);
    gap.map_or(Ok(()), |pair| Err(OpenError::Missing { file: file_name(pair[0].seq + 1) }))
}

/// The files to continue in, after the file `last`, with number and length of the first. Files that were
/// created ahead, or that an unacknowledged write started, get a new life.
fn ready_files(
    disk: Arc<dyn Disk>,
    config: &WalConfig,
    listing: &Listing,
    last: u64,
) -> Result<(Files, (u64, u64)), OpenError> {
    let mut found = RecoveredFiles { lives: Lives::new(config.salt), ..RecoveredFiles::default() };
    register_lives(&*disk, listing, &mut found.lives)?;
    found.free = listing.spares.iter().map(|seq| in_dir(&spare_name(*seq))).collect();
    let ahead: Vec<&LogFile> = listing.files.iter().filter(|file| file.seq > last).collect();
    let mut wanted = None;
    for file in &ahead {
        let fits = wanted.map_or(file.len >= config.first_file_bytes, |len| file.len == len);
        if !fits || !file.len.is_multiple_of(BLOCK_BYTES as u64) || file.len > u64::from(u32::MAX) {
            break;
        }
        let life = found.lives.next();
        let head = FileHead { seq: file.seq, file_bytes: file.len, life, closed_at: 0 };
        let open = disk
            .open(&in_dir(&file_name(file.seq)), OpenMode::Direct)
            .map_err(io_error(file_name(file.seq)))?;
        write_head(&*open, head).map_err(no_file(file.seq))?;
        found.ready.push((head, open));
        wanted = Some(next_file_bytes(file.len, config.file_bytes));
    }
    // The last one first: after a crash the next start must find no gap.
    for file in ahead[found.ready.len()..].iter().rev() {
        let path: PathBuf = set_aside(&*disk, file.seq).map_err(no_file(file.seq))?;
        add_free(&mut found.free, path);
    }
    disk.sync_dir(Path::new(DIR)).map_err(io_error(format!("the directory {DIR}")))?;
    let first = found.ready.first().map(|(head, _)| (head.seq, head.file_bytes));
    let plan = FilePlan { file_bytes: config.file_bytes, spare_files_max: config.spare_files_max };
    let files = Files::new(disk, plan, found);
    if let Some(first) = first {
        return Ok((files, first));
    }
    files.make_first(last + 1, config.first_file_bytes).map_err(no_file(last + 1))?;
    Ok((files, (last + 1, config.first_file_bytes)))
}

pub(super) fn register_lives(disk: &dyn Disk, listing: &Listing, lives: &mut Lives) -> Result<(), OpenError> {
    let mut register = |name: String, head: io::Result<FileHeadRead>| {
        if let FileHeadRead::Good(head) = head.map_err(io_error(name))? {
            lives.saw(head.life);
        }
        Ok::<(), OpenError>(())
    };
    for file in &listing.files {
        register(file_name(file.seq), read_head(&*file.file))?;
    }
    for seq in &listing.spares {
        let name = spare_name(*seq);
        let file = disk.open(&in_dir(&name), OpenMode::DirectRead);
        register(name, file.and_then(|file| read_head(&*file)))?;
    }
    Ok(())
}

/// What the frames add up to.
struct Scan<'a> {
    base: &'a RecoveryBase,
    groups: HashMap<RaftGroupId, GroupIndex>,
    older: BTreeMap<u64, FileTops>,
    frames: u64,
    torn: bool,
}

impl<'a> Scan<'a> {
    fn new(base: &'a RecoveryBase) -> Scan<'a> {
        Scan { base, groups: HashMap::new(), older: BTreeMap::new(), frames: 0, torn: false }
    }

    /// Reads the files; returns the end of the log.
    fn files(&mut self, pool: &Arc<ChunkPool>, files: &[LogFile]) -> Result<Option<Position>, OpenError> {
        let mut ends: Vec<Position> = Vec::new();
        for file in files {
            let mut reader = Reader::new(pool, file)?;
            let (end, torn) = self.file(&mut reader, ends.last().copied())?;
            ends.push(Position::new(file.seq, end));
            // If a later file has log, an earlier start has already dropped the torn end of this one.
            self.torn = torn || self.torn && end == FILE_HEAD_BYTES;
        }
        let last = ends.iter().copied().rfind(|end| end.offset() > FILE_HEAD_BYTES);
        let last_seq = last.map_or(0, Position::seq);
        self.older.retain(|seq, _| *seq <= last_seq);
        // What follows the end is unfinished, unless flipping one bit makes it intact.
        let unfinished = files.iter().zip(&ends).filter(|(file, _)| file.seq >= last_seq);
        for (file, end) in unfinished.take(2) {
            let mut reader = Reader::new(pool, file)?;
            if let Some((offset, _)) = reader.single_wrong_bit(end.offset())? {
                return Err(damaged(file.seq, offset, "a single bit is wrong, which no torn write leaves"));
            }
        }
        Ok(last)
    }

    /// Reads the segments of one file; returns the offset after the last good one, and whether another one
    /// was started there.
    fn file(
        &mut self,
        reader: &mut Reader<'_>,
        previous: Option<Position>,
    ) -> Result<(usize, bool), OpenError> {
        let seq = reader.file.seq;
        // A file gets its name once its header is durable.
        let Some(header) = reader.header else {
            return Err(damaged(seq, 0, "the file has no header, or that of another file"));
        };
        if reader.file.len < header.file_bytes {
            // No crash causes this. What the log itself says of its end decides, as for any torn tail.
            tracing::error!(
                file = file_name(seq),
                bytes = reader.file.len,
                bytes_made = header.file_bytes,
                "a log file is truncated: anything after its end is lost, unless a backup has it"
            );
        }
        if let (Some(head), Some(previous)) = (reader.head(FILE_HEAD_BYTES)?, previous)
            && head.previous_end != previous.offset()
        {
            let reason = "the next file records another end of the log of this one";
            return Err(damaged(previous.seq(), previous.offset(), reason));
        }
        self.older.insert(seq, FileTops { bytes: reader.file.len, tops: HashMap::new() });
        let mut at = FILE_HEAD_BYTES;
        while let SegmentRead::Whole { head, bytes, frames } = reader.segment(at)? {
            for (frame, range) in frames {
                let payload = bytes.slice(range.start + FRAME_HEAD_BYTES..range.end);
                self.frame(frame, Position::new(seq, at + range.start), payload)?;
            }
            at += align_up(head.bytes());
        }
        if header.closed_at > 0 {
            let reason = "the file records another end of its log";
            let end = header.closed_at as usize;
            return if at == end { Ok((at, false)) } else { Err(damaged(seq, at.min(end), reason)) };
        }
        let (torn, mark) = reader.marks_from(at)?;
        if mark.is_some_and(|mark| mark > Position::new(seq, at)) {
            return Err(damaged(seq, at, "a later part records that this one was durable"));
        }
        Ok((at, torn))
    }

    fn frame(&mut self, head: FrameHead, at: Position, payload: Bytes) -> Result<(), OpenError> {
        self.frames += 1;
        if head.kind == FrameKind::Seal {
            return Ok(());
        }
        let index = self.groups.entry(head.group).or_default();
        match head.kind {
            FrameKind::Seal => {}
            FrameKind::Vote => index.vote = Some(Bytes::copy_from_slice(&payload)),
            FrameKind::Truncate => index.truncate_after((head.entry_kind != 0).then_some(head.id)),
            FrameKind::Purge => index.purge(head.id),
            FrameKind::GroupState => {
                if head.entry_kind & 1 != 0 {
                    index.purge(head.id);
                }
                if head.entry_kind & 2 != 0 {
                    index.vote = Some(Bytes::copy_from_slice(&payload));
                }
            }
            FrameKind::Entry => {
                let flushed = self.base.flushed.get(&head.group).copied();
                let keep = flushed.is_none_or(|flushed| head.id.index > flushed);
                put_entry(index, &head, at, &payload, keep)?;
                let top = self.older.entry(at.seq()).or_default().tops.entry(head.group).or_default();
                *top = (*top).max(head.id.index);
            }
        }
        let index = self.groups.entry(head.group).or_default();
        if let Some(committed) = head.committed.checked_sub(1).and_then(|last| index.log_id(last)) {
            index.committed = index.committed.max(Some(committed));
        }
        Ok(())
    }

    /// No group may lack an entry that it has not purged, or be missing altogether.
    fn check_groups(&self) -> Result<(), OpenError> {
        let mut groups: Vec<(&RaftGroupId, &GroupIndex)> = self.groups.iter().collect();
        groups.sort_by_key(|(group, _)| **group);
        for (&group, index) in groups {
            let expected = index.purged.map_or(0, |id| id.index + 1);
            if index.first != expected {
                return Err(OpenError::EntriesMissing { group, first: expected, last: index.first - 1 });
            }
        }
        let mut flushed: Vec<RaftGroupId> = self.base.flushed.keys().copied().collect();
        flushed.sort();
        match flushed.into_iter().find(|group| !self.groups.contains_key(group)) {
            Some(group) => Err(OpenError::GroupMissing { group }),
            None => Ok(()),
        }
    }
}

fn put_entry(
    index: &mut GroupIndex,
    head: &FrameHead,
    at: Position,
    payload: &Bytes,
    keep: bool,
) -> Result<(), OpenError> {
    if head.id.index < index.end() {
        return Err(damaged(at.seq(), at.offset(), "an entry does not follow the one before it"));
    }
    if head.id.index > index.end() {
        // The entries between were in files that are recycled; a purge mark that follows must cover them.
        index.slots.clear();
        index.first = head.id.index;
    }
    let kept = || match payload.len() {
        0..=COPIED_BYTES_MAX => Bytes::copy_from_slice(payload),
        _ => payload.clone(),
    };
    index.slots.push_back(EntrySlot {
        term: head.id.term,
        kind: head.entry_kind,
        at,
        payload_bytes: payload.len() as u32,
        payload: keep.then(kept),
    });
    Ok(())
}

pub(super) fn damaged(seq: u64, offset: usize, reason: &str) -> OpenError {
    OpenError::Damaged { file: file_name(seq), offset, reason: reason.to_string() }
}
