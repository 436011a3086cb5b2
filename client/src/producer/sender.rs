//! Carries out what the machine decides: one task per producer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use millstream_protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Shared,
    batch::{Batch, Place},
    lane::{Answered, Lane},
    machine::{Settled, Step, Try},
};
use crate::{ClientError, Cluster, clock};

/// Answers that wait to be taken in.
const ANSWERS_WAITING_MAX: usize = 64;

/// What a task comes back with.
enum Done {
    Identity(Result<(i64, i16), ClientError>),
    Refreshed,
}

pub(super) struct Sender {
    pub(super) cluster: Cluster,
    pub(super) shared: Arc<Shared>,
    /// Where each broker's requests go.
    lanes: HashMap<i32, Lane>,
    answers: mpsc::Receiver<Answered>,
    /// For new lanes.
    answer: mpsc::Sender<Answered>,
    tasks: JoinSet<Done>,
    asking_identity: bool,
    refreshing: bool,
    /// Topics that are asked for after the question that is on its way.
    stale: BTreeSet<Arc<str>>,
    identity_failures: u32,
    refresh_failures: u32,
}

impl Sender {
    pub(super) fn new(cluster: Cluster, shared: Arc<Shared>) -> Sender {
        let (answer, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        Sender {
            cluster,
            shared,
            lanes: HashMap::new(),
            answers,
            answer,
            tasks: JoinSet::new(),
            asking_identity: false,
            refreshing: false,
            stale: BTreeSet::new(),
            identity_failures: 0,
            refresh_failures: 0,
        }
    }

    /// Sends until the producer is closed and everything has its result.
    pub(super) async fn run(mut self) {
        loop {
            let mut wake_at = None;
            // A step takes at most one batch of a partition; more steps take more.
            loop {
                let step = self.step();
                let sent = !step.requests.is_empty();
                wake_at = step.wake_at.or(wake_at);
                self.carry_out(step);
                if !sent {
                    break;
                }
            }
            if self.shared.is_closed() && self.shared.is_idle() {
                return;
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                Some(answered) = self.answers.recv() => self.take_answer(answered.broker, answered.tries),
                Some(done) = self.tasks.join_next() => if let Ok(done) = done { self.take_in(done) },
                () = sleep_until(wake_at) => {}
            }
        }
    }

    fn step(&self) -> Step {
        let cluster = &self.cluster;
        let leader = |place: &Place| {
            let topic = cluster.known(&place.topic)?;
            topic.partitions.get(usize::try_from(place.partition).ok()?)?.leader
        };
        self.shared.with_machine(|machine| machine.step(clock::now(), leader))
    }

    fn carry_out(&mut self, step: Step) {
        self.shared.settle(step.settled);
        for (broker, batches) in step.requests {
            self.send(broker, batches);
        }
        if step.wants_identity && !self.asking_identity {
            self.asking_identity = true;
            let (cluster, failures) = (self.cluster.clone(), self.identity_failures);
            self.tasks.spawn(async move {
                pause(&cluster, failures).await;
                Done::Identity(ask_identity(&cluster).await)
            });
        }
        self.stale.extend(step.stale);
        if !self.stale.is_empty() && !self.refreshing {
            self.refreshing = true;
            self.refresh_failures += 1;
            let (cluster, failures) = (self.cluster.clone(), self.refresh_failures);
            let topics = std::mem::take(&mut self.stale);
            self.tasks.spawn(async move {
                pause(&cluster, failures).await;
                let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
                if let Err(error) = cluster.refresh(&topics).await {
                    tracing::debug!(%error, "metadata");
                }
                Done::Refreshed
            });
        }
    }

    fn send(&mut self, broker: i32, batches: Vec<Batch>) {
        let lane = self.lanes.entry(broker).or_insert_with(|| {
            Lane::open(self.cluster.clone(), self.shared.acks, broker, self.answer.clone())
        });
        if let Err(batches) = lane.send(batches) {
            // Its task is gone, which takes a panic: the next request opens another one.
            self.lanes.remove(&broker);
            let lost = |batch| (batch, Try::Lost { reason: "the broker's task has ended".to_string() });
            self.take_answer(broker, batches.into_iter().map(lost).collect());
        }
    }

    fn take_answer(&mut self, broker: i32, tries: Vec<(Batch, Try)>) {
        if tries.iter().any(|(_, outcome)| matches!(outcome, Try::Appended(_))) {
            self.refresh_failures = 0;
        }
        let (now, chance) = (clock::now(), clock::random_u64());
        let settled = self.shared.with_machine(|machine| machine.answered(broker, tries, now, chance));
        self.shared.settle(settled);
    }

    fn take_in(&mut self, done: Done) {
        match done {
            Done::Refreshed => self.refreshing = false,
            Done::Identity(Ok((id, epoch))) => {
                self.asking_identity = false;
                self.identity_failures = 0;
                let settled = self.shared.with_machine(|machine| machine.identify(id, epoch));
                self.shared.settle(settled);
            }
            Done::Identity(Err(error)) => {
                tracing::warn!(%error, "no producer id");
                self.shared.with_machine(|machine| machine.identity_failed(error.to_string()));
                self.asking_identity = false;
                self.identity_failures += 1;
            }
        }
    }
}

/// Nothing to wait for waits for ever: something else wakes.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn pause(cluster: &Cluster, failures: u32) {
    if failures > 0 {
        tokio::time::sleep(cluster.backoff().after(failures, clock::random_u64())).await;
    }
}

async fn ask_identity(cluster: &Cluster) -> Result<(i64, i16), ClientError> {
    let response: InitProducerIdResponse =
        cluster.ask(&InitProducerIdRequest { transactional_id: None, ..Default::default() }).await?;
    ClientError::check(response.error_code, || "ask for a producer id".to_string(), None)?;
    Ok((response.producer_id, response.producer_epoch))
}

impl Shared {
    /// Tells each batch's result and gives its memory back.
    pub(super) fn settle(&self, settled: Vec<Settled>) {
        for Settled { batch, result } in settled {
            batch.promise.keep(result);
            self.memory.add_permits(batch.memory_bytes);
        }
        if self.is_idle() {
            self.idle.notify_waiters();
        }
    }
}
