//! One shard's coordinator with its lock, its queue of writes and those who wait.

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

/// What is decided while a proposal is in flight leaves as one entry.
const PROPOSALS_IN_FLIGHT_MAX: usize = 1;
/// Most bytes of one operation of a tool or a commit: it has to fit into a log entry.
const OPERATION_BYTES_MAX: usize = 16 << 20;

/// Resolves when an operation is applied, or cannot be.
pub(super) type WriteResult = oneshot::Receiver<Result<(), GroupError>>;
type JoinAnswer = Result<Joined, JoinRefusal>;
type SyncAnswer = Result<Synced, GroupError>;

/// One shard's groups.
pub(super) struct Slot {
    pub(super) shard: Arc<Shard>,
    config: GroupConfig,
    /// Zero of the monotonic milliseconds.
    started: Instant,
    state: Mutex<State>,
    /// Tells the keeper that a deadline has come closer.
    wake: Arc<Notify>,
    usage: Arc<Usage>,
    /// For callbacks, which must not keep the slot alive.
    this: Weak<Slot>,
}

/// What the slot's lock guards.
pub(super) struct State {
    /// The term that the coordinator was built in; 0 before the first.
    term: u64,
    pub(super) coordinator: Coordinator,
    joins: HashMap<Ticket, oneshot::Sender<JoinAnswer>>,
    syncs: HashMap<Ticket, oneshot::Sender<SyncAnswer>>,
    last_ticket: u64,
    queue: ProposalQueue<PendingOp>,
    /// The deadline that the keeper knows of.
    kept_ms: Option<u64>,
    /// What [`Usage`] knows of this slot.
    used_bytes: usize,
}

struct PendingOp {
    op: GroupOp,
    end: End,
}

/// Who is told of the end of a write.
enum End {
    Coordinator(WriteId),
    Caller(oneshot::Sender<Result<(), GroupError>>),
    /// The coordinator forgets the group if it is gone.
    Expired(Arc<str>),
}

/// What a decision is made with.
pub(super) struct Decision<'a> {
    pub(super) now: Now,
    pub(super) state: &'a mut State,
    pub(super) slot: &'a Slot,
}

impl Slot {
    pub(super) fn new(
        shard: Arc<Shard>,
        config: GroupConfig,
        started: Instant,
        wake: Arc<Notify>,
        usage: Arc<Usage>,
    ) -> Arc<Slot> {
        let state = State {
            term: 0,
            coordinator: Coordinator::new(config.clone()),
            joins: HashMap::new(),
            syncs: HashMap::new(),
            last_ticket: 0,
            queue: ProposalQueue::new(PROPOSALS_IN_FLIGHT_MAX),
            kept_ms: None,
            used_bytes: 0,
        };
        let state = Mutex::new(state);
        Arc::new_cyclic(|this| Slot { shard, config, started, state, wake, usage, this: this.clone() })
    }

    pub(super) fn leads(&self) -> bool {
        self.shard.group().led_term().is_some()
    }

    fn now(&self) -> Now {
        let mono_ms = clock::monotonic().saturating_duration_since(self.started).as_millis() as u64;
        Now { mono_ms, wall_ms: clock::now_ms() }
    }

    /// A deadline of the coordinator as the clock has it.
    pub(super) fn instant(&self, mono_ms: u64) -> Instant {
        self.started + Duration::from_millis(mono_ms)
    }

    /// Looks at the applied groups.
    pub(super) fn machine<R>(&self, look: impl FnOnce(&GroupMachine) -> R) -> R {
        self.shard.host.inspect(|machine| look(machine.groups()))
    }

