//! One shard's coordinator with its lock, its write queue and its waiting requests.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use millstream_replica::{Command, Outcome, ProposeError, Reply};
use millstream_state::{
    group::{
        Coordinator, GroupConfig, GroupEffect, GroupError, GroupMachine, GroupOp, GroupOutcome, JoinRefusal,
        JoinRequest, Joined, Now, OffsetEntry, SyncRequest, Synced, Ticket, WriteId, encode,
    },
    partition::ShardReply,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::usage::Usage;
use crate::{
    clock,
    partition::{ProposalQueue, Shard},
};

/// Operations that are queued while a proposal is in flight form the next entry.
const PROPOSALS_IN_FLIGHT_MAX: usize = 1;
/// Maximum bytes of one operation of a tool or a commit: it has to fit into a log entry.
const OPERATION_BYTES_MAX: usize = 16 << 20;

/// Resolves when an operation is applied or has failed.
pub(super) type WriteResult = oneshot::Receiver<Result<(), GroupError>>;
type JoinAnswer = Result<Joined, JoinRefusal>;
type SyncAnswer = Result<Synced, GroupError>;

/// One shard's groups.
pub(super) struct GroupShard {
    pub(super) shard: Arc<Shard>,
    config: GroupConfig,
    /// Origin of the monotonic milliseconds.
    started: Instant,
    state: Mutex<State>,
    /// Wakes the expiry task when the next deadline has moved closer.
    wake: Arc<Notify>,
    usage: Arc<Usage>,
    /// For callbacks, which must not keep the shard alive.
    this: Weak<GroupShard>,
}

pub(super) struct State {
    /// The term that the coordinator was built in; 0 before the first.
    term: u64,
    pub(super) coordinator: Coordinator,
    joins: HashMap<Ticket, oneshot::Sender<JoinAnswer>>,
    syncs: HashMap<Ticket, oneshot::Sender<SyncAnswer>>,
    last_ticket: u64,
    queue: ProposalQueue<PendingOp>,
    /// The next deadline as the expiry task knows it.
    scheduled_deadline_ms: Option<u64>,
    /// This shard's bytes in [`Usage`].
    used_bytes: usize,
}

struct PendingOp {
    op: GroupOp,
    waiter: WriteWaiter,
}

/// Who gets the result of a write.
enum WriteWaiter {
    Coordinator(WriteId),
    Caller(oneshot::Sender<Result<(), GroupError>>),
    /// The coordinator forgets the group if it was removed.
    Expired(Arc<str>),
}

/// The inputs of a decision.
pub(super) struct Decision<'a> {
    pub(super) now: Now,
    pub(super) state: &'a mut State,
    pub(super) shard: &'a GroupShard,
}

impl GroupShard {
    pub(super) fn new(
        shard: Arc<Shard>,
        config: GroupConfig,
        started: Instant,
        wake: Arc<Notify>,
        usage: Arc<Usage>,
    ) -> Arc<GroupShard> {
        let state = State {
            term: 0,
            coordinator: Coordinator::new(config.clone()),
            joins: HashMap::new(),
            syncs: HashMap::new(),
            last_ticket: 0,
            queue: ProposalQueue::new(PROPOSALS_IN_FLIGHT_MAX),
            scheduled_deadline_ms: None,
            used_bytes: 0,
        };
        let state = Mutex::new(state);
        Arc::new_cyclic(|this| GroupShard { shard, config, started, state, wake, usage, this: this.clone() })
    }

    pub(super) fn leads(&self) -> bool {
        self.shard.group().led_term().is_some()
    }

    fn now(&self) -> Now {
        let mono_ms = clock::monotonic().saturating_duration_since(self.started).as_millis() as u64;
        Now { mono_ms, wall_ms: clock::now_ms() }
    }

    /// Converts a deadline of the coordinator.
    pub(super) fn instant(&self, mono_ms: u64) -> Instant {
        self.started + Duration::from_millis(mono_ms)
    }

    /// Reads the applied state of the groups.
    pub(super) fn machine<R>(&self, read: impl FnOnce(&GroupMachine) -> R) -> R {
        self.shard.host.inspect(|machine| read(machine.groups()))
    }

