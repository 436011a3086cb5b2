//! One replica of one Raft group, as the rest of the broker sees it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::{Acquire, Release}},
    },
    task::{Context, Poll, Waker},
};

use millstream_model::{GroupId, LogId, NodeId};
use millstream_store::tables::Tables;
use openraft::{Raft, ServerState, errors::ClientWriteError, raft::ClientWriteResult, vote::leader_id_std::CommittedLeaderId};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    command::Command,
    config::{Callback, Peer, Reply, Timing, TypeConfig, from_raft},
    log_store::LogStore,
    machine::{Machine, MachineAdapter},
    transport::Alone,
};

/// Why a group's replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The timing is not one that Raft can work with.
    #[error("the Raft timing is refused: {0}")]
    Timing(String),
    /// The log or the checkpoint could not be read.
    #[error("{group} cannot be opened: {reason}")]
    Storage {
        /// The group.
        group: GroupId,
        /// What the storage or openraft said.
        reason: String,
    },
    /// The replica stopped while it was starting.
    #[error("{group} stopped while it was starting: {reason}")]
    Stopped {
        /// The group.
        group: GroupId,
        /// What openraft said.
        reason: String,
    },
}

/// Why a proposal was not applied, as far as this node knows.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied: another node leads, or this one leads in another term.
    #[error("this node does not lead the group in that term")]
    NotLeader,
    /// It may yet be applied, or never: the replica stopped before it could tell.
    #[error("the replica stopped before the proposal was applied")]
    Unknown,
}

/// The result of a proposal: where it stands in the log and what applying it gave.
pub type Outcome = Result<(LogId, Reply), ProposeError>;

/// A replica of one group. Dropping it does not stop it; [`shutdown`](Group::shutdown) does.
pub struct Group {
    id: GroupId,
    node: NodeId,
    raft: Raft<TypeConfig, MachineAdapter>,
    /// The term in which this node leads with all earlier entries applied; 0 when it does not.
    led_term: Arc<AtomicU64>,
    opened_term: watch::Receiver<u64>,
    watcher: JoinHandle<()>,
}

impl Group {
    /// Opens the replica on its log and its newest checkpoint, and starts it.
    pub async fn start(
        id: GroupId,
        node: NodeId,
        timing: Timing,
        log: LogStore,
        machine: Arc<dyn Machine>,
        tables: Arc<Tables>,
    ) -> Result<Group, StartError> {
        let config = timing.raft_config().map_err(|e| StartError::Timing(e.to_string()))?;
        let (opened, opened_term) = watch::channel(0);
        let adapter = MachineAdapter::open(id, machine, tables, opened)
            .map_err(|e| StartError::Storage { group: id, reason: e.to_string() })?;
        let raft = Raft::new(node.0, config, Alone, log, adapter)
            .await
            .map_err(|e| StartError::Storage { group: id, reason: e.to_string() })?;
        let led_term = Arc::new(AtomicU64::new(0));
        let watcher = tokio::spawn(watch_leadership(raft.clone(), opened_term.clone(), led_term.clone()));
        Ok(Group { id, node, raft, led_term, opened_term, watcher })
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Makes this node lead: a pristine group gets this node as its only voter, any other holds an election.
    /// Returns when this node leads and everything that was in the log is applied.
    pub async fn lead_alone(&self, peer: Peer) -> Result<(), StartError> {
        let stopped = |reason: String| StartError::Stopped { group: self.id, reason };
        let pristine = !self.raft.is_initialized().await.map_err(|e| stopped(e.to_string()))?;
        if pristine {
            let members = BTreeMap::from([(self.node.0, peer)]);
            self.raft.initialize(members).await.map_err(|e| stopped(e.to_string()))?;
        } else {
            self.raft.trigger().elect(false).await.map_err(|e| stopped(e.to_string()))?;
        }
        let mut metrics = self.raft.server_metrics();
        let mut opened = self.opened_term.clone();
        loop {
            let (state, term) = {
                let metrics = metrics.borrow_and_update();
                (metrics.state, metrics.vote.leader_id.term)
            };
            if state == ServerState::Leader && *opened.borrow_and_update() >= term {
                self.led_term.store(term, Release);
                return Ok(());
            }
            tokio::select! {
                changed = metrics.changed() => changed.map_err(|e| stopped(e.to_string()))?,
                changed = opened.changed() => changed.map_err(|e| stopped(e.to_string()))?,
            }
        }
    }

    /// The term in which this node leads and may propose; `None` when it may not.
    pub fn led_term(&self) -> Option<u64> {
        Some(self.led_term.load(Acquire)).filter(|&term| term > 0)
    }

    /// Proposes a command in the given term and calls `done` with the outcome, exactly once, from the task that
    /// applies. Proposals are appended in the order of the calls.
    pub fn propose(&self, term: u64, command: Command, done: impl FnOnce(Outcome) + Send + 'static) {
        let done = OnDrop(Some(Box::new(done)));
        let callback = Callback(Box::new(move |result: ClientWriteResult<TypeConfig>| done.call(outcome(result))));
        let raft = self.raft.clone();
        let send = async move {
            // An error means that the replica is gone: the callback was dropped, which told the caller.
            let _ = raft.write(command).with_leader(CommittedLeaderId { term }).responder(callback).await;
        };
        // The channel to the replica has room for far more proposals than are ever in flight, so that the first
        // poll sends; were it ever full, order would be lost, and the apply-time check would refuse.
        let mut send = Box::pin(tokio::task::coop::unconstrained(send));
        if let Poll::Pending = send.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            tracing::warn!(group = %self.id, "the replica's queue is full");
            tokio::spawn(send);
        }
    }

