//! Applies committed entries to a [`Machine`], and turns checkpoints into openraft's snapshots.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use millstream_model::{LogId, RaftGroupId};
use millstream_store::tables::{Checkpoint, Tables};
use openraft::{
    EntryPayload as Payload, OptionalSend, RaftSnapshotBuilder,
    alias::{SnapshotMetaOf, SnapshotOf},
    storage::{EntryResponder, RaftStateMachine, Snapshot as RaftSnapshot, SnapshotMeta},
};
use tokio::sync::watch;

use crate::{
    config::{RaftLogId, Reply, StoredMembership, TypeConfig, from_raft, to_raft},
    membership,
};

/// The bytes of a checkpoint are invalid.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint cannot be read: {0}")]
pub struct RestoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A group's replicated state.
///
/// Contract: `apply` is called once per command, in log order, from one task at a time; it depends only on
/// the state and the command, and never fails: a refusal is part of the reply. After a restart commands are
/// applied again from the checkpoint on.
pub trait Machine: Send + Sync + 'static {
    /// Applies the command of the entry at `id`.
    fn apply(&self, id: LogId, command: Bytes) -> Reply;
    /// Reports that everything up to `id`, blank and membership entries included, is applied.
    fn applied(&self, id: LogId);
    /// A snapshot of the whole state, to be written for [`restore`](Machine::restore) while commands are
    /// applied. Taking it is fast and needs little memory: a machine shares what it can with its snapshot.
    fn snapshot(&self) -> Snapshot;
    /// Replaces the state with one that is read piece by piece.
    fn restore(&self, state: &mut dyn Read) -> Result<(), RestoreError>;
}

/// A function that writes a machine's state, piece by piece.
pub type Snapshot = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send + Sync>;

/// The snapshot type for openraft: a checkpoint's file, or `None` if there is no newer one.
pub(crate) type CheckpointData = Option<Checkpoint>;

/// The header of a checkpoint, before the machine's state: u32 length of the membership's log id and
/// membership, then both.
fn encode_head(member: &StoredMembership) -> Vec<u8> {
    let members = membership::encode(member.membership());
    let mut out = Vec::with_capacity(members.len() + CHECKPOINT_HEAD_BYTES);
    let id = member.log_id().as_ref().map(from_raft);
    out.push(id.is_some().into());
    out.extend(id.unwrap_or_default().term.to_le_bytes());
    out.extend(id.unwrap_or_default().index.to_le_bytes());
    out.extend((members.len() as u32).to_le_bytes());
    out.extend(members);
    out
}

const CHECKPOINT_HEAD_BYTES: usize = 21;
/// Longest membership that is read: far more than a cluster's takes.
const MEMBERSHIP_BYTES_MAX: u32 = 1 << 20;

/// Reads the header.
fn decode_head(mut data: impl Read) -> io::Result<StoredMembership> {
    let mut head = [0; CHECKPOINT_HEAD_BYTES];
    data.read_exact(&mut head)?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let length = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
    if length > MEMBERSHIP_BYTES_MAX {
        return Err(io::Error::other(format!("the checkpoint's membership cannot have {length} bytes")));
    }
    let mut members = vec![0; length as usize];
    data.read_exact(&mut members)?;
    let members = membership::decode(&members).map_err(io::Error::other)?;
    let id = (head[0] != 0).then(|| to_raft(LogId::new(word(1), word(9))));
    Ok(StoredMembership::new(id, members))
}

/// The membership in a checkpoint, of which only the beginning may be given; `None` if it names no node.
pub(crate) fn checkpoint_members(data: &[u8]) -> Option<Bytes> {
    let stored = decode_head(data).ok()?;
    let members = stored.membership();
    members.voter_ids().next()?;
    Some(membership::encode(members).into())
}

/// openraft's state machine for one group.
pub(crate) struct MachineAdapter {
    group: RaftGroupId,
    machine: Arc<dyn Machine>,
    tables: Arc<Tables>,
    last_applied: Option<RaftLogId>,
    membership: StoredMembership,
    progress: Arc<Progress>,
}

/// The progress of a machine, for the holders of its group.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Index after the last applied entry.
    next: AtomicU64,
    /// Term of the newest applied blank entry: a leader's first.
    opened_term: watch::Sender<u64>,
    /// The error of each checkpoint that could not be written.
    checkpoint_failed: watch::Sender<Arc<str>>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let checkpoint_failed = watch::channel(Arc::from("")).0;
        Progress { next: AtomicU64::new(0), opened_term: watch::channel(0).0, checkpoint_failed }
    }

    /// Index after the last applied entry.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Acquire)
    }

    /// Changes with each checkpoint that could not be written.
    pub(crate) fn checkpoint_failed(&self) -> watch::Receiver<Arc<str>> {
        self.checkpoint_failed.subscribe()
    }

    /// Follows the term of the newest applied blank entry.
    pub(crate) fn opened_term(&self) -> watch::Receiver<u64> {
        self.opened_term.subscribe()
    }
}

