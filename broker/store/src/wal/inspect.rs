//! Inspects a closed log in any state, without changing it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};

use super::{
    OpenError, RecoveryBase, WalConfig,
    layout::{
        FILE_HEAD_BYTES, FRAME_HEAD_BYTES, FileHead, FrameHead, FrameKind, FrameRead, SEGMENT_HEAD_BYTES,
        file_name, frame_bytes,
    },
    memory::ChunkPool,
    recovery,
    salvage::{Beginning, GroupReport, Place, RecreatedMembership, Salvage},
    scan::{LogFile, Reader, SegmentRead, list, wrong_bit_of_first},
};
use crate::disk::{BLOCK_BYTES, Disk, align_down, align_up};

/// Whether a frame is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// Its checksum matches.
    Good,
    /// It matches when this bit is flipped: the byte in the frame, and the bit in the byte.
    WrongBit(usize, u8),
    /// It does not match; the other fields are read from the damaged bytes.
    Bad,
}

/// A frame of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameRecord {
    /// Name of the file.
    pub file: String,
    /// Offset in the file, in bytes.
    pub offset: usize,
    /// What the frame is: `entry`, `vote`, `truncate`, `purge`, `state` or `seal`.
    pub kind: &'static str,
    /// The kind's second byte: an entry's own kind, otherwise flags.
    pub detail: u8,
    /// Id of the Raft group.
    pub group: RaftGroupId,
    /// Index and term.
    pub id: LogId,
    /// Last index known to be committed.
    pub committed: Option<u64>,
    /// The frame's payload.
    pub payload: Bytes,
    /// Whether the frame is intact.
    pub state: FrameState,
}

/// What is wrong at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The file has no header, or another file's.
    Header,
    /// The file is shorter than it was created.
    Short,
    /// A write that was unfinished when the broker stopped and was never acknowledged. Not a fault.
    Torn,
    /// Durable bytes have changed.
    Damaged,
}

/// A damaged place of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The kind of damage.
    pub kind: ProblemKind,
    /// Where, in bytes from the start of the file.
    pub range: Range<usize>,
    /// Frames in that place that are good, or have a single wrong bit.
    pub frames_good: usize,
    /// What the heads of the bad ones say.
    pub frames_bad: Vec<(RaftGroupId, LogId)>,
}

/// A log file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReport {
    /// File name.
    pub name: String,
    /// Sequence number.
    pub seq: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Life of the file, if its header is good.
    pub life: Option<u64>,
    /// Bytes of it that belong to the log, header included.
    pub used_bytes: usize,
    /// Number of good frames.
    pub frames: u64,
    /// First and last index of each group's entries.
    pub groups: BTreeMap<RaftGroupId, (u64, u64)>,
    /// What is wrong, by offset.
    pub problems: Vec<Problem>,
}

/// The state of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The log files, oldest first.
    pub files: Vec<FileReport>,
    /// Number of spare files.
    pub spares: usize,
    /// The error of opening the log; `None` if it opens.
    pub refused: Option<OpenError>,
    /// What each group has, and what a repair could not keep.
    pub groups: Vec<GroupReport>,
    /// Whether a damaged place may have held a vote: a repaired node of a cluster must not vote under its old
    /// id.
    pub votes_uncertain: bool,
    /// Whether a damaged place may have held groups that left no other trace: they are in no list here.
    pub others_uncertain: bool,
    /// Groups that have lost their first entry, which a repair writes again.
    pub recreated_groups: Vec<RaftGroupId>,
    /// Groups that would not start, even after a repair: their membership is lost.
    pub without_members: Vec<RaftGroupId>,
}

impl LogReport {
    /// Whether nothing is wrong with it.
    pub fn is_sound(&self) -> bool {
        let torn_only = |file: &FileReport| file.problems.iter().all(|p| p.kind == ProblemKind::Torn);
        self.refused.is_none()
            && self.recreated_groups.is_empty()
            && self.without_members.is_empty()
            && self.files.iter().all(torn_only)
    }
}

/// Returns what to write for groups of which only these remains are left.
pub(crate) type RecreateMembership<'a> =
    dyn Fn(&BTreeMap<RaftGroupId, Beginning>, bool) -> Option<RecreatedMembership> + 'a;

