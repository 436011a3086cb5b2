//! openraft's log storage on the node's shared write-ahead log.
//!
//! Votes, the committed mark, truncations, purges and entries of every group are frames of the one log, in
//! the order of the calls, so a vote can never be older on disk than an entry that follows it.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds, RangeInclusive},
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use futures::Stream;
use millstream_model::LogId;
use millstream_store::wal::{Draft, GroupLog, LogEntry};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    alias::{EntryOf, VoteOf},
    entry::EntryPayload as Payload,
    impls::leader_id_std::LeaderId,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use crate::{
    command::Command,
    config::{RaftLogId, TypeConfig, from_raft, to_raft},
    membership,
};

type Entry = EntryOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
pub(crate) const KIND_MEMBERSHIP: u8 = 2;

/// Most bytes of entries that one read returns, beyond the first entry.
const READ_BYTES_MAX: usize = 4 << 20;
/// Length of an encoded vote: term u64, node u64, committed u8.
const VOTE_BYTES: usize = 17;

/// The log of one group.
#[derive(Clone)]
pub struct LogStore(GroupLog);

impl LogStore {
    /// The log of one group, in the write-ahead log that `log` belongs to.
    pub fn new(log: GroupLog) -> LogStore {
        LogStore(log)
    }

    /// Whether entries were purged, which requires a checkpoint.
    pub(crate) fn is_cut(&self) -> bool {
        self.0.state().purged.is_some()
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self.0.read(start..end, bytes_max).map_err(io::Error::other)?;
        entries.into_iter().map(from_log).collect()
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> [u8; VOTE_BYTES] {
    let mut out = [0; VOTE_BYTES];
    out[..8].copy_from_slice(&vote.leader_id.term.to_le_bytes());
    out[8..16].copy_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    out[16] = vote.committed.into();
    out
}

pub(crate) fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    let bytes: &[u8; VOTE_BYTES] = bytes
        .try_into()
        .map_err(|_| io::Error::other(format!("a vote has {VOTE_BYTES} bytes, not {}", bytes.len())))?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    Ok(Vote { leader_id: LeaderId { term: word(0), voted_for: word(8) }, committed: bytes[16] != 0 })
}

fn to_draft(entry: Entry) -> Draft<Command> {
    let (kind, payload) = match entry.payload {
        Payload::Blank => (KIND_BLANK, Command::encoded(Default::default())),
        Payload::Normal(command) => (KIND_COMMAND, command),
        Payload::Membership(m) => (KIND_MEMBERSHIP, Command::encoded(membership::encode(&m).into())),
    };
    Draft { id: from_raft(&entry.log_id), kind, payload }
}

fn from_log(entry: LogEntry) -> io::Result<Entry> {
    let payload = match entry.kind {
        KIND_BLANK => Payload::Blank,
        KIND_COMMAND => Payload::Normal(Command::encoded(entry.payload)),
        KIND_MEMBERSHIP => Payload::Membership(membership::decode(&entry.payload).map_err(io::Error::other)?),
        other => return Err(io::Error::other(format!("entry {} has the unknown kind {other}", entry.id))),
    };
    Ok(Entry { log_id: to_raft(entry.id), payload })
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// An iterator over entries that reads a few MiB at a time: after a restart the whole log may have to be
/// applied.
struct Entries {
    log: GroupLog,
    next: u64,
    end: u64,
    read: vec::IntoIter<LogEntry>,
}

impl Stream for Entries {
    type Item = io::Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.read.len() == 0 && self.next < self.end {
            match self.log.read(self.next..self.end, READ_BYTES_MAX) {
                Ok(entries) => self.read = entries.into_iter(),
                Err(error) => return Poll::Ready(Some(Err(io::Error::other(error)))),
            }
        }
        let Some(entry) = self.read.next() else { return Poll::Ready(None) };
        self.next = entry.id.index + 1;
        Poll::Ready(Some(from_log(entry)))
    }
}

/// The last entry of each term in `first..=last`.
///
/// This is what openraft's own search returns and relies on, although the trait's documentation speaks of
/// first entries. Only terms are compared, so nothing is read from disk.
fn key_log_ids(first: LogId, last: LogId, term_at: impl Fn(u64) -> Option<u64>) -> io::Result<Vec<LogId>> {
    assert!(first <= last, "a search from {first} to {last}");
    let term =
        |index| term_at(index).ok_or_else(|| io::Error::other(format!("the log has no entry {index}")));
    let mut ids = Vec::new();
    let mut newest = first;
    while newest.term < last.term {
        // The entry at `low` has the newest known term, the one at `high` a later one.
        let (mut low, mut high) = (newest.index, last.index);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if term(middle)? > newest.term { high = middle } else { low = middle }
        }
        ids.push(LogId::new(newest.term, low));
        newest = LogId::new(term(high)?, high);
    }
    ids.push(last);
    Ok(ids)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        // openraft accepts the rest of a range whose beginning is purged.
        let first = self.0.state().purged.map_or(0, |purged| purged.index + 1);
        self.read(start.max(first), end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.0.state().vote.as_deref().map(decode_vote).transpose()
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (next, end) = bounds(&range);
        Entries { log: self.0.clone(), next, end, read: Vec::new().into_iter() }
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> io::Result<Vec<RaftLogId>> {
        let ids =
            key_log_ids(from_raft(range.start()), from_raft(range.end()), |index| self.0.term_at(index));
        Ok(ids?.into_iter().map(to_raft).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.0.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(to_raft),
            last_log_id: state.last.or(state.purged).map(to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        let done = move |result: Result<(), _>| {
            // The receiver is gone only when the group shuts down.
            let _ = done.send(result);
        };
        self.0.save_vote(&encode_vote(vote), done).map_err(io::Error::other)?;
        durable.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        if let Some(id) = committed {
            self.0.save_committed(from_raft(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.0.state().committed.map(to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let done = move |result: Result<(), _>| callback.io_completed(result.map_err(io::Error::other));
        self.0.append(entries.into_iter().map(to_draft), done).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.0.truncate_after(last.as_ref().map(from_raft)).map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.0.purge(from_raft(&upto)).map_err(io::Error::other)
    }
}
