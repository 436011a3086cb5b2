//! What can be had of a log in which something is damaged or missing.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};

use super::{
    inspect::{FileReport, Found, FrameState, ProblemKind},
    layout::{FrameHead, FrameKind},
};

/// Groups are numbered without a gap; more than a cluster can have are no groups.
const GROUPS_MAX: u32 = 4096;

/// A bad entry that says that it lies further behind the last good one is not believed.
const BAD_IN_A_ROW_MAX: u64 = 10_000;

/// Where an entry's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) offset: usize,
    pub(super) payload_bytes: usize,
}

/// Where the content of a kept entry is.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In a file of the log.
    File(Place),
    /// Nowhere any more: it is written again.
    Given(Bytes),
}

/// An entry that a repaired log has.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) term: u64,
    pub(super) kind: u8,
    pub(super) source: Source,
}

/// A group as far as it is there.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupSalvage {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<u64>,
    pub(super) entries: BTreeMap<u64, Kept>,
    /// The largest term of anything that was found, of use or not.
    term_max: u64,
    /// What the log says of who belongs to the group, of use or not.
    memberships: Vec<Bytes>,
    /// Entries may be gone behind the last that was found.
    end_uncertain: bool,
}

/// What a group's log has, and what a repair cannot keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: RaftGroupId,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry that a repaired log has.
    pub last: Option<LogId>,
    /// First and last index of entries that are in no file or damaged, and that state and runs do not have either.
    pub missing: Option<(u64, u64)>,
    /// First and last index of entries that are there and cannot be used, because those are missing.
    pub behind_missing: Option<(u64, u64)>,
    /// Whether there may have been entries behind the last: a damaged place may have held them, and nothing behind it
    /// tells.
    pub end_uncertain: bool,
}

impl GroupReport {
    /// Number of entries that a repair without other nodes loses.
    pub fn lost(&self) -> u64 {
        [self.missing, self.behind_missing].iter().flatten().map(|(first, last)| last - first + 1).sum()
    }
}

/// What a group's replica would start from, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The newest vote.
    pub vote: Option<Bytes>,
    /// The largest term of an entry or mark.
    pub term_max: u64,
    /// Everything that log and checkpoint say of who belongs to the group, of use or not.
    pub memberships: Vec<Bytes>,
}

/// What is written for groups that have lost what they began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refound {
    /// Place of a group's first entry.
    pub id: LogId,
    /// Its kind.
    pub kind: u8,
    /// Its content: who belongs to the group.
    pub members: Bytes,
    /// A vote that is no older than any that was given.
    pub vote: Bytes,
}

/// What the frames of the log add up to, with holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Salvage {
    pub(super) groups: BTreeMap<RaftGroupId, GroupSalvage>,
    /// Kind of the entries whose content says who belongs to the group.
    membership_kind: Option<u8>,
    torn_in: Option<u64>,
    frames_bad: bool,
    /// The last file with a damaged place that may have held groups that nothing else tells of: the next file would, for
    /// each begins with the votes of all.
    others_uncertain_in: Option<u64>,
}

impl Salvage {
    pub(super) fn new(membership_kind: Option<u8>) -> Salvage {
        Salvage { membership_kind, ..Salvage::default() }
    }

    pub(super) fn add(&mut self, seq: u64, found: Found) {
        match found {
            // It lasts to the end of the file; a file that has a log behind it was begun later.
            Found::Torn => self.torn_in = Some(seq),
            Found::Gone => self.doubt_all(seq),
            Found::Frame { head, state: FrameState::Bad, .. } if self.torn_in != Some(seq) => {
                self.frames_bad = true;
                self.doubt(seq, &head);
            }
            Found::Frame { .. } if self.torn_in == Some(seq) => {}
            Found::Frame { offset, head, payload, .. } => {
                let place = Place { seq, offset, payload_bytes: payload.len() };
                self.frame(&head, place, payload);
            }
        }
    }

    /// A frame is bad: what it says of itself counts only where it fits to what is known otherwise.
    fn doubt(&mut self, seq: u64, head: &FrameHead) {
        let Some(group) = self.groups.get_mut(&head.group) else {
            // The first entry of a group; nothing of it can have been in front.
            let is_first = head.kind == FrameKind::Entry && head.id == LogId::default();
            if !is_first {
                self.doubt_all(seq);
            }
            return;
        };
        let end = group
            .entries
            .last_key_value()
            .map(|(index, _)| index + 1)
            .max(group.purged.map(|id| id.index + 1));
        let ahead = head.id.index.checked_sub(end.unwrap_or_default());
        match head.kind {
            FrameKind::Vote | FrameKind::Seal if head.id == LogId::default() => {}
            FrameKind::Entry if ahead.is_some_and(|ahead| ahead < BAD_IN_A_ROW_MAX) => {
                group.end_uncertain = true
            }
            _ => self.doubt_all(seq),
        }
    }

    fn doubt_all(&mut self, seq: u64) {
        self.others_uncertain_in = Some(seq);
        self.groups.values_mut().for_each(|group| group.end_uncertain = true);
    }