    /// Decides something about one group or about all, and carries out what follows from it.
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
            self.look_up(&mut state, name, now);
        }
        state.coordinator.set_bytes_left(self.usage.left());
        let result = decide(&mut Decision { now, state: &mut state, slot: self });
        self.settle(state);
        Ok(result)
    }

    /// A group can have left the coordinator while its offsets came back by a commit that was under way.
    fn look_up(&self, state: &mut State, name: &str, now: Now) {
        if state.coordinator.knows(name) {
            return;
        }
        if let Some(record) = self.machine(|machine| machine.group(name).map(|group| group.record().cloned()))
        {
            state.coordinator.load_one(now, name.into(), record.as_ref());
        }
    }

    /// This node no longer leads: everyone who waits is told so.
    fn resign(&self, state: &mut State) {
        if state.term == 0 {
            return;
        }
        state.term = 0;
        state.coordinator.resign();
        state.carry_out();
        state.coordinator = Coordinator::new(self.config.clone());
        for pending in state.queue.drain() {
            pending.end.refuse(GroupError::NotCoordinator);
        }
        state.joins.clear();
        state.syncs.clear();
    }

    fn begin_term(&self, state: &mut State, term: u64, now: Now) {
        self.resign(state);
        state.term = term;
        self.machine(|machine| state.coordinator.load(now, machine));
    }

    /// Answers, queues, writes and tells the keeper, after any change of the coordinator.
    fn settle(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        state.carry_out();
        let next = state.coordinator.next_deadline_ms();
        let closer = next.is_some_and(|next| state.kept_ms.is_none_or(|kept| next < kept));
        if closer {
            state.kept_ms = next;
        }
        self.measure(&mut state);
        drop(state);
        if closer {
            self.wake.notify_one();
        }
        self.push();
    }

    /// Tells how much this slot holds: in the coordinator, in the replicated state, and on its way there.
    fn measure(&self, state: &mut State) {
        let bytes =
            state.coordinator.bytes() + self.machine(GroupMachine::bytes) + state.queue.waiting_bytes();
        self.usage.update(&mut state.used_bytes, bytes);
    }

    /// Proposes what waits, one entry at a time. Never under the lock: a proposal to a replica that has stopped ends
    /// before the call returns.
    fn push(&self) {
        let (term, batch) = {
            let mut state = self.state.lock();
            let Some(batch) = state.queue.next_batch() else { return };
            (state.term, batch)
        };
        let command = encode(batch.items.iter().map(|pending| &pending.op));
        let ends: Vec<End> = batch.items.into_iter().map(|pending| pending.end).collect();
        let this = self.this.clone();
        self.shard.propose(term, Command::encoded(command), move |outcome| match this.upgrade() {
            Some(slot) => slot.finish(term, ends, outcome),
            None => ends.into_iter().for_each(|end| end.refuse(GroupError::Unavailable)),
        });
    }

    fn finish(&self, term: u64, ends: Vec<End>, outcome: Outcome) {
        let outcomes = match outcome {
            Ok((_, Reply::Shard(ShardReply::Group(reply)))) if reply.outcomes.len() == ends.len() => {
                Ok(reply.outcomes)
            }
            Err(ProposeError::NotLeader) => Err(GroupError::NotCoordinator),
            // It may have been written or not.
            _ => Err(GroupError::Unavailable),
        };
        let now = self.now();
        let mut state = self.state.lock();
        state.queue.batch_ended();
        let current = state.term == term;
        for (at, end) in ends.into_iter().enumerate() {
            let result = outcomes.as_ref().map(|all| all[at]).map_err(|error| *error);
            match end {
                End::Caller(tell) => drop(tell.send(result.map(|_| ()))),
                End::Coordinator(id) if current => state.coordinator.written(now, id, result.map(|_| ())),
                End::Expired(group) if current => state.expired(&group, result),
                End::Coordinator(_) | End::Expired(_) => {}
            }
        }
        self.settle(state);
    }

    /// Parks a join.
    pub(super) fn join(&self, request: JoinRequest) -> Result<oneshot::Receiver<JoinAnswer>, GroupError> {
        let group = request.group.clone();
        self.decide(Some(&group), |d| {
            let (tell, told) = oneshot::channel();
            let ticket = d.state.next_ticket();
            d.state.joins.insert(ticket, tell);
            d.state.coordinator.join(d.now, request, ticket);
            told
        })
    }

    /// Parks a sync.
    pub(super) fn sync(&self, request: SyncRequest) -> Result<oneshot::Receiver<SyncAnswer>, GroupError> {
        let group = request.group.clone();
        self.decide(Some(&group), |d| {
            let (tell, told) = oneshot::channel();
            let ticket = d.state.next_ticket();
            d.state.syncs.insert(ticket, tell);
            d.state.coordinator.sync(d.now, request, ticket);
            told
        })
    }

    /// Answers whoever is parked: the node stops, and another one, or the same, will coordinate.
    pub(super) fn dismiss(&self) {
        let mut state = self.state.lock();
        let refusal = || JoinRefusal { error: GroupError::NotCoordinator, member_id: Arc::default() };
        state.joins.drain().for_each(|(_, tell)| drop(tell.send(Err(refusal()))));
        state.syncs.drain().for_each(|(_, tell)| drop(tell.send(Err(GroupError::NotCoordinator))));
    }

    /// Deletes an empty group.
    pub(super) fn delete(&self, group: &str) -> Result<WriteResult, GroupError> {
        self.decide(Some(group), |d| {
            d.state.coordinator.delete(group)?;
            d.write(GroupOp::Remove { group: group.into() })
        })?
    }

    /// Carries out what is due and tells when something is due next.
    pub(super) fn tick(&self) -> Option<u64> {
        let ticked = self.decide(None, |d| {
            d.state.coordinator.tick(d.now);
            d.state.kept_ms = d.state.coordinator.next_deadline_ms();
            d.state.kept_ms
        });
        ticked.ok().flatten()
    }

    /// Queues the expiry of whatever is over.
    pub(super) fn expire(&self, retention_ms: i64) {
        // Without leadership there is nothing to expire here.
        let _ = self.decide(None, |d| {
            let now_ms = d.now.wall_ms;
            let due = d.slot.machine(|machine| d.state.coordinator.expiring(machine, now_ms, retention_ms));
            for group in due {
                let op = GroupOp::Expire { group: group.clone(), now_ms, retention_ms };
                d.state.enqueue(op, End::Expired(group));
            }
        });
    }

    /// Queues the removal of every group's offsets of a topic; `None` if there are none.
    pub(super) fn drop_topic(&self, topic: &str) -> Result<Option<WriteResult>, GroupError> {
        self.decide(None, |d| {
            if d.state.queue.is_idle() && !d.slot.machine(|machine| machine.has_offsets_of(topic)) {
                return None;
            }
            let (reply_tx, reply_rx) = oneshot::channel();
            d.state.enqueue(GroupOp::DropTopic { topic: topic.into() }, End::Caller(reply_tx));
            Some(reply_rx)
        })
    }
}