/// What is known from outside the log.
#[derive(Default)]
pub(crate) struct Known<'a> {
    /// For each group, the last entry whose batches are in runs.
    pub(crate) flushed: HashMap<RaftGroupId, u64>,
    /// For each group, the last entry that both its checkpoint and the runs cover.
    pub(crate) covered: HashMap<RaftGroupId, LogId>,
    /// For each group that has a checkpoint, the membership in it.
    pub(crate) checkpoints: BTreeMap<RaftGroupId, Option<Bytes>>,
    /// The kind of membership entries.
    pub(crate) membership_kind: Option<u8>,
    /// Recreates the membership of groups that have lost it, if possible; the flag says whether votes may be
    /// lost.
    pub(crate) recreate_membership: Option<&'a RecreateMembership<'a>>,
}

/// The log and what can be salvaged from it.
pub(crate) struct Inspected {
    pub(crate) report: LogReport,
    pub(super) salvage: Salvage,
    pub(super) next_seq: u64,
}

/// Reads and checks everything.
pub(crate) fn inspect(disk: &Arc<dyn Disk>, known: &Known<'_>) -> Result<Inspected, OpenError> {
    let pool = pool();
    let listing = list(&**disk)?;
    let mut salvage = Salvage::new(known.membership_kind);
    let mut files = Vec::new();
    for (i, file) in listing.files.iter().enumerate() {
        if i > 0 && listing.files[i - 1].seq + 1 != file.seq {
            salvage.add(file.seq, ScanItem::Gone);
        }
        let limit = durable_limit(&pool, file, listing.files.get(i + 1))?;
        files.push(scan(&pool, file, limit, &mut |found| salvage.add(file.seq, found))?);
    }
    if listing.files.is_empty() && !known.flushed.is_empty() {
        // There was one, since runs have its content.
        salvage.add(0, ScanItem::Gone);
    }
    let refused = recovery::judge(&**disk, &RecoveryBase { flushed: known.flushed.clone() }).err();
    let votes_uncertain = salvage.votes_uncertain(&files);
    let next_seq = listing.files.last().map_or(1, |file| file.seq + 1);
    salvage.skip(&known.covered);
    let beginnings = salvage.beginnings(&known.checkpoints);
    let recreated = known.recreate_membership.and_then(|recreate| recreate(&beginnings, votes_uncertain));
    // The vote written with it is higher than any that may be lost.
    let votes_uncertain = votes_uncertain && recreated.is_none();
    let recreated_groups = recreated
        .map(|recreated| salvage.recreate_first_entries(&recreated, &known.checkpoints, refused.is_some()))
        .unwrap_or_default();
    let groups = salvage.settle();
    let without_members = salvage.without_members(&known.checkpoints);
    let spares = listing.spares.len();
    let others_uncertain = salvage.others_uncertain();
    let report = LogReport {
        files,
        spares,
        refused,
        groups,
        votes_uncertain,
        others_uncertain,
        recreated_groups,
        without_members,
    };
    Ok(Inspected { report, salvage, next_seq })
}

/// Passes every frame of the log, oldest first, to `visit` until it returns to stop.
pub(crate) fn dump(
    disk: &Arc<dyn Disk>,
    visit: &mut dyn FnMut(FrameRecord) -> bool,
) -> Result<(), OpenError> {
    let pool = pool();
    let mut go_on = true;
    for file in &list(&**disk)?.files {
        scan(&pool, file, FILE_HEAD_BYTES, &mut |found| {
            if let (true, ScanItem::Frame { offset, head, payload, state }) = (go_on, found) {
                go_on = visit(record(file, offset, head, payload, state));
            }
        })?;
        if !go_on {
            break;
        }
    }
    Ok(())
}

fn pool() -> Arc<ChunkPool> {
    let config = WalConfig::default();
    ChunkPool::new(config.chunk_bytes, 2 * config.chunk_bytes)
}

fn record(file: &LogFile, offset: usize, head: FrameHead, payload: Bytes, state: FrameState) -> FrameRecord {
    let kind = match head.kind {
        FrameKind::Entry => "entry",
        FrameKind::Vote => "vote",
        FrameKind::Truncate => "truncate",
        FrameKind::Purge => "purge",
        FrameKind::GroupState => "state",
        FrameKind::Seal => "seal",
    };
    FrameRecord {
        file: file_name(file.seq),
        offset,
        kind,
        detail: head.entry_kind,
        group: head.group,
        id: head.id,
        committed: head.committed.checked_sub(1),
        payload,
        state,
    }
}