    /// Makes a decision about one group, or about all, and executes its effects.
    pub(super) fn decide<R>(
        &self,
        group: Option<&str>,
        decide: impl FnOnce(&mut Decision<'_>) -> R,
    ) -> Result<R, GroupError> {
        let term = self.shard.group().led_term();
        let now = self.now();
        let mut state = self.state.lock();
        let Some(term) = term else {
            self.resign(&mut state);
            self.measure(&mut state);
            return Err(GroupError::NotCoordinator);
        };
        if state.term != term {
            self.begin_term(&mut state, term, now);
        }
        if let Some(name) = group {
            self.load_if_forgotten(&mut state, name, now);
        }
        state.coordinator.set_bytes_left(self.usage.left());
        let result = decide(&mut Decision { now, state: &mut state, shard: self });
        self.settle(state);
        Ok(result)
    }

    /// Loads a group that the coordinator has forgotten but that exists again, because a commit was in flight.
    fn load_if_forgotten(&self, state: &mut State, name: &str, now: Now) {
        if state.coordinator.knows(name) {
            return;
        }
        if let Some(record) = self.machine(|machine| machine.group(name).map(|group| group.record().cloned()))
        {
            state.coordinator.load_one(now, name.into(), record.as_ref());
        }
    }

    /// This node no longer leads: fails all waiting requests.
    fn resign(&self, state: &mut State) {
        if state.term == 0 {
            return;
        }
        state.term = 0;
        state.coordinator.resign();
        state.execute_effects();
        state.coordinator = Coordinator::new(self.config.clone());
        for pending in state.queue.drain() {
            pending.waiter.refuse(GroupError::NotCoordinator);
        }
        state.joins.clear();
        state.syncs.clear();
    }

    fn begin_term(&self, state: &mut State, term: u64, now: Now) {
        self.resign(state);
        state.term = term;
        self.machine(|machine| state.coordinator.load(now, machine));
    }

    /// After any change of the coordinator: executes its effects, wakes the expiry task if needed, and proposes writes.
    fn settle(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        state.execute_effects();
        let next = state.coordinator.next_deadline_ms();
        let closer = next.is_some_and(|next| state.scheduled_deadline_ms.is_none_or(|kept| next < kept));
        if closer {
            state.scheduled_deadline_ms = next;
        }
        self.measure(&mut state);
        drop(state);
        if closer {
            self.wake.notify_one();
        }
        self.push();
    }

    /// Reports this shard's memory to [`Usage`]: coordinator, replicated state and queued operations.
    fn measure(&self, state: &mut State) {
        let bytes =
            state.coordinator.bytes() + self.machine(GroupMachine::bytes) + state.queue.waiting_bytes();
        self.usage.update(&mut state.used_bytes, bytes);
    }

    /// Proposes the queued operations, one entry at a time. Must not be called under the lock: a proposal to a stopped
    /// replica calls back before it returns.
    fn push(&self) {
        let (term, batch) = {
            let mut state = self.state.lock();
            let Some(batch) = state.queue.next_batch() else { return };
            (state.term, batch)
        };
        let command = encode(batch.items.iter().map(|pending| &pending.op));
        let waiters: Vec<WriteWaiter> = batch.items.into_iter().map(|pending| pending.waiter).collect();
        let this = self.this.clone();
        self.shard.propose(term, Command::encoded(command), move |outcome| match this.upgrade() {
            Some(shard) => shard.finish(term, waiters, outcome),
            None => waiters.into_iter().for_each(|waiter| waiter.refuse(GroupError::Unavailable)),
        });
    }

    fn finish(&self, term: u64, waiters: Vec<WriteWaiter>, outcome: Outcome) {
        let outcomes = match outcome {
            Ok((_, Reply::Shard(ShardReply::Group(reply)))) if reply.outcomes.len() == waiters.len() => {
                Ok(reply.outcomes)
            }
            Err(ProposeError::NotLeader) => Err(GroupError::NotCoordinator),
            // The outcome is unknown.
            _ => Err(GroupError::Unavailable),
        };
        let now = self.now();
        let mut state = self.state.lock();
        state.queue.batch_ended();
        let current = state.term == term;
        for (at, waiter) in waiters.into_iter().enumerate() {
            let result = outcomes.as_ref().map(|all| all[at]).map_err(|error| *error);
            match waiter {
                WriteWaiter::Caller(tx) => drop(tx.send(result.map(|_| ()))),
                WriteWaiter::Coordinator(id) if current => {
                    state.coordinator.written(now, id, result.map(|_| ()))
                }
                WriteWaiter::Expired(group) if current => state.expired(&group, result),
                WriteWaiter::Coordinator(_) | WriteWaiter::Expired(_) => {}
            }
        }
        self.settle(state);
    }

    /// Parks a join.
    pub(super) fn join(&self, request: JoinRequest) -> Result<oneshot::Receiver<JoinAnswer>, GroupError> {
        let group = request.group.clone();
        self.decide(Some(&group), |d| {
            let (reply_tx, reply_rx) = oneshot::channel();
            let ticket = d.state.next_ticket();
            d.state.joins.insert(ticket, reply_tx);
            d.state.coordinator.join(d.now, request, ticket);
            reply_rx
        })
    }

    /// Parks a sync.
    pub(super) fn sync(&self, request: SyncRequest) -> Result<oneshot::Receiver<SyncAnswer>, GroupError> {
        let group = request.group.clone();
        self.decide(Some(&group), |d| {
            let (reply_tx, reply_rx) = oneshot::channel();
            let ticket = d.state.next_ticket();
            d.state.syncs.insert(ticket, reply_tx);
            d.state.coordinator.sync(d.now, request, ticket);
            reply_rx
        })
    }

    /// Fails every parked join and sync: the node stops, and the clients look for the coordinator again.
    pub(super) fn dismiss(&self) {
        let mut state = self.state.lock();
        let refusal = || JoinRefusal { error: GroupError::NotCoordinator, member_id: Arc::default() };
        state.joins.drain().for_each(|(_, tx)| drop(tx.send(Err(refusal()))));
        state.syncs.drain().for_each(|(_, tx)| drop(tx.send(Err(GroupError::NotCoordinator))));
    }

    /// Deletes an empty group.
    pub(super) fn delete(&self, group: &str) -> Result<WriteResult, GroupError> {
        self.decide(Some(group), |d| {
            d.state.coordinator.delete(group)?;
            d.write(GroupOp::Remove { group: group.into() })
        })?
    }

    /// Executes what is due and returns the next deadline.
    pub(super) fn tick(&self) -> Option<u64> {
        let ticked = self.decide(None, |d| {
            d.state.coordinator.tick(d.now);
            d.state.scheduled_deadline_ms = d.state.coordinator.next_deadline_ms();
            d.state.scheduled_deadline_ms
        });
        ticked.ok().flatten()
    }

    /// Queues the expiry of committed offsets and groups that are due.
    pub(super) fn expire(&self, retention_ms: i64) {
        // Without leadership there is nothing to expire here.
        let _ = self.decide(None, |d| {
            let now_ms = d.now.wall_ms;
            let due = d.shard.machine(|machine| d.state.coordinator.expiring(machine, now_ms, retention_ms));
            for group in due {
                let op = GroupOp::Expire { group: group.clone(), now_ms, retention_ms };
                d.state.enqueue(op, WriteWaiter::Expired(group));
            }
        });
    }

    /// Queues the removal of all committed offsets of a topic; `None` if there are none.
    pub(super) fn drop_topic(&self, topic: &str) -> Result<Option<WriteResult>, GroupError> {
        self.decide(None, |d| {
            if d.state.queue.is_idle() && !d.shard.machine(|machine| machine.has_offsets_of(topic)) {
                return None;
            }
            let (reply_tx, reply_rx) = oneshot::channel();
            d.state.enqueue(GroupOp::DropTopic { topic: topic.into() }, WriteWaiter::Caller(reply_tx));
            Some(reply_rx)
        })
    }
}

impl Decision<'_> {
    /// Checks that the memory limit allows the growth by a commit.
    pub(super) fn check_growth(&self, group: &str, offsets: &[OffsetEntry]) -> Result<(), GroupError> {
        let left = self.shard.usage.left();
        if self.shard.machine(|machine| machine.growth(group, offsets)) <= left {
            return Ok(());
        }
        self.shard.usage.refuse(clock::monotonic());
        Err(GroupError::OutOfBytes)
    }