impl Decision<'_> {
    /// Whether the groups may grow by what a commit brings.
    pub(super) fn check_growth(&self, group: &str, offsets: &[OffsetEntry]) -> Result<(), GroupError> {
        let left = self.slot.usage.left();
        if self.slot.machine(|machine| machine.growth(group, offsets)) <= left {
            return Ok(());
        }
        self.slot.usage.refuse(clock::monotonic());
        Err(GroupError::OutOfBytes)
    }

    /// Queues an operation; the receiver hears of its end.
    pub(super) fn write(&mut self, op: GroupOp) -> Result<WriteResult, GroupError> {
        let bytes = op.size_hint();
        if bytes > OPERATION_BYTES_MAX {
            return Err(GroupError::TooLarge);
        }
        if !self.state.queue.has_room_for(bytes) {
            return Err(GroupError::Unavailable);
        }
        let (tell, told) = oneshot::channel();
        self.state.enqueue(op, End::Caller(tell));
        Ok(told)
    }
}

impl State {
    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn enqueue(&mut self, op: GroupOp, end: End) {
        let bytes = op.size_hint();
        self.queue.push(PendingOp { op, end }, bytes);
    }

    /// Answers and queues what the coordinator left behind.
    fn carry_out(&mut self) {
        for effect in self.coordinator.take_effects() {
            match effect {
                // A connection that is gone needs no answer.
                GroupEffect::Joined(ticket, answer) => {
                    drop(self.joins.remove(&ticket).map(|tell| tell.send(answer)))
                }
                GroupEffect::Synced(ticket, answer) => {
                    drop(self.syncs.remove(&ticket).map(|tell| tell.send(answer)))
                }
                GroupEffect::Write(id, op) => self.enqueue(op, End::Coordinator(id)),
            }
        }
    }

    fn expired(&mut self, group: &str, result: Result<GroupOutcome, GroupError>) {
        if let Ok(GroupOutcome::Removed { group: true, .. }) = result {
            self.coordinator.forget(group);
        }
    }
}

impl End {
    fn refuse(self, error: GroupError) {
        if let End::Caller(tell) = self {
            // A connection that is gone needs no answer.
            let _ = tell.send(Err(error));
        }
    }
}
