//! The task that asks what the membership says next, and does what it hears.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_protocol::{
    ErrorCode, Request, Str,
    messages::{
        heartbeat::HeartbeatRequest,
        join_group::JoinGroupRequest,
        leave_group::{LeaveGroupRequest, MemberIdentity},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic},
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    GroupConfig, Progress,
    assignor::{Member, RANGE, assign, write_assignment, write_subscription},
    membership::{Ask, Membership, News, Times, protocols, topics_of},
};
use crate::{
    ClientError, Cluster, clock,
    cluster::Lane,
    consumer::{Start, TopicPartition, fetcher::Shared},
};

/// Kafka's name of groups of consumers.
const CONSUMER: &str = "consumer";
/// The newest OffsetCommit version of classic groups.
const COMMIT_VERSION_MAX: i16 = 8;
/// The newest OffsetFetch version that asks for one group.
const FETCH_VERSION_MAX: i16 = 7;
/// First LeaveGroup version that names several members.
const MANY_LEAVE_FROM: i16 = 3;

pub(super) enum Command {
    Commit(oneshot::Sender<Result<(), ClientError>>),
    Leave(oneshot::Sender<Result<(), ClientError>>),
}

pub(super) struct Coordinator {
    cluster: Cluster,
    config: GroupConfig,
    reader: Arc<Shared>,
    progress: Arc<Mutex<Progress>>,
    failed: Arc<Notify>,
    membership: Membership,
    /// Number of partitions of each topic when this member gave them out; empty when another one did.
    given_out: BTreeMap<String, i32>,
}

impl Coordinator {
    pub(super) fn new(
        cluster: Cluster,
        config: GroupConfig,
        reader: Arc<Shared>,
        progress: Arc<Mutex<Progress>>,
        failed: Arc<Notify>,
    ) -> Coordinator {
        let times = Times {
            session_timeout: config.session_timeout,
            heartbeat_interval: config.heartbeat_interval,
            backoff: cluster.backoff(),
        };
        let membership = Membership::new(times, clock::now());
        Coordinator { cluster, config, reader, progress, failed, membership, given_out: BTreeMap::new() }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        let mut commit_at = self.config.commit_every.map(|every| clock::now() + every);
        let look_every = self.cluster.config().metadata_age_max;
        let mut look_at = clock::now() + look_every;
        loop {
            let (at, ask) = self.membership.next();
            let news = tokio::select! {
                () = tokio::time::sleep_until(at.into()) => self.ask(ask).await,
                () = sleep_until(commit_at) => {
                    commit_at = self.config.commit_every.map(|every| clock::now() + every);
                    self.commit_in_time().await
                }
                () = sleep_until(Some(look_at)) => {
                    look_at = clock::now() + look_every;
                    self.look_for_partitions().await
                }
                order = orders.recv() => match order {
                    Some(Command::Commit(tell)) => {
                        // Whoever does not wait any more needs no answer.
                        let _ = tell.send(self.commit().await.map(|_| ()));
                        Ok(None)
                    }
                    Some(Command::Leave(tell)) => {
                        let _ = tell.send(self.leave().await);
                        return;
                    }
                    None => return,
                },
            };
            if let Err(error) = self.hear(news).await {
                self.progress.lock().failed = Some(error);
                self.failed.notify_one();
                return;
            }
        }
    }

    /// Does what the news ask for; an error ends the membership.
    async fn hear(&mut self, news: Result<Option<News>, ClientError>) -> Result<(), ClientError> {
        let news = match news {
            Ok(None) => return Ok(()),
            Ok(Some(news)) => news,
            Err(error) if error.is_retriable() => {
                tracing::debug!(%error, "the group's coordinator does not answer");
                match self.membership.unanswered(clock::now(), clock::random_u64()) {
                    Some(news) => news,
                    None => return Ok(()),
                }
            }
            Err(error) => return Err(error),
        };
        match news {
            News::Assigned(partitions) => self.begin(partitions).await,
            News::Revoked => {
                self.reader.assign([]);
                if self.config.commit_every.is_some()
                    && let Err(error) = self.commit().await
                {
                    tracing::warn!(%error, "what was read is not noted; it will be read again");
                }
                self.progress.lock().assign([]);
                Ok(())
            }
            News::Lost => {
                tracing::warn!(group = self.config.group, "the group went on without this member");
                self.reader.assign([]);
                self.progress.lock().assign([]);
                Ok(())
            }
            News::Failed(code) => Err(ClientError::Refused {
                what: format!("be in group '{}'", self.config.group),
                code,
                reason: None,
            }),
            News::Malformed(reason) => Err(ClientError::Refused {
                what: format!("be in group '{}'", self.config.group),
                code: ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
                reason: Some(reason),
            }),
        }
    }

