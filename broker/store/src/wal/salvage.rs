//! What can be had of a log in which something is damaged or missing.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use millstream_model::{GroupId, LogId};

use super::{
    inspect::{FileReport, Found, FrameState, ProblemKind},
    layout::{FrameHead, FrameKind},
};

/// Where an entry's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) offset: usize,
    pub(super) payload_bytes: usize,
}

/// An entry that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) term: u64,
    pub(super) kind: u8,
    pub(super) place: Place,
}

/// A group as far as it is there.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupSalvage {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<u64>,
    pub(super) entries: BTreeMap<u64, Kept>,
}

/// What a group's log has, and what a repair cannot keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry that a repaired log has.
    pub last: Option<LogId>,
    /// First and last index of entries that are in no file or damaged, and that state and runs do not have either.
    pub missing: Option<(u64, u64)>,
    /// First and last index of entries that are there and cannot be used, because those are missing.
    pub behind_missing: Option<(u64, u64)>,
}

impl GroupReport {
    /// Number of entries that a repair without other nodes loses.
    pub fn lost(&self) -> u64 {
        [self.missing, self.behind_missing].iter().flatten().map(|(first, last)| last - first + 1).sum()
    }
}

/// What the frames of the log add up to, with holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Salvage {
    pub(super) groups: BTreeMap<GroupId, GroupSalvage>,
    torn_in: Option<u64>,
    frames_bad: bool,
}

impl Salvage {
    pub(super) fn add(&mut self, seq: u64, found: Found) {
        match found {
            // It lasts to the end of the file; a file that has a log behind it was begun later.
            Found::Torn => self.torn_in = Some(seq),
            Found::Frame { state: FrameState::Bad, .. } => self.frames_bad |= self.torn_in != Some(seq),
            Found::Frame { .. } if self.torn_in == Some(seq) => {}
            Found::Frame { offset, head, payload, .. } => {
                let place = Place { seq, offset, payload_bytes: payload.len() };
                self.frame(&head, place, payload);
            }
        }
    }

    fn frame(&mut self, head: &FrameHead, place: Place, payload: Bytes) {
        if head.kind == FrameKind::Seal {
            return;
        }
        let group = self.groups.entry(head.group).or_default();
        match head.kind {
            FrameKind::Seal => {}
            FrameKind::Vote => group.vote = Some(Bytes::copy_from_slice(&payload)),
            FrameKind::Truncate => {
                let end = if head.entry_kind == 0 { 0 } else { head.id.index + 1 };
                group.entries.split_off(&end);
            }
            FrameKind::Purge => group.purge(head.id),
            FrameKind::GroupState => {
                if head.entry_kind & 1 != 0 {
                    group.purge(head.id);
                }
                if head.entry_kind & 2 != 0 {
                    group.vote = Some(Bytes::copy_from_slice(&payload));
                }
            }
            FrameKind::Entry => {
                // Entries from here on that are there already were truncated, by a frame that is not.
                group.entries.split_off(&head.id.index);
                let kept = Kept { term: head.id.term, kind: head.entry_kind, place };
                group.entries.insert(head.id.index, kept);
            }
        }
        group.committed = group.committed.max(head.committed.checked_sub(1));
    }

    /// Whether anything that was durable, and may have been a vote, cannot be had.
    pub(super) fn votes_uncertain(&self, files: &[FileReport]) -> bool {
        let gone = |file: &FileReport| {
            file.problems.iter().any(|problem| match problem.kind {
                ProblemKind::Torn => false,
                ProblemKind::Header => true,
                ProblemKind::Short => true,
                // With nothing bad in it, a frame that was there would have been seen.
                ProblemKind::Damaged => !problem.frames_bad.is_empty() || problem.frames_good == 0,
            })
        };
        let gap = files.windows(2).any(|pair| pair[0].seq + 1 != pair[1].seq);
        self.frames_bad || gap || files.iter().any(gone)
    }

    /// Drops what cannot be used: a group's log ends where its first entry is missing. What state and runs have
    /// (`covered`) need not be in the log.
    pub(super) fn settle(&mut self, covered: &HashMap<GroupId, LogId>) -> Vec<GroupReport> {
        for (group, id) in covered {
            self.groups.entry(*group).or_default().skip_to(*id);
        }
        self.groups.iter_mut().map(|(group, salvage)| salvage.settle(*group)).collect()
    }
}

impl GroupSalvage {
    fn purge(&mut self, upto: LogId) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            self.entries = self.entries.split_off(&(upto.index + 1));
        }
    }

    /// Goes on behind what is covered if the log itself cannot be followed up to there.
    fn skip_to(&mut self, covered: LogId) {
        let first = self.purged.map_or(0, |id| id.index + 1);
        if (first..=covered.index).any(|index| !self.entries.contains_key(&index)) {
            self.purge(covered);
        }
    }

    fn settle(&mut self, group: GroupId) -> GroupReport {
        let first = self.purged.map_or(0, |id| id.index + 1);
        let mut end = first;
        while self.entries.contains_key(&end) {
            end += 1;
        }
        let behind = self.entries.split_off(&end);
        let ends = behind.first_key_value().zip(behind.last_key_value());
        let behind_missing = ends.map(|((first, _), (last, _))| (*first, *last));
        // What was known to be committed was there, even if no entry of it is.
        let committed = self.committed.filter(|&index| index >= end);
        let missing = match behind_missing {
            Some((first, _)) => Some((end, first - 1)),
            None => committed.map(|index| (end, index)),
        };
        self.committed = self.committed.map(|index| index.min(end.saturating_sub(1)));
        let last = self.entries.last_key_value().map(|(index, kept)| LogId::new(kept.term, *index));
        GroupReport { group, purged: self.purged, last, missing, behind_missing }
    }
}
