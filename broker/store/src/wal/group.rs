//! One Raft group's part of the log: an index of its entries and its vote and marks.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};

use super::{
    AppendError, Draft, FramePayload, LogEntry, ReadError, WalFailed,
    layout::{FrameHead, FrameKind, Position},
    log::{Log, SharedLog, VOTE_BYTES_MAX},
};

/// Where one entry is.
#[derive(Clone, Debug)]
pub(super) struct EntrySlot {
    pub(super) term: u64,
    pub(super) kind: u8,
    /// Place of the frame.
    pub(super) at: Position,
    /// Length of the payload.
    pub(super) payload_bytes: u32,
    /// The payload, while the log keeps it in memory.
    pub(super) payload: Option<Bytes>,
}

/// The in-memory state of one group.
///
/// Invariants: 1. `slots[i]` is the entry at index `first + i`. 2. If `purged` is set, `first` is the index
/// after it, and otherwise 0. 3. No payload below `released` is in memory.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) first: u64,
    pub(super) slots: VecDeque<EntrySlot>,
    released: u64,
}

impl GroupIndex {
    /// Index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| LogId::new(slot.term, self.end() - 1))
    }

    pub(super) fn slot(&self, index: u64) -> Option<&EntrySlot> {
        self.slots.get(index.checked_sub(self.first)? as usize)
    }

    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        let kept = self.slot(index).map(|slot| LogId::new(slot.term, index));
        kept.or(self.purged.filter(|purged| purged.index == index))
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let end = last.map_or(0, |id| id.index + 1);
        self.slots.truncate(end.saturating_sub(self.first) as usize);
        // Only recovery sees entries that begin after a hole; later frames may begin before it.
        self.first = self.first.min(end.max(self.purged.map_or(0, |id| id.index + 1)));
        self.released = self.released.min(self.end());
    }

    /// Drops the entries up to `upto`; a mark below an earlier one changes nothing.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        let first = upto.index + 1;
        // Otherwise the entries begin after a hole, which only recovery sees, and judges.
        if first > self.first {
            let gone = (first - self.first).min(self.slots.len() as u64);
            self.slots.drain(..gone as usize);
            self.first = first;
        }
    }

    /// Releases the payloads up to `upto` whose frames are on disk, that is, those before `durable`.
    pub(super) fn release(&mut self, upto: u64, durable: Position) {
        let from = self.released.max(self.first);
        for index in from..self.end().min(upto.saturating_add(1)) {
            let slot = &mut self.slots[(index - self.first) as usize];
            if slot.at >= durable {
                break;
            }
            slot.payload = None;
            self.released = index + 1;
        }
    }

    /// Checks the invariants; for tests.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        assert_eq!(
            self.first,
            self.purged.map_or(0, |id| id.index + 1),
            "entries begin behind the purge mark"
        );
        assert!(self.released <= self.end(), "{} of {}", self.released, self.end());
        assert!(
            self.slots.iter().zip(self.slots.iter().skip(1)).all(|(a, b)| a.term <= b.term && a.at < b.at)
        );
    }
}

/// A group's vote, marks and last entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The vote, as the caller encoded it.
    pub vote: Option<Bytes>,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry.
    pub last: Option<LogId>,
    /// An entry up to which everything was known to be committed.
    pub committed: Option<LogId>,
}

/// A handle to one group's part of the log. Calls of one group take effect, and become durable, in their order.
#[derive(Clone)]
pub struct GroupLog {
    pub(super) shared: Arc<SharedLog>,
    pub(super) group: RaftGroupId,
}

impl GroupLog {
    /// The group's vote and marks.
    pub fn state(&self) -> GroupState {
        self.shared.with(|log| {
            let Some(index) = log.groups.get(&self.group) else { return GroupState::default() };
            GroupState {
                vote: index.vote.clone(),
                purged: index.purged,
                last: index.last(),
                committed: index.committed,
            }
        })
    }

    /// Appends entries, all or none. They can be read when this returns; `done` is called, from the log's
    /// writer thread, when they are durable or the log has failed. Of the calls that one write made durable,
    /// the newest is notified first. Indexes are consecutive; the first of a group without entries and
    /// without a purge is 0.
    pub fn append<P: FramePayload>(
        &self,
        drafts: impl IntoIterator<Item = Draft<P>>,
        done: impl FnOnce(Result<(), WalFailed>) + Send + 'static,
    ) -> Result<(), AppendError> {
        let drafts: Vec<Draft<P>> = drafts.into_iter().collect();
        self.shared.change(|log| {
            self.check(log, &drafts)?;
            drafts.into_iter().for_each(|draft| self.append_one(log, draft));
            log.when_durable(Box::new(done));
            Ok(())
        })
    }

    fn check<P: FramePayload>(&self, log: &Log, drafts: &[Draft<P>]) -> Result<(), AppendError> {
        log.admit(self.group, 0)?;
        let end = log.groups.get(&self.group).map_or(0, GroupIndex::end);
        for (draft, expected) in drafts.iter().zip(end..) {
            log.admit(self.group, draft.payload.len())?;
            if draft.id.index != expected {
                return Err(AppendError::Gap { group: self.group, index: draft.id.index, expected });
            }
        }
        Ok(())
    }