    async fn ask(&mut self, ask: Ask) -> Result<Option<News>, ClientError> {
        let group_id = Str::from(&self.config.group);
        match ask {
            Ask::Coordinator => {
                let node = self.cluster.coordinator(&self.config.group).await?;
                self.membership.found(node, clock::now());
                Ok(None)
            }
            Ask::Join { member_id } => {
                let subscription = write_subscription(&self.config.topics).map_err(|source| {
                    ClientError::Unwritable { api: JoinGroupRequest::KEY.name(), source }
                })?;
                let request = JoinGroupRequest {
                    group_id,
                    session_timeout_ms: millis(self.config.session_timeout),
                    rebalance_timeout_ms: millis(self.config.rebalance_timeout),
                    member_id: Str::from(member_id),
                    protocol_type: Str::from(CONSUMER),
                    protocols: protocols(subscription),
                    reason: None,
                    ..Default::default()
                };
                let answer = self.call(&request, i16::MAX, self.config.rebalance_timeout).await?;
                Ok(self.membership.joined(answer, clock::now(), clock::random_u64()))
            }
            Ask::AssignAndSync { generation, member_id, members } => {
                let assignments = self.decide(&members).await?;
                self.sync(generation, member_id, assignments).await
            }
            Ask::Sync { generation, member_id } => {
                self.given_out.clear();
                self.sync(generation, member_id, Vec::new()).await
            }
            Ask::Heartbeat { generation, member_id } => {
                let request = HeartbeatRequest {
                    group_id,
                    generation_id: generation,
                    member_id: Str::from(member_id),
                    ..Default::default()
                };
                let answer = self.call(&request, i16::MAX, Duration::ZERO).await?;
                Ok(self.membership.beat(ErrorCode(answer.error_code), clock::now(), clock::random_u64()))
            }
        }
    }

    async fn call<R: Request>(
        &self,
        request: &R,
        version_max: i16,
        longer: Duration,
    ) -> Result<R::Response, ClientError> {
        let node = self.membership.coordinator().ok_or_else(|| ClientError::Refused {
            what: format!("ask group '{}'", self.config.group),
            code: ErrorCode::COORDINATOR_NOT_AVAILABLE,
            reason: None,
        })?;
        let connection = self.cluster.broker(node, Lane::Group).await?;
        connection.call_waiting(connection.version::<R>(version_max)?, request, longer).await
    }

