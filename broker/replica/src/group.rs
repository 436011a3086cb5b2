//! One replica of one Raft group, as the rest of the broker sees it.

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
    /// The timing is not one that Raft can work with.
    #[error("the Raft timing is refused: {0}")]
    Timing(String),
    /// The log or the checkpoint could not be read.
    #[error("{group} cannot be opened: {reason}")]
    Storage {
        /// The group.
        group: RaftGroupId,
        /// What the storage or openraft said.
        reason: String,
    },
    /// It has votes or entries, and neither its log nor its checkpoint says who belongs to it.
    #[error("{group} has lost who belongs to it: its log was damaged or cut")]
    NoMembers {
        /// The group.
        group: RaftGroupId,
    },
    /// It belongs to others, or not to this node alone.
    #[error("{group} belongs to {}, and this is node {node}", listed(members))]
    OtherMembers {
        /// The group.
        group: RaftGroupId,
        /// This node.
        node: NodeId,
        /// Those whose votes count in it.
        members: Vec<NodeId>,
    },
    /// The replica stopped while it was starting.
    #[error("{group} stopped while it was starting: {reason}")]
    Stopped {
        /// The group.
        group: RaftGroupId,
        /// What openraft said.
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
    /// It may yet be applied, or never: the replica stopped or lost the lead before it could tell.
    #[error("what became of the proposal is not known here")]
    Unknown,
}

/// The result of a proposal: where it stands in the log and what applying it gave.
pub type Outcome = Result<(LogId, Reply), ProposeError>;

/// Whether this node leads its group, for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    No,
    InTerm(u64),
    /// The replica has stopped.
    Over,
}

/// The term that is led.
pub(crate) struct Led {
    /// The term in which this node leads with all earlier entries applied; 0 when it does not.
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

    /// Waits until this node leads in a term above `term`; never ends once the replica has stopped.
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

    /// Records a change; nothing comes after the end.
    fn set(&self, lead: Lead) {
        self.changed.send_if_modified(|known| {
            if *known == Lead::Over {
                return false;
            }
            self.term.store(if let Lead::InTerm(term) = lead { term } else { 0 }, Release);
            std::mem::replace(known, lead) != lead
        });
    }
}

/// A replica of one group. [`shutdown`](Group::shutdown) stops it and waits for that; dropping it only stops it.
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
    /// Opens the replica on its log and its newest checkpoint, and starts it. It reaches its peers by `transport`, and
    /// theirs reach it by [`handle`](Group::handle).
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

    /// Makes this node lead: a pristine group gets this node as its only voter, one of which it is the only voter holds
    /// an election, and any other is refused: an election in it would never end, and who belongs to a group is never
    /// guessed. Returns when this node leads and everything that was in the log is applied.
    pub async fn lead_alone(&self) -> Result<(), StartError> {
        let mut led = self.led.changed.subscribe();
        if !self.bootstrap(&BTreeSet::from([self.node])).await? {
            self.check_alone().await?;
            self.raft.trigger().elect(false).await.map_err(|e| self.stopped(&e))?;
        }
        let lead = led.wait_for(|lead| *lead != Lead::No).await.map_err(|e| self.stopped(&e))?;
        if *lead == Lead::Over { Err(self.stopped(&"it has failed or was shut down")) } else { Ok(()) }
    }

    /// Gives a pristine group its first voters, of which this node is one; says whether it was pristine. It may be
    /// called on every voter, with the same voters.
    pub async fn bootstrap(&self, voters: &BTreeSet<NodeId>) -> Result<bool, StartError> {
        assert!(voters.contains(&self.node), "{} bootstraps {} for others: {voters:?}", self.node, self.id);
        if self.raft.is_initialized().await.map_err(|e| self.stopped(&e))? {
            return Ok(false);
        }
        let voters = voters.iter().map(|node| (node.0, ())).collect::<BTreeMap<_, _>>();
        self.raft.initialize(voters).await.map_err(|e| self.stopped(&e))?;
        Ok(true)
    }

    /// Gives a peer's request to this replica.
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

    /// The term in which this node leads and may propose; `None` when it may not.
    pub fn led_term(&self) -> Option<u64> {
        Some(self.led.term()).filter(|&term| term > 0)
    }

    /// Waits until this node leads in a term above `term`, and returns that term; never ends once the replica has stopped.
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

    /// Proposes a command in the given term and calls `done` with the outcome, exactly once: from the task that
    /// applies, or from another one, but never before this returns on its own thread, so that a caller may hold a
    /// lock that `done` takes. Proposals are appended in the order of the calls.
    pub fn propose(&self, term: u64, command: Command, done: impl FnOnce(Outcome) + Send + 'static) {
        let done = OnDrop(Some(Box::new(done)));
        let callback =
            Callback(Box::new(move |result: ClientWriteResult<TypeConfig>| done.call(outcome(result))));
        let raft = self.raft.clone();
        let send = async move {
            // An error means that the replica is gone: the callback was dropped, which told the caller.
            let _ = raft.write(command).with_leader(CommittedLeaderId { term }).responder(callback).await;
        };
        // The channel to the replica has room for far more proposals than are ever in flight, so that the first
        // poll sends; were it ever full, order would be lost, and the apply-time check would refuse.
        let mut send = Box::pin(tokio::task::coop::unconstrained(send));
        if send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
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

    /// Makes a checkpoint of the machine as it is now, or later, durable; returns where the newest one stands, or
    /// `None` when nothing is applied yet. A machine that has not moved since the last one is not written again.
    pub async fn checkpoint(&self) -> Result<Option<LogId>, StartError> {
        let (raft, progress, busy) = (self.raft.clone(), self.progress.clone(), self.checkpointing.clone());
        // In a task of its own, so that a caller that goes away leaves none half done.
        let done = tokio::spawn(async move {
            let _one_at_a_time = busy.lock().await;
            checkpoint(&raft, &progress).await
        });
        match done.await {
            Ok(at) => at.map_err(|reason| StartError::Storage { group: self.id, reason }),
            Err(panicked) => Err(self.stopped(&panicked)),
        }
    }

    /// Lets the log forget entries up to `index`, as far as a checkpoint covers them and no peer is being sent
    /// them.
    pub async fn purge(&self, index: u64) -> Result<(), StartError> {
        self.raft.trigger().purge_log(index).await.map_err(|e| self.stopped(&e))?;
        // The replica does one thing after the other: when it answers, the log has forgotten.
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

/// Keeps `led` true, and the replica's clock stopped while nobody needs it.
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
        // A leader that is the only voter has nobody to send heartbeats to and no rival: it needs no ticks.
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
        // The entry was in the log, and another node may have it still.
        Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ProposeError::Unknown),
        // These are told to whoever changes the membership, which no proposal of a command does.
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
        // Whoever drops it may be the one who just proposed it, to a replica that is gone.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { done(Err(ProposeError::Unknown)) })),
            Err(_) => done(Err(ProposeError::Unknown)),
        }
    }
}
