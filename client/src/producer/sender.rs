//! Carries out what the machine decides: one task per producer, and one for each request on its way.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use bytes::Bytes;
use millstream_protocol::{
    ErrorCode, Records, Str,
    messages::{
        init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
        produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
    },
};
use tokio::task::JoinSet;

use super::{
    Acks, Delivered, Shared, Tell,
    batch::{Batch, Place},
    machine::{Settled, Step, Try},
};
use crate::{ClientError, Cluster, clock, cluster::Lane, wire::Connection};

/// The newest Produce version that names topics by their names, and does not belong to transactions.
const PRODUCE_VERSION_MAX: i16 = 11;

/// What a task comes back with.
enum Done {
    Answered(i32, Vec<(Batch<Tell>, Try)>),
    Identity(Result<(i64, i16), ClientError>),
    Refreshed,
}

pub(super) struct Sender {
    pub(super) cluster: Cluster,
    pub(super) shared: Arc<Shared>,
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
        Sender {
            cluster,
            shared,
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
                Some(done) = self.tasks.join_next() => if let Ok(done) = done { self.take_in(done) },
                () = sleep_until(wake_at) => {}
            }
        }
    }

    fn step(&self) -> Step<Tell> {
        let cluster = &self.cluster;
        let leader = |place: &Place| {
            let topic = cluster.known(&place.topic)?;
            topic.partitions.get(usize::try_from(place.partition).ok()?)?.leader
        };
        self.shared.with_machine(|machine| machine.step(clock::now(), leader))
    }

    fn carry_out(&mut self, step: Step<Tell>) {
        self.shared.settle(step.settled);
        for (broker, batches) in step.requests {
            let (cluster, shared) = (self.cluster.clone(), self.shared.clone());
            self.tasks.spawn(async move {
                let tries = send(&cluster, &shared, broker, batches).await;
                Done::Answered(broker, tries)
            });
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
                self.asking_identity = false;
                self.identity_failures += 1;
            }
            Done::Answered(broker, tries) => {
                if tries.iter().any(|(_, outcome)| matches!(outcome, Try::Appended { .. })) {
                    self.refresh_failures = 0;
                }
                let (now, chance) = (clock::now(), clock::random_u64());
                let settled =
                    self.shared.with_machine(|machine| machine.answered(broker, tries, now, chance));
                self.shared.settle(settled);
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

async fn send(
    cluster: &Cluster,
    shared: &Shared,
    broker: i32,
    batches: Vec<Batch<Tell>>,
) -> Vec<(Batch<Tell>, Try)> {
    let (mut tries, mut sent, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    for mut batch in batches {
        match batch.encode() {
            Ok(encoded) => {
                add(&mut topics, &batch.place, encoded);
                sent.push(batch);
            }
            Err(error) => tries.push((batch, Try::Unencodable { reason: error.to_string() })),
        }
    }
    if sent.is_empty() {
        return tries;
    }
    let asked = ask_produce(cluster, shared, broker, topics).await;
    tries.extend(sent.into_iter().map(|batch| {
        let outcome = outcome(&asked, &batch.place);
        (batch, outcome)
    }));
    tries
}

fn add(topics: &mut Vec<TopicProduceData>, place: &Place, encoded: Bytes) {
    let data = PartitionProduceData { index: place.partition, records: Records::One(encoded) };
    match topics.last_mut().filter(|topic| *topic.name == *place.topic) {
        Some(topic) => topic.partition_data.push(data),
        None => topics.push(TopicProduceData {
            name: Str::from(place.topic.to_string()),
            partition_data: vec![data],
            ..Default::default()
        }),
    }
}

async fn ask_produce(
    cluster: &Cluster,
    shared: &Shared,
    broker: i32,
    topic_data: Vec<TopicProduceData>,
) -> Result<Option<ProduceResponse>, ClientError> {
    let connection: Arc<Connection> = cluster.broker(broker, Lane::Produce).await?;
    let version = connection.version::<ProduceRequest>(PRODUCE_VERSION_MAX)?;
    let timeout_ms = i32::try_from(cluster.config().request_timeout.as_millis()).unwrap_or(i32::MAX);
    let request = ProduceRequest { acks: shared.acks.number(), timeout_ms, topic_data, ..Default::default() };
    match shared.acks {
        Acks::None => connection.tell(version, &request).await.map(|()| None),
        _ => connection.call_in(version, &request).await.map(Some),
    }
}

/// What became of one batch of a request.
fn outcome(asked: &Result<Option<ProduceResponse>, ClientError>, place: &Place) -> Try {
    let refused = |code, error: &ClientError| Try::Refused { code, reason: Some(error.to_string()) };
    match asked {
        Ok(Some(response)) => find(response, place),
        Ok(None) => Try::Appended { base_offset: -1, log_append_time_ms: -1 },
        // Nothing was sent.
        Err(error @ ClientError::Unreachable { .. }) => refused(ErrorCode::LEADER_NOT_AVAILABLE, error),
        Err(error @ (ClientError::Unwritable { .. } | ClientError::Unsupported { .. })) => {
            refused(ErrorCode::UNSUPPORTED_VERSION, error)
        }
        Err(error) => Try::Lost { reason: error.to_string() },
    }
}

fn find(response: &ProduceResponse, place: &Place) -> Try {
    let topic = response.responses.iter().find(|topic| *topic.name == *place.topic);
    let found = topic.and_then(|topic| topic.partition_responses.iter().find(|p| p.index == place.partition));
    match found {
        None => Try::Lost { reason: "the broker's answer leaves the partition out".to_string() },
        Some(p) if p.error_code == 0 => {
            Try::Appended { base_offset: p.base_offset, log_append_time_ms: p.log_append_time_ms }
        }
        Some(p) => {
            let first = p.record_errors.first().and_then(|e| e.batch_index_error_message.clone());
            let reason = p.error_message.clone().or(first).map(|text| text.to_string());
            Try::Refused { code: ErrorCode(p.error_code), reason }
        }
    }
}

impl Shared {
    /// Tells each record's result and gives its memory back.
    pub(super) fn settle(&self, settled: Vec<Settled<Tell>>) {
        for Settled { batch, result } in settled {
            let place = batch.place;
            for (at, receipt) in batch.receipts.into_iter().enumerate() {
                let told = result.clone().map(|(base_offset, log_append_time_ms)| Delivered {
                    topic: place.topic.clone(),
                    partition: place.partition,
                    offset: if base_offset < 0 { -1 } else { base_offset + at as i64 },
                    timestamp_ms: if log_append_time_ms < 0 {
                        receipt.timestamp_ms
                    } else {
                        log_append_time_ms
                    },
                });
                self.memory.add_permits(receipt.bytes);
                // Whoever does not wait for the result does not need it.
                let _ = receipt.tell.send(told);
            }
        }
        if self.is_idle() {
            self.idle.notify_waiters();
        }
    }
}
