//! One replica of one Raft group, as the interface for the rest of the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Waker},
};

use millstream_model::{LogId, NodeId, RaftGroupId};
use millstream_store::tables::Tables;
use openraft::{
    Raft, ServerState, async_runtime::watch::WatchReceiver, errors::ClientWriteError,
    raft::ClientWriteResult, vote::leader_id_std::CommittedLeaderId,
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};

use crate::{
    command::Command,
    config::{Callback, Reply, Timing, TypeConfig, from_raft},
    log_store::LogStore,
    machine::{Machine, MachineAdapter, Progress},
    transport::{self, Connector, PeerRequest, PeerResponse, PeerUnreachable, Transport},
};

#[cfg(feature = "testing")]
use {crate::log_store::Vote, openraft::raft::VoteRequest};

/// Why a group's replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The timing is invalid.
    #[error("the Raft timing is refused: {0}")]
    Timing(String),
    /// The log or the checkpoint could not be read.
    #[error("{group} cannot be opened: {reason}")]
    Storage {
        /// The group.
        group: RaftGroupId,
        /// The error of the storage or openraft.
        reason: String,
    },
    /// It has votes or entries, and neither its log nor its checkpoint has a membership.
    #[error("{group} has lost its membership: its log is damaged or truncated")]
    NoMembers {
        /// The group.
        group: RaftGroupId,
    },
    /// Its only voter is not this node.
    #[error("{group} belongs to {}, and this is node {node}", listed(members))]
    OtherMembers {
        /// The group.
        group: RaftGroupId,
        /// This node.
        node: NodeId,
        /// The voters of the group.
        members: Vec<NodeId>,
    },
    /// The replica stopped while it was starting.
    #[error("{group} stopped while it was starting: {reason}")]
    Stopped {
        /// The group.
        group: RaftGroupId,
        /// openraft's error.
        reason: String,
    },
}

fn listed(members: &[NodeId]) -> String {
    let names: Vec<String> = members.iter().map(|node| format!("node {node}")).collect();
    names.join(" and ")
}

/// Why a proposal was not applied, as far as this node knows.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied: another node leads, or this one leads in another term.
    #[error("this node does not lead the group in that term")]
    NotLeader,
    /// The proposal may be applied or not: the replica stopped or lost the lead before it had the outcome.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
}

/// The result of a proposal: its log id and the reply.
pub type Outcome = Result<(LogId, Reply), ProposeError>;

/// Whether this node leads its group, for tasks that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    No,
    InTerm(u64),
    /// The replica has stopped.
    Over,
}

/// The term that is led.
pub(crate) struct Led {
    /// The term in which this node leads with all earlier entries applied; 0 when it does not lead.
    term: AtomicU64,
    changed: watch::Sender<Lead>,
}

impl Led {
    fn new() -> Led {
        Led { term: AtomicU64::new(0), changed: watch::channel(Lead::No).0 }
    }

    pub(crate) fn term(&self) -> u64 {
        self.term.load(Acquire)
    }

    /// Waits until this node leads in a term above `term`; pends forever once the replica has stopped.
    pub(crate) async fn lead_after(&self, term: u64) -> u64 {
        let mut changed = self.changed.subscribe();
        match changed
            .wait_for(|lead| matches!(lead, Lead::InTerm(led) if *led > term))
            .await
            .map(|lead| *lead)
        {
            Ok(Lead::InTerm(led)) => led,
            _ => std::future::pending().await,
        }
    }

    /// Records a change; nothing follows the end.
    fn set(&self, lead: Lead) {
        self.changed.send_if_modified(|known| {
            if *known == Lead::Over {
                return false;
            }
            if let (Lead::InTerm(before), Lead::InTerm(term)) = (*known, lead) {
                assert!(before <= term, "led term {before}, and now {term}");
            }
            self.term.store(if let Lead::InTerm(term) = lead { term } else { 0 }, Release);
            std::mem::replace(known, lead) != lead
        });
    }
}

/// A replica of one group. [`shutdown`](Group::shutdown) stops it and waits for that; a drop only stops it.
pub struct Group {
    id: RaftGroupId,
    node: NodeId,
    raft: Raft<TypeConfig, MachineAdapter>,
    led: Arc<Led>,
    progress: Arc<Progress>,
    watcher: JoinHandle<()>,
    /// One checkpoint at a time: openraft ignores a request while it works on another one.
    checkpointing: Arc<Mutex<()>>,
}

impl Group {
    /// Opens the replica on its log and its newest checkpoint, and starts it. It sends requests to its peers
    /// with `transport`, and receives theirs through [`handle`](Group::handle).
    pub async fn start(
        id: RaftGroupId,
        node: NodeId,
        timing: Timing,
        transport: Arc<dyn Transport>,
        log: LogStore,
        machine: Arc<dyn Machine>,
        tables: Arc<Tables>,
    ) -> Result<Group, StartError> {
        let config = timing.raft_config().map_err(|e| StartError::Timing(e.to_string()))?;
        let storage = |reason: String| StartError::Storage { group: id, reason };
        let progress = Arc::new(Progress::new());
        let opened_term = progress.opened_term();
        let adapter = MachineAdapter::open(id, machine, tables, progress.clone(), log.is_cut());
        let adapter = adapter.map_err(|e| storage(e.to_string()))?;
        let raft = Raft::new(node.0, config, Connector { group: id, transport }, log, adapter).await;
        let raft = raft.map_err(|e| storage(e.to_string()))?;
        let led = Arc::new(Led::new());
        let watcher = tokio::spawn(watch_leadership(node, raft.clone(), opened_term, led.clone()));
        Ok(Group { id, node, raft, led, progress, watcher, checkpointing: Arc::default() })
    }