    /// Proposes and waits for the outcome.
    pub async fn write(&self, term: u64, command: Command) -> Outcome {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.propose(term, command, move |outcome| {
            // Nobody waits any more: the outcome stands in the log all the same.
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Writes a checkpoint of the machine as it is now and returns where it stands, or `None` when nothing
    /// is applied yet.
    pub async fn checkpoint(&self) -> Result<Option<LogId>, StartError> {
        let stopped = |reason: String| StartError::Stopped { group: self.id, reason };
        let mut metrics = self.raft.data_metrics();
        let Some(target) = metrics.borrow_and_update().last_applied else { return Ok(None) };
        self.raft.trigger().snapshot().await.map_err(|e| stopped(e.to_string()))?;
        loop {
            let snapshot = metrics.borrow_and_update().snapshot;
            if let Some(at) = snapshot.filter(|at| *at >= target) {
                return Ok(Some(from_raft(&at)));
            }
            metrics.changed().await.map_err(|e| stopped(e.to_string()))?;
        }
    }

    /// Lets the log forget entries up to `index`, as far as a checkpoint covers them.
    pub async fn purge(&self, index: u64) -> Result<(), StartError> {
        let stopped = |reason: String| StartError::Stopped { group: self.id, reason };
        self.raft.trigger().purge_log(index).await.map_err(|e| stopped(e.to_string()))
    }

    /// Stops the replica; proposals in flight end as unknown.
    pub async fn shutdown(&self) {
        self.led_term.store(0, Release);
        self.watcher.abort();
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, error = %e, "the replica did not stop cleanly");
        }
    }
}

/// Keeps `led_term` true: it is set only while this node leads with its first entry applied.
async fn watch_leadership(
    raft: Raft<TypeConfig, MachineAdapter>,
    mut opened: watch::Receiver<u64>,
    led_term: Arc<AtomicU64>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let (leads, term) = {
            let metrics = metrics.borrow_and_update();
            (metrics.state == ServerState::Leader, metrics.vote.leader_id.term)
        };
        let ready = leads && *opened.borrow_and_update() >= term;
        led_term.store(if ready { term } else { 0 }, Release);
        let gone = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            changed = opened.changed() => changed.is_err(),
        };
        if gone {
            led_term.store(0, Release);
            return;
        }
    }
}

fn outcome(result: ClientWriteResult<TypeConfig>) -> Outcome {
    match result {
        Ok(response) => Ok((from_raft(&response.log_id), response.data)),
        Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NotLeader),
        Err(ClientWriteError::ChangeMembershipError(_)) => Err(ProposeError::NotLeader),
    }
}

/// Calls its function exactly once, with [`ProposeError::Unknown`] if it is dropped without a call.
struct OnDrop(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl OnDrop {
    fn call(mut self, outcome: Outcome) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(ProposeError::Unknown));
        }
    }
}
