//! The task that asks what the membership says next, and does what it hears.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Release},
    },
    time::{Duration, Instant},
};

use millstream_protocol::{
    ErrorCode, Request, Str,
    messages::{
        heartbeat::HeartbeatRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    Progress,
    assignor::{Assignor, Member, write_assignment, write_subscription},
    link::{Link, Offsets},
    membership::{Ask, Membership, News, Rules, topics_of},
};
use crate::{
    ClientError, clock,
    consumer::{Start, TopicPartition},
};

/// Kafka's name of groups of consumers.
const CONSUMER: &str = "consumer";

/// What the reader asks of the task.
pub(super) enum Command {
    /// Note these offsets, or what was read.
    Commit { offsets: Option<Offsets>, tell: oneshot::Sender<Result<(), ClientError>> },
    /// Note what was read, and leave.
    Leave(oneshot::Sender<Result<(), ClientError>>),
}

/// What the task tells the reader.
pub(super) enum Change {
    /// Begin to read these.
    Assigned(Vec<(TopicPartition, Start)>),
    /// Stop reading these, and say when all is done that is to be done before others begin. It may be `late` for that.
    Revoked { partitions: Vec<TopicPartition>, late: Arc<AtomicBool>, done: oneshot::Sender<()> },
    /// Stop reading these: others may read them already.
    Lost(Vec<TopicPartition>),
}

/// Whether heartbeats go on during something: behind a join on its connection they would wait for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beats {
    GoOn,
    Pause,
}

/// How the membership ends.
enum Ended {
    Failed(ClientError),
    Left,
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Ended {
        Ended::Failed(error)
    }
}

pub(super) struct Coordinator {
    link: Link,
    progress: Arc<Mutex<Progress>>,
    changes: mpsc::Sender<Change>,
    orders: mpsc::Receiver<Command>,
    membership: Membership,
    /// Number of partitions of each topic when this member gave them out; empty when another one did.
    given_out: BTreeMap<String, i32>,
    commit_at: Option<Instant>,
    look_at: Instant,
}

impl Coordinator {
    pub(super) fn new(
        link: Link,
        progress: Arc<Mutex<Progress>>,
        changes: mpsc::Sender<Change>,
        orders: mpsc::Receiver<Command>,
    ) -> Coordinator {
        let (config, now) = (&link.config, clock::now());
        let rules = Rules {
            session_timeout: config.session_timeout,
            heartbeat_interval: config.heartbeat_interval,
            backoff: link.cluster.backoff(),
            cooperative: config.assignors.iter().all(|assignor| assignor.is_cooperative()),
        };
        Coordinator {
            membership: Membership::new(rules, now),
            commit_at: config.commit_every.map(|every| now + every),
            look_at: now + link.cluster.config().metadata_age_max,
            given_out: BTreeMap::new(),
            link,
            progress,
            changes,
            orders,
        }
    }

    /// Is a member until it is told to leave, or cannot be one any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.turn().await {
                Ok(()) => {}
                Err(Ended::Left) => return,
                Err(Ended::Failed(error)) => {
                    // The reader finds it when the changes end.
                    self.progress.lock().failed = Some(error);
                    return;
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let (at, ask) = self.membership.next();
        let heard = tokio::select! {
            () = sleep_until(Some(at)) => self.ask(ask).await,
            () = sleep_until(self.commit_at) => {
                self.commit_at = self.link.config.commit_every.map(|every| clock::now() + every);
                self.commit_in_time().await
            }
            () = sleep_until(Some(self.look_at)) => {
                self.look_at = clock::now() + self.link.cluster.config().metadata_age_max;
                self.look_for_partitions().await.map_err(Ended::from)
            }
            order = self.orders.recv() => self.serve(order).await.map(|()| None),
        };
        let news = match heard {
            Ok(news) => news,
            Err(Ended::Failed(error)) if error.is_retriable() => {
                tracing::debug!(%error, "the group's coordinator does not answer");
                self.membership.unanswered(clock::now(), clock::random_u64())
            }
            Err(ended) => return Err(ended),
        };
        match news {
            Some(news) => self.hear(news).await,
            None => Ok(()),
        }
    }