/// An item of a file.
pub(super) enum ScanItem {
    Frame {
        offset: usize,
        head: FrameHead,
        payload: Bytes,
        state: FrameState,
    },
    /// The rest is an unfinished write and does not count.
    Torn,
    /// A part that was durable and in which not even frame boundaries can be found, or that is missing.
    Gone,
}

/// Up to where a file was durable, according to its own marks and the next file.
fn durable_limit(pool: &Arc<ChunkPool>, file: &LogFile, next: Option<&LogFile>) -> Result<usize, OpenError> {
    let mut reader = Reader::new(pool, file)?;
    if let Some(header) = reader.header.filter(|header| header.closed_at > 0) {
        return Ok(header.closed_at as usize);
    }
    let own = reader.marks_from(FILE_HEAD_BYTES)?.1;
    let own = own.filter(|mark| mark.seq() == file.seq).map_or(FILE_HEAD_BYTES, |mark| mark.offset());
    let Some(next) = next else { return Ok(own) };
    let head = Reader::new(pool, next)?.head(FILE_HEAD_BYTES)?;
    Ok(head.map_or(own, |head| own.max(head.previous_end)))
}

/// Walks through one file. What lies after `limit` and is incomplete is torn.
fn scan(
    pool: &Arc<ChunkPool>,
    file: &LogFile,
    limit: usize,
    visit: &mut dyn FnMut(ScanItem),
) -> Result<FileReport, OpenError> {
    let mut reader = Reader::new(pool, file)?;
    let report = FileReport {
        name: file_name(file.seq),
        seq: file.seq,
        bytes: file.len,
        life: reader.header.map(|header| header.life),
        used_bytes: FILE_HEAD_BYTES,
        ..FileReport::default()
    };
    let mut scan = FileScan { report, limit, visit };
    scan.header(&reader);
    if reader.header.is_none()
        && let Some((_, head)) = reader.next_head(FILE_HEAD_BYTES)?
    {
        // Good or not, the life of the first segment is that of the log in this file.
        let (seq, file_bytes, life) = (file.seq, file.len, head.life);
        reader.header = Some(FileHead { seq, file_bytes, life, closed_at: 0 });
    }
    let mut at = FILE_HEAD_BYTES;
    loop {
        at = match reader.segment(at)? {
            SegmentRead::Whole { head, bytes, frames } => {
                for (frame, range) in frames {
                    let payload = bytes.slice(range.start + FRAME_HEAD_BYTES..range.end);
                    scan.frame(at + range.start, frame, payload, FrameState::Good);
                }
                scan.report.used_bytes = at + align_up(head.bytes());
                scan.report.used_bytes
            }
            other => match scan.broken(&mut reader, at, other)? {
                Some(next) => next,
                None => break,
            },
        };
    }
    let is_empty = scan.report.frames == 0;
    let is_gone = |problem: &Problem| match problem.kind {
        ProblemKind::Short => true,
        ProblemKind::Header => is_empty,
        ProblemKind::Torn | ProblemKind::Damaged => false,
    };
    if scan.report.problems.iter().any(is_gone) {
        (scan.visit)(ScanItem::Gone);
    }
    Ok(scan.report)
}

struct FileScan<'a> {
    report: FileReport,
    limit: usize,
    visit: &'a mut dyn FnMut(ScanItem),
}