    /// The group's id.
    pub fn id(&self) -> RaftGroupId {
        self.id
    }

    /// Makes this node lead: a pristine group gets this node as its only voter; a group with this node as its
    /// only voter holds an election. Any other group is refused: an election in it would never end, and
    /// membership is never guessed. Returns when this node leads and every entry of the log is applied.
    pub async fn lead_alone(&self) -> Result<(), StartError> {
        let mut led = self.led.changed.subscribe();
        if !self.bootstrap(&BTreeSet::from([self.node])).await? {
            self.check_alone().await?;
            self.raft.trigger().elect(false).await.map_err(|e| self.stopped(&e))?;
        }
        let lead = led.wait_for(|lead| *lead != Lead::No).await.map_err(|e| self.stopped(&e))?;
        if *lead == Lead::Over { Err(self.stopped(&"it has failed or was shut down")) } else { Ok(()) }
    }

    /// Gives a pristine group its first voters, which must include this node; returns whether it was
    /// pristine. Every voter may call this, with the same voters.
    pub async fn bootstrap(&self, voters: &BTreeSet<NodeId>) -> Result<bool, StartError> {
        assert!(voters.contains(&self.node), "{} bootstraps {} for others: {voters:?}", self.node, self.id);
        if self.raft.is_initialized().await.map_err(|e| self.stopped(&e))? {
            return Ok(false);
        }
        let voters = voters.iter().map(|node| (node.0, ())).collect::<BTreeMap<_, _>>();
        self.raft.initialize(voters).await.map_err(|e| self.stopped(&e))?;
        Ok(true)
    }

    /// Handles a peer's request.
    pub async fn handle(&self, request: PeerRequest) -> Result<PeerResponse, PeerUnreachable> {
        transport::handle(&self.raft, request).await.map_err(|error| {
            tracing::debug!(group = %self.id, %error, "a peer's request failed");
            PeerUnreachable { node: self.node, reason: "its replica has stopped" }
        })
    }

    async fn check_alone(&self) -> Result<(), StartError> {
        let voters = self.raft.with_raft_state(|state| {
            state.membership_state.effective().voter_ids().map(NodeId).collect::<Vec<_>>()
        });
        let members = voters.await.map_err(|e| self.stopped(&e))?;
        match members[..] {
            [] => Err(StartError::NoMembers { group: self.id }),
            [only] if only == self.node => Ok(()),
            _ => Err(StartError::OtherMembers { group: self.id, node: self.node, members }),
        }
    }

    fn stopped(&self, reason: &dyn std::fmt::Display) -> StartError {
        StartError::Stopped { group: self.id, reason: reason.to_string() }
    }

    /// The term in which this node leads and may propose; `None` if it may not.
    pub fn led_term(&self) -> Option<u64> {
        Some(self.led.term()).filter(|&term| term > 0)
    }

    /// Waits until this node leads in a term above `term`, and returns that term; pends forever once the replica has stopped.
    pub async fn lead_after(&self, term: u64) -> u64 {
        self.led.lead_after(term).await
    }

    /// Makes this node lose the lead to a candidate that never leads. It may win the next election.
    #[cfg(feature = "testing")]
    pub async fn lose_lead(&self) {
        let (vote, last_log_id) = self
            .raft
            .with_raft_state(|state| (*state.vote_ref(), state.log_ids.last().copied()))
            .await
            .expect("the replica runs");
        let vote = Vote::new(vote.leader_id.term + 1, self.node.0 + 1);
        let request = VoteRequest { vote, last_log_id, leadership_transfer: true };
        let response = self.raft.vote(request).await.expect("the replica runs");
        assert!(response.vote_granted, "{} keeps the lead: {response}", self.id);
        self.led.changed.subscribe().wait_for(|lead| *lead == Lead::No).await.expect("the replica runs");
    }

    pub(crate) fn raft(&self) -> &Raft<TypeConfig, MachineAdapter> {
        &self.raft
    }

    #[cfg(test)]
    pub(crate) fn led(&self) -> Arc<Led> {
        self.led.clone()
    }