impl MachineAdapter {
    /// Restores the machine from the newest checkpoint, if there is one; `log_is_cut` requires one.
    pub(crate) fn open(
        group: RaftGroupId,
        machine: Arc<dyn Machine>,
        tables: Arc<Tables>,
        progress: Arc<Progress>,
        log_is_cut: bool,
    ) -> io::Result<MachineAdapter> {
        let (last_applied, membership) = (None, StoredMembership::default());
        let mut adapter = MachineAdapter { group, machine, tables, last_applied, membership, progress };
        match adapter.tables.open_checkpoint(group).map_err(io::Error::other)? {
            Some(checkpoint) => adapter.restore(&checkpoint)?,
            None if log_is_cut => {
                let file = Tables::checkpoint_path(group);
                return Err(io::Error::other(format!(
                    "{} is missing, and the log begins after it",
                    file.display()
                )));
            }
            None => {}
        }
        Ok(adapter)
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let mut state = checkpoint.state();
        let membership = decode_head(&mut state)?;
        self.machine.restore(&mut state).map_err(io::Error::other)?;
        self.membership = membership;
        self.applied(to_raft(checkpoint.id()));
        Ok(())
    }

    fn applied(&mut self, id: RaftLogId) {
        assert!(
            self.last_applied < Some(id),
            "{}: {id} is applied after {:?}",
            self.group,
            self.last_applied
        );
        self.last_applied = Some(id);
        self.machine.applied(from_raft(&id));
        self.progress.next.store(id.index + 1, Release);
    }

    /// The content of a checkpoint.
    fn state(&self) -> Snapshot {
        let (head, state) = (encode_head(&self.membership), self.machine.snapshot());
        Box::new(move |out| out.write_all(&head).and_then(|()| state(out)))
    }

    fn builder(&self) -> CheckpointBuilder {
        CheckpointBuilder {
            group: self.group,
            tables: self.tables.clone(),
            progress: self.progress.clone(),
            meta: SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() },
            state: Some(self.state()),
        }
    }
}

impl RaftStateMachine<TypeConfig> for MachineAdapter {
    type SnapshotData = CheckpointData;
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut opened = None;
        while let Some((entry, responder)) = entries.try_next().await? {
            let id = from_raft(&entry.log_id);
            let reply = match entry.payload {
                Payload::Normal(command) => self.machine.apply(id, command.into_bytes()),
                Payload::Blank => {
                    opened = Some(id.term);
                    Reply::None
                }
                Payload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Reply::None
                }
            };
            // Before the reply: its receiver may ask for the machine's progress.
            self.applied(entry.log_id);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        if let Some(term) = opened {
            self.progress.opened_term.send_replace(term);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<CheckpointBuilder> {
        Some(self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        self.builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        data: CheckpointData,
    ) -> io::Result<()> {
        let Some(id) = meta.last_log_id.as_ref().map(from_raft) else { return Ok(()) };
        let Some(data) = data else { return Err(io::Error::other("the snapshot has no data")) };
        let copy = Box::new(move |out: &mut dyn Write| io::copy(&mut data.state(), out).map(drop));
        match save_checkpoint(self.tables.clone(), self.group, id, copy).await? {
            Some(saved) => self.restore(&saved),
            None => Err(io::Error::other("there is a newer checkpoint")),
        }
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, CheckpointData>>> {
        let (tables, group) = (self.tables.clone(), self.group);
        let opening = tokio::task::spawn_blocking(move || tables.open_checkpoint(group));
        let Some(data) = opening.await.map_err(io::Error::other)?.map_err(io::Error::other)? else {
            return Ok(None);
        };
        let last_membership = decode_head(data.state())?;
        let meta = SnapshotMeta { last_log_id: Some(to_raft(data.id())), last_membership };
        Ok(Some(RaftSnapshot { meta, snapshot: Some(data) }))
    }
}

/// Writes one checkpoint, off the async threads.
pub(crate) struct CheckpointBuilder {
    group: RaftGroupId,
    tables: Arc<Tables>,
    progress: Arc<Progress>,
    meta: SnapshotMetaOf<TypeConfig>,
    /// `None` once written.
    state: Option<Snapshot>,
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    type SnapshotData = CheckpointData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, CheckpointData>> {
        let id = self.meta.last_log_id.as_ref().map(from_raft);
        let (Some(id), Some(state)) = (id, self.state.take()) else {
            return Ok(RaftSnapshot { meta: self.meta.clone(), snapshot: None });
        };
        match save_checkpoint(self.tables.clone(), self.group, id, state).await {
            Ok(snapshot) => Ok(RaftSnapshot { meta: self.meta.clone(), snapshot }),
            // An error here would stop the replica for good, which a full disk does not justify: the previous
            // checkpoint is still valid, only the log cannot be purged yet. openraft ignores a snapshot that
            // is not newer.
            Err(error) => {
                self.progress.checkpoint_failed.send_replace(error.to_string().into());
                Ok(RaftSnapshot { meta: SnapshotMeta::default(), snapshot: None })
            }
        }
    }
}

async fn save_checkpoint(
    tables: Arc<Tables>,
    group: RaftGroupId,
    id: LogId,
    state: Snapshot,
) -> io::Result<Option<Checkpoint>> {
    tokio::task::spawn_blocking(move || tables.save_checkpoint(group, id, state))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}