impl FileScan<'_> {
    fn header(&mut self, reader: &Reader<'_>) {
        let problem = |kind, range| Problem { kind, range, frames_good: 0, frames_bad: Vec::new() };
        let len = reader.file.len as usize;
        match reader.header {
            None => self.report.problems.push(problem(ProblemKind::Header, 0..FILE_HEAD_BYTES.min(len))),
            Some(header) if (len as u64) < header.file_bytes => {
                self.report.problems.push(problem(ProblemKind::Short, len..header.file_bytes as usize));
            }
            Some(_) => {}
        }
    }

    fn frame(&mut self, offset: usize, head: FrameHead, payload: Bytes, state: FrameState) {
        if state != FrameState::Bad {
            self.report.frames += 1;
        }
        if head.kind == FrameKind::Entry && state != FrameState::Bad {
            let indexes = self.report.groups.entry(head.group).or_insert((head.id.index, head.id.index));
            *indexes = (indexes.0.min(head.id.index), indexes.1.max(head.id.index));
        }
        (self.visit)(ScanItem::Frame { offset, head, payload, state });
    }

    /// A place without an intact segment; returns the place of the next one, or `None` at the log's end.
    fn broken(
        &mut self,
        reader: &mut Reader<'_>,
        at: usize,
        segment: SegmentRead,
    ) -> Result<Option<usize>, OpenError> {
        let wrong_bit = reader.single_wrong_bit(at)?.is_some();
        let fixed_head = reader.fixed_head(at)?.map(|(head, _)| head);
        let next = reader.next_head(at + BLOCK_BYTES)?.map(|(next, _)| next);
        let file_end = align_down(reader.file.len as usize);
        let head = match segment {
            SegmentRead::Broken { head, .. } => Some(head),
            _ => fixed_head,
        };
        let frames_end = head.map(|head| (at + head.bytes()).min(file_end));
        let torn = at >= self.limit && !wrong_bit;
        if torn && next.is_none() && frames_end.is_none() {
            return Ok(None);
        }
        let end =
            frames_end.map(align_up).or(next).unwrap_or(self.limit.max(at + FILE_HEAD_BYTES)).min(file_end);
        if end <= at {
            return Ok(None);
        }
        if torn {
            (self.visit)(ScanItem::Torn);
        }
        let bytes = reader.bytes(at, end - at)?.unwrap_or_default();
        let (frames_good, frames_bad, all) = self.frames(at, &bytes[..frames_end.unwrap_or(end) - at], torn);
        let told_apart = all && frames_end.is_some();
        if !torn && !told_apart {
            (self.visit)(ScanItem::Gone);
        }
        let kind = if torn { ProblemKind::Torn } else { ProblemKind::Damaged };
        self.report.problems.push(Problem { kind, range: at..end, frames_good, frames_bad });
        self.report.used_bytes = end;
        // What a torn write left after its first hole does not count either.
        Ok((!torn || next.is_some()).then_some(end))
    }

    /// The frames of a damaged segment, for as long as the lengths can be followed. Returns the number of
    /// good ones, the heads of the bad ones, and whether these are all.
    fn frames(&mut self, at: usize, bytes: &[u8], torn: bool) -> (usize, Vec<(RaftGroupId, LogId)>, bool) {
        let (mut good, mut bad) = (0, Vec::new());
        let mut start = SEGMENT_HEAD_BYTES.min(bytes.len());
        while let Some((state, frame)) = repaired(&bytes[start..]) {
            let len = frame.len();
            let Some(head) = FrameHead::read_unchecked(&frame) else { break };
            let payload = frame.slice(FRAME_HEAD_BYTES..);
            match state {
                FrameState::Bad => bad.push((head.group, head.id)),
                _ => good += 1,
            }
            if torn {
                (self.visit)(ScanItem::Frame { offset: at + start, head, payload, state });
            } else {
                self.frame(at + start, head, payload, state);
            }
            start += len;
        }
        (good, bad, start == bytes.len())
    }
}

/// The frame at the start of `rest`, with its wrong bit corrected if it has exactly one; `None` if it does
/// not end within `rest`.
fn repaired(rest: &[u8]) -> Option<(FrameState, Bytes)> {
    let mut head = rest.get(..FRAME_HEAD_BYTES)?.to_vec();
    let state = match FrameHead::read(rest) {
        FrameRead::Good(_) => FrameState::Good,
        _ => wrong_bit_of_first(rest).map_or(FrameState::Bad, |(byte, bit)| FrameState::WrongBit(byte, bit)),
    };
    if let FrameState::WrongBit(byte @ 0..4, bit) = state {
        head[byte] ^= 1 << bit;
    }
    let mut frame = rest.get(..frame_bytes(&head)?)?.to_vec();
    if let FrameState::WrongBit(byte, bit) = state {
        frame[byte] ^= 1 << bit;
    }
    Some((state, frame.into()))
}

/// Reads the payload of an entry that the salvage kept.
pub(super) fn payload_at(
    pool: &Arc<ChunkPool>,
    file: &LogFile,
    place: Place,
) -> Result<Option<Bytes>, OpenError> {
    let block = align_down(place.offset);
    let len = FRAME_HEAD_BYTES + place.payload_bytes;
    let whole = align_up(place.offset + len) - block;
    let Some(bytes) = Reader::new(pool, file)?.bytes(block, whole)? else { return Ok(None) };
    let frame = repaired(&bytes[place.offset - block..place.offset - block + len]);
    let good = frame.filter(|(state, frame)| *state != FrameState::Bad && frame.len() == len);
    Ok(good.map(|(_, frame)| frame.slice(FRAME_HEAD_BYTES..)))
}