    /// Proposes a command in the given term and calls `done` with the outcome, exactly once: from the task
    /// that applies, or from another one, but never on this thread before this returns, so that a caller may
    /// hold a lock that `done` takes. Proposals are appended in the order of the calls.
    pub fn propose(&self, term: u64, command: Command, done: impl FnOnce(Outcome) + Send + 'static) {
        let done = OnDrop(Some(Box::new(done)));
        let callback =
            Callback(Box::new(move |result: ClientWriteResult<TypeConfig>| done.call(outcome(result))));
        let raft = self.raft.clone();
        let send = async move {
            // An error means that the replica has stopped: the dropped callback has reported it.
            let _ = raft.write(command).with_leader(CommittedLeaderId { term }).responder(callback).await;
        };
        // The channel to the replica has space for far more proposals than are ever in flight, so the first
        // poll sends. If it were full, the order would be lost, and the check on apply would refuse the
        // proposal.
        let mut send = Box::pin(tokio::task::coop::unconstrained(send));
        if send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tracing::warn!(group = %self.id, "the replica's queue is full");
            tokio::spawn(send);
        }
    }

    /// Proposes and waits for the outcome.
    pub async fn write(&self, term: u64, command: Command) -> Outcome {
        let (reply_tx, reply_rx) = tokio::sync::oneshot::channel();
        self.propose(term, command, move |outcome| {
            // The receiver is gone: the outcome is in the log all the same.
            let _ = reply_tx.send(outcome);
        });
        reply_rx.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Writes a checkpoint of the machine's current state, or a later one, durably; returns the position of
    /// the newest one, or `None` if nothing is applied yet. If nothing was applied since the last one, it is
    /// not written again.
    pub async fn checkpoint(&self) -> Result<Option<LogId>, StartError> {
        let (raft, progress, busy) = (self.raft.clone(), self.progress.clone(), self.checkpointing.clone());
        // In a task of its own, so that it is completed even if the caller is dropped.
        let done = tokio::spawn(async move {
            let _one_at_a_time = busy.lock().await;
            checkpoint(&raft, &progress).await
        });
        match done.await {
            Ok(at) => at.map_err(|reason| StartError::Storage { group: self.id, reason }),
            Err(panicked) => Err(self.stopped(&panicked)),
        }
    }

    /// Lets the log purge entries up to `index` that a checkpoint covers and that are not being sent to a
    /// peer.
    pub async fn purge(&self, index: u64) -> Result<(), StartError> {
        self.raft.trigger().purge_log(index).await.map_err(|e| self.stopped(&e))?;
        // The replica handles requests one after the other: when it answers, the log has purged.
        self.raft.with_raft_state(|_| ()).await.map_err(|e| self.stopped(&e))
    }

    /// Stops the replica; proposals in flight end as unknown.
    pub async fn shutdown(&self) {
        self.watcher.abort();
        self.led.set(Lead::Over);
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, error = %e, "the replica did not stop cleanly");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The watcher has the last handle to the replica, which stops with it.
        self.watcher.abort();
    }
}

/// A checkpoint of everything that is applied now.
async fn checkpoint(
    raft: &Raft<TypeConfig, MachineAdapter>,
    progress: &Progress,
) -> Result<Option<LogId>, String> {
    let next = progress.next();
    if next == 0 {
        return Ok(None);
    }
    let (mut metrics, mut failed) = (raft.data_metrics(), progress.checkpoint_failed());
    let mut asked = false;
    loop {
        let newest = metrics.borrow_and_update().snapshot.as_ref().map(from_raft);
        if newest.is_some_and(|newest| newest.index + 1 >= next) {
            return Ok(newest);
        }
        if !std::mem::replace(&mut asked, true) {
            raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
        }
        tokio::select! {
            changed = metrics.changed() => changed.map_err(|e| e.to_string())?,
            Ok(()) = failed.changed() => return Err(failed.borrow().to_string()),
        }
    }
}

/// Keeps `led` up to date, and stops the replica's clock while it is not needed.
async fn watch_leadership(
    node: NodeId,
    raft: Raft<TypeConfig, MachineAdapter>,
    mut opened: watch::Receiver<u64>,
    led: Arc<Led>,
) {
    // These change with votes, roles and memberships, not with entries.
    let mut metrics = raft.server_metrics();
    loop {
        let (leads, term, alone) = {
            let metrics = metrics.borrow_and_update();
            let voters = metrics.membership_config.voter_ids();
            (metrics.state == ServerState::Leader, metrics.vote.leader_id.term, voters.eq([node.0]))
        };
        let ready = leads && *opened.borrow_and_update() >= term;
        led.set(if ready { Lead::InTerm(term) } else { Lead::No });
        // A leader that is the only voter has no peer to send heartbeats to and no rival: it needs no ticks.
        raft.runtime_config().tick(!(leads && alone));
        let gone = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            changed = opened.changed() => changed.is_err(),
        };
        if gone {
            return led.set(Lead::Over);
        }
    }
}

fn outcome(result: ClientWriteResult<TypeConfig>) -> Outcome {
    match result {
        Ok(response) => Ok((from_raft(&response.log_id), response.data)),
        Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NotLeader),
        // The entry was in the log, and another node may still have it.
        Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ProposeError::Unknown),
        // Only changes of membership get these errors, never a proposal of a command.
        Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            Err(ProposeError::NotLeader)
        }
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
        let Some(done) = self.0.take() else { return };
        // The caller of `propose` may be the one that drops it, if the replica has stopped.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { done(Err(ProposeError::Unknown)) })),
            Err(_) => done(Err(ProposeError::Unknown)),
        }
    }
}
