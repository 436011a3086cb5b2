//! openraft's storage test suite, on our log and machine over a real disk.

use std::{
    fmt::Debug,
    io,
    ops::{RangeBounds, RangeInclusive},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use futures::Stream;
use millstream_model::LogId;
use millstream_store::{
    disk::{Disk, OsDisk},
    tables::{Tables, TablesConfig},
    wal::{RecoveryBase, Wal},
};
use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageError,
    alias::{EntryOf, VoteOf},
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::node::{GROUP, Recorder, run, wal_config};
use crate::{
    LogStore,
    config::{RaftLogId, TypeConfig, to_raft},
    machine::{MachineAdapter, Progress},
};

type Entry = EntryOf<TypeConfig>;

/// The suite's logs begin at index 1. Ours begin at 0, as Raft's do, and refuse a gap; so a hidden blank
/// entry is prepended.
#[derive(Clone)]
struct FromAnywhere {
    log: LogStore,
    first: Arc<AtomicU64>,
}

impl RaftLogReader<TypeConfig> for FromAnywhere {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let first = self.first.load(SeqCst);
        let entries = self.log.try_get_log_entries(range).await?;
        Ok(entries.into_iter().filter(|entry| entry.log_id.index >= first).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        self.log.read_vote().await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.log.limited_get_log_entries(start.max(self.first.load(SeqCst)), end).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.log.entries_stream(range).await
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> io::Result<Vec<RaftLogId>> {
        self.log.get_key_log_ids(range).await
    }
}

impl RaftLogStorage<TypeConfig> for FromAnywhere {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let state = self.log.get_log_state().await?;
        if state.last_log_id.is_none()
            && let Some(first) = entries.first()
        {
            self.first.store(first.log_id.index, SeqCst);
            let blanks = (0..first.log_id.index).map(|index| Entry::new_blank(to_raft(LogId::new(0, index))));
            self.log.append(blanks, IOFlushed::noop()).await?;
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.log.purge(upto).await
    }
}

/// Creates an empty store for each test.
struct Stores;

/// Keeps a store's directory and its writer alive during a test.
struct OpenStore {
    _wal: Wal,
    _dir: TempDir,
}

impl StoreBuilder<TypeConfig, FromAnywhere, MachineAdapter, OpenStore> for Stores {
    async fn build(&self) -> Result<(OpenStore, FromAnywhere, MachineAdapter), StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir.path()).expect("a disk"));
        let (tables, _) = Tables::open(disk.clone(), TablesConfig::default()).expect("opens");
        let (wal, _) = Wal::open(disk, wal_config(), &RecoveryBase::default()).expect("opens");
        let log = FromAnywhere { log: LogStore::new(wal.group(GROUP)), first: Arc::default() };
        let (machine, progress) = (Arc::new(Recorder::default()), Arc::new(Progress::new()));
        let machine = MachineAdapter::open(GROUP, machine, Arc::new(tables), progress, false).expect("opens");
        Ok((OpenStore { _wal: wal, _dir: dir }, log, machine))
    }
}

#[test]
fn openraft_is_content_with_the_storage() {
    run(async {
        Suite::test_all(Stores).await.expect("every test of the suite passes");
    });
}