    fn append_one<P: FramePayload>(&self, log: &mut Log, draft: Draft<P>) {
        let payload_bytes = draft.payload.len();
        let head = log.head(FrameKind::Entry, draft.kind, self.group, draft.id);
        let (at, payload) = log.put(head, payload_bytes, |out| draft.payload.write(out));
        let index = log.group(self.group);
        assert_eq!(draft.id.index, index.end(), "{} of {} is not the next entry", draft.id, self.group);
        assert!(
            index.last().is_none_or(|last| last.term <= draft.id.term),
            "{} of {} after {:?}",
            draft.id,
            self.group,
            index.last()
        );
        index.slots.push_back(EntrySlot {
            term: draft.id.term,
            kind: draft.kind,
            at,
            payload_bytes: payload_bytes as u32,
            payload: Some(payload),
        });
        log.note_top(at.seq(), self.group, draft.id.index);
    }

    /// Makes a vote durable; then `done` is called, from the log's writer thread.
    pub fn save_vote(
        &self,
        vote: &[u8],
        done: impl FnOnce(Result<(), WalFailed>) + Send + 'static,
    ) -> Result<(), AppendError> {
        if vote.len() > VOTE_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: vote.len(), bytes_max: VOTE_BYTES_MAX });
        }
        self.shared.change(|log| {
            log.admit(self.group, vote.len())?;
            let head = log.head(FrameKind::Vote, 0, self.group, LogId::default());
            log.put(head, vote.len(), |out| out.copy_from_slice(vote));
            // A copy, so that a long-lived vote does not keep a chunk alive.
            log.group(self.group).vote = Some(Bytes::copy_from_slice(vote));
            log.when_durable(Box::new(done));
            Ok(())
        })
    }

    /// Records that everything up to `id` is committed. It becomes durable with the group's next frame.
    pub fn save_committed(&self, id: LogId) {
        self.shared.with(|log| log.group(self.group).committed = Some(id));
    }

    /// Truncates the log after `last`, or completely.
    pub fn truncate_after(&self, last: Option<LogId>) -> Result<(), AppendError> {
        self.shared.change(|log| {
            log.admit(self.group, 0)?;
            let committed = log.group(self.group).committed;
            assert!(
                committed <= last,
                "{} is cut after {last:?}, and {committed:?} is committed",
                self.group
            );
            let head =
                log.head(FrameKind::Truncate, last.is_some().into(), self.group, last.unwrap_or_default());
            log.put(head, 0, |_| {});
            log.group(self.group).truncate_after(last);
            Ok(())
        })
    }

    /// Purges the entries up to `upto`, whose effects are in a checkpoint and in runs.
    pub fn purge(&self, upto: LogId) -> Result<(), AppendError> {
        self.shared.change(|log| {
            log.admit(self.group, 0)?;
            let head = log.head(FrameKind::Purge, 0, self.group, upto);
            log.put(head, 0, |_| {});
            log.group(self.group).purge(upto);
            Ok(())
        })
    }

    /// The entries of `range` from its start on: at least one if there is any, then as many as `max_bytes` of
    /// payload allow. Blocks if some are no longer in memory and must be read from disk.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, ReadError> {
        let slots = self.shared.with(|log| {
            let Some(index) = log.groups.get(&self.group) else { return Ok(Vec::new()) };
            if range.start < index.first && range.start < range.end && index.purged.is_some() {
                return Err(ReadError::Purged { group: self.group, index: range.start, first: index.first });
            }
            let mut bytes = 0;
            let mut slots = Vec::new();
            for at in range.start.max(index.first)..range.end.min(index.end()) {
                let slot = &index.slots[(at - index.first) as usize];
                bytes += slot.payload_bytes as usize;
                if bytes > max_bytes && !slots.is_empty() {
                    break;
                }
                slots.push((at, slot.clone()));
            }
            Ok(slots)
        })?;
        slots.into_iter().map(|(index, slot)| self.load(index, slot)).collect()
    }

    fn load(&self, index: u64, slot: EntrySlot) -> Result<LogEntry, ReadError> {
        let id = LogId::new(slot.term, index);
        let payload = match slot.payload {
            Some(payload) => payload,
            None => self.shared.read_payload(self.group, id, &slot)?,
        };
        Ok(LogEntry { id, kind: slot.kind, payload })
    }

    /// The term of an entry that is present, or of the last purged one.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.shared.with(|log| log.groups.get(&self.group)?.log_id(index)).map(|id| id.term)
    }

    /// Releases the durable payloads up to `upto`; later reads take them from disk.
    pub fn release_memory(&self, upto: u64) {
        let durable = self.shared.durable();
        self.shared.with(|log| log.group(self.group).release(upto, durable));
    }
}

/// The head of the group's next frame.
impl Log {
    pub(super) fn head(
        &mut self,
        kind: FrameKind,
        entry_kind: u8,
        group: RaftGroupId,
        id: LogId,
    ) -> FrameHead {
        let committed = self.group(group).committed.map_or(0, |id| id.index + 1);
        FrameHead { kind, entry_kind, group, committed, id }
    }
}