    /// Does what the news ask for.
    async fn hear(&mut self, news: News) -> Result<(), Ended> {
        let refused = |code, reason| {
            let what = format!("be in group '{}'", self.link.config.group);
            Err(Ended::Failed(ClientError::Refused { what, code, reason }))
        };
        match news {
            News::Assigned { revoked, added } => {
                let is_member = revoked.is_empty() || self.revoke(revoked).await?;
                if is_member { self.begin(added).await } else { Ok(()) }
            }
            News::Revoked(partitions) => self.revoke(partitions).await.map(|_| ()),
            News::Lost(partitions) => {
                tracing::warn!(group = self.link.config.group, "the group went on without this member");
                self.tell(Change::Lost(partitions)).await
            }
            News::Failed(code) => refused(code, None),
            News::Malformed(reason) => refused(ErrorCode::INCONSISTENT_GROUP_PROTOCOL, Some(reason)),
        }
    }

    async fn tell(&mut self, change: Change) -> Result<(), Ended> {
        let changes = self.changes.clone();
        let telling = async { changes.send(change).await.map_err(|_| ClientError::Closed) };
        self.meanwhile(telling, Beats::GoOn).await
    }

    /// Begins to read, each partition from what the group has noted of it, however long that takes to be known.
    async fn begin(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Ended> {
        let link = self.link.clone();
        let noted = loop {
            match self.meanwhile(link.noted(&partitions), Beats::GoOn).await {
                Ok(noted) => break noted,
                Err(Ended::Failed(error)) if error.is_retriable() => {
                    tracing::debug!(%error, "what the group has noted is not known yet");
                }
                Err(ended) => return Err(ended),
            }
        };
        let start = |partition: &TopicPartition| match noted.get(partition) {
            Some(offset) => Start::Offset(*offset),
            None => self.link.config.start,
        };
        let starts = partitions.iter().map(|partition| (partition.clone(), start(partition))).collect();
        self.tell(Change::Assigned(starts)).await
    }

    /// Does something that may take its time, and serves the reader meanwhile.
    async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = Result<T, ClientError>>,
        beats: Beats,
    ) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(Ended::from),
                order = self.orders.recv() => self.serve(order).await?,
                // Whether it is out of the group is heard of again with the next request.
                () = tokio::time::sleep(self.link.config.heartbeat_interval), if beats == Beats::GoOn => {
                    self.stay().await;
                }
            }
        }
    }

    /// Has the reader give partitions up, and notes what was read of them. The others of the group wait for that, up to
    /// the rebalance timeout: a reader that is later than that is not a member any more. Says whether it still is one.
    async fn revoke(&mut self, partitions: Vec<TopicPartition>) -> Result<bool, Ended> {
        let ((done, mut is_done), late) = (oneshot::channel(), Arc::new(AtomicBool::new(false)));
        self.tell(Change::Revoked { partitions: partitions.clone(), late: late.clone(), done }).await?;
        let deadline = clock::now() + self.link.config.rebalance_timeout;
        let (mut left, mut others) = (false, None);
        loop {
            let is_out = tokio::select! {
                // Where the reader is gone, the orders end too.
                _ = &mut is_done => break,
                order = self.orders.recv() => {
                    self.serve(order).await?;
                    false
                }
                () = tokio::time::sleep(self.link.config.heartbeat_interval), if !left => !self.stay().await,
                () = sleep_until(Some(deadline)), if !left => {
                    self.leave_group().await;
                    true
                }
            };
            if is_out && !left {
                tracing::warn!(group = self.link.config.group, "the reader was too slow for its group");
                left = true;
                late.store(true, Release);
                others = self.membership.begin_anew(clock::now());
            }
        }
        if self.link.config.commit_every.is_some() && !left {
            let due = self.progress.lock().due(|partition| partitions.contains(partition));
            let (generation, member_id) = self.membership.identity();
            if let Err(error) = self.link.commit(generation, member_id, &due).await {
                tracing::warn!(%error, "what was read is not noted; it will be read again");
            }
        }
        self.progress.lock().remove(&partitions);
        if let Some(News::Lost(others)) = others {
            self.tell(Change::Lost(others)).await?;
        }
        Ok(!left)
    }

    /// Is heard of while the reader takes its time. False when the group has taken this member out; whatever else the
    /// coordinator says is asked for again later.
    async fn stay(&mut self) -> bool {
        let (generation, member_id) = self.membership.identity();
        let request = self.heartbeat(generation, member_id.to_string());
        let code = match self.link.call(self.link.own_lane(), &request, i16::MAX, Duration::ZERO).await {
            Ok(answer) => ErrorCode(answer.error_code),
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not answered");
                return true;
            }
        };
        if matches!(code, ErrorCode::NONE | ErrorCode::REBALANCE_IN_PROGRESS) {
            self.membership.heard_of(clock::now());
        }
        !matches!(
            code,
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::ILLEGAL_GENERATION | ErrorCode::FENCED_INSTANCE_ID
        )
    }

    fn heartbeat(&self, generation_id: i32, member_id: String) -> HeartbeatRequest {
        HeartbeatRequest {
            group_id: self.link.group_id(),
            generation_id,
            member_id: Str::from(member_id),
            group_instance_id: self.link.instance_id(),
        }
    }

    async fn ask(&mut self, ask: Ask) -> Result<Option<News>, Ended> {
        match ask {
            Ask::Coordinator => {
                let node = self.link.find().await?;
                self.membership.found(node, clock::now());
                Ok(None)
            }
            Ask::Join { member_id } => self.join(member_id).await,
            Ask::AssignAndSync { generation, member_id, assignor, members } => {
                let assignments = self.decide(assignor, &members).await?;
                self.sync(generation, member_id, assignments).await
            }
            Ask::Sync { generation, member_id } => {
                self.given_out.clear();
                self.sync(generation, member_id, Vec::new()).await
            }
            Ask::Heartbeat { generation, member_id } => {
                let request = self.heartbeat(generation, member_id);
                let answer = self.call(&request, Duration::ZERO).await?;
                Ok(self.membership.beat(ErrorCode(answer.error_code), clock::now(), clock::random_u64()))
            }
        }
    }

    async fn join(&mut self, member_id: String) -> Result<Option<News>, Ended> {
        let config = self.link.config.clone();
        let subscription = self.membership.subscription(&config.topics);
        let mut protocols = Vec::with_capacity(config.assignors.len());
        for assignor in &config.assignors {
            let metadata = write_subscription(*assignor, &subscription)
                .map_err(|source| ClientError::Unwritable { api: JoinGroupRequest::KEY.name(), source })?;
            protocols.push(JoinGroupRequestProtocol { name: Str::from(assignor.name()), metadata });
        }
        let request = JoinGroupRequest {
            group_id: self.link.group_id(),
            session_timeout_ms: millis(config.session_timeout),
            rebalance_timeout_ms: millis(config.rebalance_timeout),
            member_id: Str::from(member_id),
            group_instance_id: self.link.instance_id(),
            protocol_type: Str::from(CONSUMER),
            protocols,
            reason: None,
        };
        let answer = self.call(&request, config.rebalance_timeout).await?;
        Ok(self.membership.joined(answer, clock::now(), clock::random_u64()))
    }

    async fn sync(
        &mut self,
        generation_id: i32,
        member_id: String,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Option<News>, Ended> {
        let request = SyncGroupRequest {
            group_id: self.link.group_id(),
            generation_id,
            member_id: Str::from(member_id),
            group_instance_id: self.link.instance_id(),
            protocol_type: Some(Str::from(CONSUMER)),
            protocol_name: self.membership.assignor().map(|assignor| Str::from(assignor.name())),
            assignments,
        };
        let answer = self.call(&request, self.link.config.rebalance_timeout).await?;
        Ok(self.membership.synced(answer, clock::now(), clock::random_u64()))
    }

    /// Asks, and serves the reader while the answer takes its time: a join waits for all members.
    async fn call<R: Request>(&mut self, request: &R, longer: Duration) -> Result<R::Response, Ended> {
        let link = self.link.clone();
        self.meanwhile(link.call(link.own_lane(), request, i16::MAX, longer), Beats::Pause).await
    }

    /// Decides for all members who reads what.
    async fn decide(
        &mut self,
        assignor: Assignor,
        members: &[Member],
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut partitions = BTreeMap::new();
        for topic in topics_of(members) {
            match self.link.cluster.topic(&topic, false).await {
                Ok(known) => drop(partitions.insert(topic, known.partitions.len() as i32)),
                // A topic that does not exist yet has nothing to read.
                Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                    partitions.insert(topic, 0);
                }
                Err(error) => return Err(error),
            }
        }
        let encoded = assignor.assign(members, &partitions).into_iter().map(|(member, partitions)| {
            let assignment = write_assignment(&partitions)
                .map_err(|source| ClientError::Unwritable { api: SyncGroupRequest::KEY.name(), source })?;
            Ok(SyncGroupRequestAssignment { member_id: Str::from(member), assignment })
        });
        self.given_out = partitions;
        encoded.collect()
    }

    /// The member that gave the partitions out sees to it that new ones are given out too.
    async fn look_for_partitions(&mut self) -> Result<Option<News>, ClientError> {
        let topics: Vec<&str> = self.given_out.keys().map(String::as_str).collect();
        if topics.is_empty() {
            return Ok(None);
        }
        let cluster = &self.link.cluster;
        cluster.refresh(&topics).await?;
        let count = |topic: &String| cluster.known(topic).map_or(0, |known| known.partitions.len() as i32);
        let changed = self.given_out.iter().any(|(topic, given)| count(topic) != *given);
        Ok(if changed { self.membership.regroup(clock::now()) } else { None })
    }

    async fn serve(&mut self, order: Option<Command>) -> Result<(), Ended> {
        match order {
            None => Err(Ended::Left),
            Some(Command::Commit { offsets, tell }) => {
                // Whoever does not wait any more needs no answer.
                let _ = tell.send(self.commit(offsets).await);
                Ok(())
            }
            Some(Command::Leave(tell)) => {
                let committed =
                    if self.link.config.commit_every.is_some() { self.commit(None).await } else { Ok(()) };
                self.leave_group().await;
                let _ = tell.send(committed);
                Err(Ended::Left)
            }
        }
    }

    /// Notes these offsets, or what was read.
    async fn commit(&mut self, offsets: Option<Offsets>) -> Result<(), ClientError> {
        let due = offsets.unwrap_or_else(|| self.progress.lock().due(|_| true));
        let (generation, member_id) = self.membership.identity();
        self.link.commit(generation, member_id, &due).await?;
        self.progress.lock().note(due);
        Ok(())
    }

    /// Notes what was read because it is time to; what the answer tells of the membership is news.
    async fn commit_in_time(&mut self) -> Result<Option<News>, Ended> {
        let due = self.progress.lock().due(|_| true);
        let (generation, member_id) = self.membership.identity();
        if due.is_empty() || generation < 0 {
            return Ok(None);
        }
        match self.link.commit_once(generation, member_id, &due).await {
            Ok(()) => {
                self.progress.lock().note(due);
                Ok(None)
            }
            // The next heartbeat tells the same.
            Err(error) if error.code() == Some(ErrorCode::REBALANCE_IN_PROGRESS) => Ok(None),
            Err(error) => match error.code().filter(|code| is_of_membership(*code)) {
                Some(code) => Ok(self.membership.beat(code, clock::now(), clock::random_u64())),
                None => Err(error.into()),
            },
        }
    }

    /// A member with a name keeps its place: it comes back under it.
    async fn leave_group(&mut self) {
        let (_, member_id) = self.membership.identity();
        if self.link.config.instance.is_some() || member_id.is_empty() {
            return;
        }
        if let Err(error) = self.link.leave(member_id).await {
            tracing::debug!(%error, "the group will notice by itself that this member is gone");
        }
    }
}

fn is_of_membership(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ILLEGAL_GENERATION
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