    /// Queues an operation; the receiver gets its result.
    pub(super) fn write(&mut self, op: GroupOp) -> Result<WriteResult, GroupError> {
        let bytes = op.size_hint();
        if bytes > OPERATION_BYTES_MAX {
            return Err(GroupError::TooLarge);
        }
        if !self.state.queue.has_room_for(bytes) {
            return Err(GroupError::Unavailable);
        }
        let (reply_tx, reply_rx) = oneshot::channel();
        self.state.enqueue(op, WriteWaiter::Caller(reply_tx));
        Ok(reply_rx)
    }
}

impl State {
    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn enqueue(&mut self, op: GroupOp, waiter: WriteWaiter) {
        let bytes = op.size_hint();
        self.queue.push(PendingOp { op, waiter }, bytes);
    }

    /// Executes the coordinator's effects: sends answers and queues writes.
    fn execute_effects(&mut self) {
        for effect in self.coordinator.take_effects() {
            match effect {
                // A closed connection needs no answer.
                GroupEffect::Joined(ticket, answer) => {
                    drop(self.joins.remove(&ticket).map(|tx| tx.send(answer)))
                }
                GroupEffect::Synced(ticket, answer) => {
                    drop(self.syncs.remove(&ticket).map(|tx| tx.send(answer)))
                }
                GroupEffect::Write(id, op) => self.enqueue(op, WriteWaiter::Coordinator(id)),
            }
        }
    }

    fn expired(&mut self, group: &str, result: Result<GroupOutcome, GroupError>) {
        if let Ok(GroupOutcome::Removed { group: true, .. }) = result {
            self.coordinator.forget(group);
        }
    }
}

impl WriteWaiter {
    fn refuse(self, error: GroupError) {
        if let WriteWaiter::Caller(tx) = self {
            // A closed connection needs no answer.
            let _ = tx.send(Err(error));
        }
    }
}