    fn frame(&mut self, head: &FrameHead, place: Place, payload: Bytes) {
        if head.kind == FrameKind::Seal {
            return;
        }
        let group = self.groups.entry(head.group).or_default();
        group.term_max = group.term_max.max(head.id.term);
        match head.kind {
            FrameKind::Seal => {}
            FrameKind::Vote => {
                group.vote = Some(Bytes::copy_from_slice(&payload));
                self.others_uncertain_in = self.others_uncertain_in.filter(|damaged| *damaged >= place.seq);
            }
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
                // If any are gone in front of it, its index tells.
                group.end_uncertain = false;
                // Entries from here on that are there already were truncated, by a frame that is not.
                group.entries.split_off(&head.id.index);
                let kept = Kept { term: head.id.term, kind: head.entry_kind, source: Source::File(place) };
                group.entries.insert(head.id.index, kept);
                if Some(head.entry_kind) == self.membership_kind {
                    group.memberships.push(Bytes::copy_from_slice(&payload));
                }
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

    /// Whether a damaged place may have held groups that nothing else tells of.
    pub(super) fn others_uncertain(&self) -> bool {
        self.others_uncertain_in.is_some()
    }

    /// Leaves out what state and runs have (`covered`) where the log itself cannot be followed up to there.
    pub(super) fn skip(&mut self, covered: &HashMap<RaftGroupId, LogId>) {
        for (group, id) in covered {
            self.groups.entry(*group).or_default().skip_to(*id);
        }
    }

    /// What each group's replica would start from. `checkpoints` is, of each group that has one, what it says of who
    /// belongs to the group.
    pub(super) fn beginnings(
        &self,
        checkpoints: &BTreeMap<RaftGroupId, Option<Bytes>>,
    ) -> BTreeMap<RaftGroupId, Beginning> {
        let beginning = |(group, salvage): (&RaftGroupId, &GroupSalvage)| {
            let of_checkpoint = checkpoints.get(group).into_iter().flatten();
            let memberships = salvage.memberships.iter().chain(of_checkpoint).cloned().collect();
            let purged = salvage.purged.map_or(0, |id| id.term);
            let term_max = salvage.term_max.max(purged);
            (*group, Beginning { vote: salvage.vote.clone(), term_max, memberships })
        };
        self.groups.iter().map(beginning).collect()
    }

    /// Gives the groups that begin nowhere their first entry again, and every group a vote that is no older than
    /// anything that it had; gives those that needed the entry. Of groups that nothing is left of, only a log that has
    /// lost something (`damaged`) had any.
    pub(super) fn refound(
        &mut self,
        refound: &Refound,
        checkpoints: &BTreeMap<RaftGroupId, Option<Bytes>>,
        damaged: bool,
    ) -> Vec<RaftGroupId> {
        let last = self.groups.keys().next_back().filter(|last| damaged && last.0 < GROUPS_MAX);
        if let Some(RaftGroupId(last)) = last.copied() {
            for id in 0..last {
                self.groups.entry(RaftGroupId(id)).or_default();
            }
        }
        let mut founded = Vec::new();
        for (group, salvage) in &mut self.groups {
            let begins = salvage.begins() || checkpoints.contains_key(group);
            if !begins && (damaged || salvage.is_known()) {
                let source = Source::Given(refound.members.clone());
                let first = Kept { term: refound.id.term, kind: refound.kind, source };
                salvage.entries.insert(refound.id.index, first);
                founded.push(*group);
            }
            if begins || salvage.is_known() {
                salvage.vote = Some(refound.vote.clone());
            }
        }
        founded
    }

    /// Drops what cannot be used: a group's log ends where its first entry is missing.
    pub(super) fn settle(&mut self) -> Vec<GroupReport> {
        self.groups.iter_mut().map(|(group, salvage)| salvage.settle(*group)).collect()
    }

    /// The groups that have something and do not say who belongs to them: no replica starts from that.
    pub(super) fn without_members(
        &self,
        checkpoints: &BTreeMap<RaftGroupId, Option<Bytes>>,
    ) -> Vec<RaftGroupId> {
        let Some(kind) = self.membership_kind else { return Vec::new() };
        let lacks = |(group, salvage): &(&RaftGroupId, &GroupSalvage)| {
            let in_checkpoint = checkpoints.get(group).is_some_and(Option::is_some);
            salvage.is_known() && !in_checkpoint && !salvage.entries.values().any(|kept| kept.kind == kind)
        };
        self.groups.iter().filter(lacks).map(|(group, _)| *group).collect()
    }
}

impl GroupSalvage {
    /// Whether anything is left of the group.
    fn is_known(&self) -> bool {
        self.vote.is_some() || self.committed.is_some() || self.purged.is_some() || !self.entries.is_empty()
    }

    /// Whether its log has its first entry, or goes on from a mark.
    fn begins(&self) -> bool {
        self.purged.is_some() || self.entries.contains_key(&0)
    }

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

    fn settle(&mut self, group: RaftGroupId) -> GroupReport {
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
        let end_uncertain = self.end_uncertain;
        GroupReport { group, purged: self.purged, last, missing, behind_missing, end_uncertain }
    }
}