    /// Decides for all members who reads what.
    async fn decide(&mut self, members: &[Member]) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut partitions = BTreeMap::new();
        for topic in topics_of(members) {
            match self.cluster.topic(&topic, false).await {
                Ok(known) => drop(partitions.insert(topic, known.partitions.len() as i32)),
                // A topic that does not exist yet has nothing to read.
                Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                    partitions.insert(topic, 0);
                }
                Err(error) => return Err(error),
            }
        }
        self.given_out.clone_from(&partitions);
        let encoded = assign(members, &partitions).into_iter().map(|(member, partitions)| {
            let assignment = write_assignment(&partitions)
                .map_err(|source| ClientError::Unwritable { api: SyncGroupRequest::KEY.name(), source })?;
            Ok(SyncGroupRequestAssignment { member_id: Str::from(member), assignment })
        });
        encoded.collect()
    }

    /// The member that gave the partitions out sees to it that new ones are given out too.
    async fn look_for_partitions(&mut self) -> Result<Option<News>, ClientError> {
        let topics: Vec<&str> = self.given_out.keys().map(String::as_str).collect();
        if topics.is_empty() {
            return Ok(None);
        }
        self.cluster.refresh(&topics).await?;
        let count =
            |topic: &String| self.cluster.known(topic).map_or(0, |known| known.partitions.len() as i32);
        let changed = self.given_out.iter().any(|(topic, given)| count(topic) != *given);
        Ok(if changed { self.membership.regroup(clock::now()) } else { None })
    }

    async fn sync(
        &mut self,
        generation_id: i32,
        member_id: String,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Option<News>, ClientError> {
        let request = SyncGroupRequest {
            group_id: Str::from(&self.config.group),
            generation_id,
            member_id: Str::from(member_id),
            protocol_type: Some(Str::from(CONSUMER)),
            protocol_name: Some(Str::from(RANGE)),
            assignments,
            ..Default::default()
        };
        let answer = self.call(&request, i16::MAX, self.config.rebalance_timeout).await?;
        Ok(self.membership.synced(answer, clock::now(), clock::random_u64()))
    }

    /// Begins to read, each partition from what the group has noted of it.
    async fn begin(&mut self, partitions: Vec<TopicPartition>) -> Result<(), ClientError> {
        let noted = loop {
            match self.fetch_noted(&partitions).await {
                Ok(noted) => break noted,
                Err(error) if error.is_retriable() => {
                    tracing::debug!(%error, "what the group has noted is not known yet");
                    tokio::time::sleep(self.cluster.backoff().after(1, clock::random_u64())).await;
                    if error.code() == Some(ErrorCode::NOT_COORDINATOR) {
                        let node = self.cluster.coordinator(&self.config.group).await?;
                        self.membership.found(node, clock::now());
                    }
                }
                Err(error) => return Err(error),
            }
        };
        self.progress.lock().assign(partitions.clone());
        let start = |partition: &TopicPartition| match noted.get(partition) {
            Some(offset) => Start::Offset(*offset),
            None => self.config.start,
        };
        let starts: Vec<_> =
            partitions.iter().map(|partition| (partition.clone(), start(partition))).collect();
        self.reader.assign(starts);
        Ok(())
    }

    async fn fetch_noted(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
        let mut noted = BTreeMap::new();
        if partitions.is_empty() {
            return Ok(noted);
        }
        let mut topics: Vec<OffsetFetchRequestTopic> = Vec::new();
        for partition in partitions {
            match topics.last_mut().filter(|topic| *topic.name == *partition.topic) {
                Some(topic) => topic.partition_indexes.push(partition.partition),
                None => topics.push(OffsetFetchRequestTopic {
                    name: Str::from(partition.topic.to_string()),
                    partition_indexes: vec![partition.partition],
                }),
            }
        }
        let group_id = Str::from(&self.config.group);
        let request = OffsetFetchRequest { group_id, topics: Some(topics), ..Default::default() };
        let answer = self.call(&request, FETCH_VERSION_MAX, Duration::ZERO).await?;
        let what = || format!("ask for the offsets of group '{}'", self.config.group);
        ClientError::check(answer.error_code, what, None)?;
        for topic in answer.topics {
            let name: Arc<str> = topic.name.as_str().into();
            for found in topic.partitions {
                ClientError::check(found.error_code, what, None)?;
                if found.committed_offset >= 0 {
                    let place = TopicPartition { topic: name.clone(), partition: found.partition_index };
                    noted.insert(place, found.committed_offset);
                }
            }
        }
        Ok(noted)
    }

    /// Notes what was read because it is time to; what the answer tells of the membership is news.
    async fn commit_in_time(&mut self) -> Result<Option<News>, ClientError> {
        match self.commit().await {
            Ok(code) if code == ErrorCode::REBALANCE_IN_PROGRESS => Ok(None),
            Ok(code) => {
                Ok(self.membership.beat(code, clock::now(), clock::random_u64()).filter(|_| !code.is_none()))
            }
            Err(error) => Err(error),
        }
    }

    /// Notes what was read. The code is that of the membership: `NONE` when all is well.
    async fn commit(&mut self) -> Result<ErrorCode, ClientError> {
        let due = self.progress.lock().due();
        let (generation, member_id) = self.membership.identity();
        if due.is_empty() || generation < 0 {
            return Ok(ErrorCode::NONE);
        }
        let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
        for (partition, offset) in &due {
            let one = OffsetCommitRequestPartition {
                partition_index: partition.partition,
                committed_offset: *offset,
                committed_metadata: Some(Str::EMPTY),
                ..Default::default()
            };
            match topics.last_mut().filter(|topic| *topic.name == *partition.topic) {
                Some(topic) => topic.partitions.push(one),
                None => topics.push(OffsetCommitRequestTopic {
                    name: Str::from(partition.topic.to_string()),
                    partitions: vec![one],
                    ..Default::default()
                }),
            }
        }
        let request = OffsetCommitRequest {
            group_id: Str::from(&self.config.group),
            generation_id_or_member_epoch: generation,
            member_id: Str::from(member_id.to_string()),
            topics,
            ..Default::default()
        };
        let answer = self.call(&request, COMMIT_VERSION_MAX, Duration::ZERO).await?;
        let codes =
            answer.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| ErrorCode(p.error_code)));
        match codes.into_iter().find(|code| !code.is_none()) {
            None => {
                self.progress.lock().noted.extend(due);
                Ok(ErrorCode::NONE)
            }
            Some(code) if is_of_membership(code) => Ok(code),
            Some(code) => Err(ClientError::Refused {
                what: format!("note the offsets of group '{}'", self.config.group),
                code,
                reason: None,
            }),
        }
    }

    async fn leave(&mut self) -> Result<(), ClientError> {
        let committed = self.commit().await.map(|_| ());
        let (generation, member_id) = self.membership.identity();
        if generation < 0 || member_id.is_empty() {
            return committed;
        }
        let member_id = Str::from(member_id.to_string());
        let group_id = Str::from(&self.config.group);
        let node = self.membership.coordinator();
        let Some(node) = node else { return committed };
        let connection = self.cluster.broker(node, Lane::Group).await?;
        let version = connection.version::<LeaveGroupRequest>(i16::MAX)?;
        let request = match version {
            MANY_LEAVE_FROM.. => LeaveGroupRequest {
                group_id,
                members: vec![MemberIdentity { member_id, reason: None, ..Default::default() }],
                ..Default::default()
            },
            _ => LeaveGroupRequest { group_id, member_id, ..Default::default() },
        };
        connection.call_in(version, &request).await?;
        committed
    }
}

fn is_of_membership(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::REBALANCE_IN_PROGRESS
            | ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
    )
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
