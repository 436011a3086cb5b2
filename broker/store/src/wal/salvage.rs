//! What can be salvaged from a log with damaged or missing parts.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};

use super::{
    inspect::{FileReport, FrameState, ProblemKind, ScanItem},
    layout::{FrameHead, FrameKind},
};

/// Groups are numbered without a gap; an id beyond the limit of a cluster is garbage.
const GROUPS_MAX: u32 = 4096;

/// A damaged entry that claims an index further than this after the last good one is ignored.
const BAD_IN_A_ROW_MAX: u64 = 10_000;

/// Location of an entry's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) offset: usize,
    pub(super) payload_bytes: usize,
}

/// Where the content of a kept entry comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In a file of the log.
    File(Place),
    /// Lost: it is recreated.
    Given(Bytes),
}

/// An entry that the repaired log will have.
#[derive(Clone, Debug)]
pub(super) struct KeptEntry {
    pub(super) term: u64,
    pub(super) kind: u8,
    pub(super) source: Source,
}

/// The remains of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupSalvage {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<u64>,
    pub(super) entries: BTreeMap<u64, KeptEntry>,
    /// The largest term found in any frame, usable or not.
    term_max: u64,
    /// The membership entries in the log, usable or not.
    memberships: Vec<Bytes>,
    /// Entries after the last one found may be lost.
    end_uncertain: bool,
}

/// The entries that a group's log has, and those that a repair cannot keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: RaftGroupId,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry of the repaired log.
    pub last: Option<LogId>,
    /// First and last index of entries that are missing or damaged in the log and not covered by checkpoint
    /// and runs.
    pub missing: Option<(u64, u64)>,
    /// First and last index of entries that exist but are unusable because of those.
    pub behind_missing: Option<(u64, u64)>,
    /// Whether entries after the last one may be lost: a damaged place may have held them, and nothing that
    /// follows rules it out.
    pub end_uncertain: bool,
}

impl GroupReport {
    /// Number of entries that a repair without other nodes loses.
    pub fn lost(&self) -> u64 {
        [self.missing, self.behind_missing].iter().flatten().map(|(first, last)| last - first + 1).sum()
    }
}

/// What a group's replica would start from, as far as it is readable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The newest vote.
    pub vote: Option<Bytes>,
    /// The largest term of an entry or mark.
    pub term_max: u64,
    /// All memberships in the log and the checkpoint, usable or not.
    pub memberships: Vec<Bytes>,
}

/// What to write for groups that have lost their first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecreatedMembership {
    /// Place of a group's first entry.
    pub id: LogId,
    /// Its kind.
    pub kind: u8,
    /// Its content: the group's membership.
    pub members: Bytes,
    /// A vote at least as high as any that was given.
    pub vote: Bytes,
}

/// What the frames of the log add up to, with holes.
#[derive(Clone, Debug, Default)]
pub(super) struct Salvage {
    pub(super) groups: BTreeMap<RaftGroupId, GroupSalvage>,
    /// Kind of the membership entries.
    membership_kind: Option<u8>,
    torn_in: Option<u64>,
    frames_bad: bool,
    /// The last file with a damaged place that may have held groups without any other trace. A later file
    /// would show them, because each file begins with all votes.
    others_uncertain_in: Option<u64>,
}

impl Salvage {
    pub(super) fn new(membership_kind: Option<u8>) -> Salvage {
        Salvage { membership_kind, ..Salvage::default() }
    }

    pub(super) fn add(&mut self, seq: u64, found: ScanItem) {
        match found {
            // The damage extends to the end of the file; a file with log after it was started later.
            ScanItem::Torn => self.torn_in = Some(seq),
            ScanItem::Gone => self.doubt_all(seq),
            ScanItem::Frame { head, state: FrameState::Bad, .. } if self.torn_in != Some(seq) => {
                self.frames_bad = true;
                self.doubt(seq, &head);
            }
            ScanItem::Frame { .. } if self.torn_in == Some(seq) => {}
            ScanItem::Frame { offset, head, payload, .. } => {
                let place = Place { seq, offset, payload_bytes: payload.len() };
                self.frame(&head, place, payload);
            }
        }
    }

    /// Handles a bad frame: its claims count only where they agree with what is known otherwise.
    fn doubt(&mut self, seq: u64, head: &FrameHead) {
        let Some(group) = self.groups.get_mut(&head.group) else {
            // The first entry of a group; nothing can precede it.
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
                // If entries before it are lost, its index shows it.
                group.end_uncertain = false;
                // Entries from here on that are present were truncated, by a frame that is lost.
                group.entries.split_off(&head.id.index);
                let kept =
                    KeptEntry { term: head.id.term, kind: head.entry_kind, source: Source::File(place) };
                group.entries.insert(head.id.index, kept);
                if Some(head.entry_kind) == self.membership_kind {
                    group.memberships.push(Bytes::copy_from_slice(&payload));
                }
            }
        }
        group.committed = group.committed.max(head.committed.checked_sub(1));
    }

    /// Whether anything durable that may have been a vote is lost.
    pub(super) fn votes_uncertain(&self, files: &[FileReport]) -> bool {
        let gone = |file: &FileReport| {
            file.problems.iter().any(|problem| match problem.kind {
                ProblemKind::Torn => false,
                ProblemKind::Header => true,
                ProblemKind::Short => true,
                // Without a bad frame, every frame in it would have been seen.
                ProblemKind::Damaged => !problem.frames_bad.is_empty() || problem.frames_good == 0,
            })
        };
        let gap = files.windows(2).any(|pair| pair[0].seq + 1 != pair[1].seq);
        self.frames_bad || gap || files.iter().any(gone)
    }

    /// Whether a damaged place may have held groups without any other trace.
    pub(super) fn others_uncertain(&self) -> bool {
        self.others_uncertain_in.is_some()
    }

    /// Skips what checkpoint and runs have (`covered`) where the log itself has a gap below that.
    pub(super) fn skip(&mut self, covered: &HashMap<RaftGroupId, LogId>) {
        for (group, id) in covered {
            self.groups.entry(*group).or_default().skip_to(*id);
        }
    }

    /// What each group's replica would start from. `checkpoints` is the membership in each group's
    /// checkpoint.
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

    /// Recreates the first entry of groups that have none, and gives every group a vote at least as high as
    /// any that it gave; returns the groups that needed the entry. Groups without any trace exist only if the
    /// log has lost something (`damaged`).
    pub(super) fn recreate_first_entries(
        &mut self,
        recreated: &RecreatedMembership,
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
                let source = Source::Given(recreated.members.clone());
                let first = KeptEntry { term: recreated.id.term, kind: recreated.kind, source };
                salvage.entries.insert(recreated.id.index, first);
                founded.push(*group);
            }
            if begins || salvage.is_known() {
                salvage.vote = Some(recreated.vote.clone());
            }
        }
        founded
    }

    /// Drops what is unusable: a group's log ends before its first missing entry.
    pub(super) fn settle(&mut self) -> Vec<GroupReport> {
        self.groups.iter_mut().map(|(group, salvage)| salvage.settle(*group)).collect()
    }

    /// The groups that have something but no membership: no replica starts from that.
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

    /// Whether its log has its first entry, or continues from a mark.
    fn begins(&self) -> bool {
        self.purged.is_some() || self.entries.contains_key(&0)
    }

    fn purge(&mut self, upto: LogId) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
            self.entries = self.entries.split_off(&(upto.index + 1));
        }
    }

    /// Continues after what is covered if the log itself has a gap before that.
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
        // What was known to be committed existed, even if no entry of it is left.
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
