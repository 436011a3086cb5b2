//! The task that sends the requests of the membership and handles its events.

mod absence;
mod orders;
mod topics;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
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
    link::Link,
    membership::{Ask, Membership, MembershipEvent, Rules, topics_of},
};
use crate::{
    ClientError, clock,
    consumer::{Start, TopicPartition},
};
use orders::Order;
use topics::Wanted;

pub(super) use absence::Presence;
pub(super) use orders::Command;

/// Kafka's name of groups of consumers.
const CONSUMER: &str = "consumer";

/// What the task tells the reader.
pub(super) enum Change {
    /// Begin to read these.
    Assigned(Vec<(TopicPartition, Start)>),
    /// Stop reading these, and say when all is done that is to be done before others begin. It may be `late` for that.
    Revoked { partitions: Vec<TopicPartition>, late: Arc<OnceLock<Late>>, done: oneshot::Sender<()> },
    /// Stop reading these: others may read them already.
    Lost(Vec<TopicPartition>),
    /// The same, because the application asked for nothing since; and say that it is back.
    Overdue { since: Instant, lost: Vec<TopicPartition>, back: oneshot::Sender<()> },
}

/// Why a reader that gives something up is not waited for any more.
pub(super) enum Late {
    /// The others of the group did not wait for longer.
    ForTheOthers,
    /// The application asked for nothing since, for too long.
    Overdue { since: Instant },
}

/// Whether heartbeats are sent meanwhile: after a join on the same connection they would wait for its response.
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
    presence: Arc<Presence>,
    changes: mpsc::Sender<Change>,
    orders: mpsc::Receiver<Command>,
    /// Orders that the group could not take while it changed, in their order.
    postponed: VecDeque<Order>,
    membership: Membership,
    wanted: Wanted,
    /// Number of partitions of each topic when this member gave them out; empty when another one did.
    given_out: BTreeMap<String, i32>,
    commit_at: Option<Instant>,
    look_at: Instant,
}

impl Coordinator {
    pub(super) fn new(
        link: Link,
        progress: Arc<Mutex<Progress>>,
        presence: Arc<Presence>,
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
            presence,
            changes,
            orders,
            postponed: VecDeque::new(),
            wanted: Wanted::default(),
        }
    }

    /// Runs the membership until it is asked to leave or cannot go on.
    pub(super) async fn run(mut self) {
        if let Err(Ended::Failed(error)) = self.run_membership().await {
            // The reader finds it when the changes end.
            self.progress.lock().failed = Some(error);
        }
    }

    async fn run_membership(&mut self) -> Result<(), Ended> {
        self.link.config.check()?;
        loop {
            self.turn().await?;
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let (at, ask) = self.membership.next();
        let overdue_at = self.overdue_at();
        let received = tokio::select! {
            // What is due comes first: between a join and its sync the group takes no offsets.
            biased;
            () = sleep_until(Some(at)) => self.ask(ask).await,
            () = sleep_until(overdue_at) => self.part_with_overdue().await,
            () = sleep_until(self.commit_at) => {
                self.commit_at = self.link.config.commit_every.map(|every| clock::now() + every);
                self.commit_in_time().await
            }
            () = sleep_until(Some(self.look_at)) => {
                self.look_at = clock::now() + self.link.cluster.config().metadata_age_max;
                self.look_for_partitions().await.map_err(Ended::from)
            }
            order = self.order() => self.serve(order).await.map(|()| None),
        };
        let event = match received {
            Ok(event) => event,
            Err(Ended::Failed(error)) if error.is_retriable() => {
                tracing::debug!(%error, "the group's coordinator does not answer");
                self.membership.unanswered(clock::now(), clock::random_u64())
            }
            Err(ended) => return Err(ended),
        };
        // Before the reader is asked for anything: it may wait for these.
        self.serve_postponed().await?;
        match event {
            Some(event) => self.handle_event(event).await,
            None => Ok(()),
        }
    }

    /// Handles one event of the membership.
    async fn handle_event(&mut self, event: MembershipEvent) -> Result<(), Ended> {
        let refused = |code, reason| {
            let what = format!("be in group '{}'", self.link.config.group);
            Err(Ended::Failed(ClientError::Refused { what, code, reason }))
        };
        match event {
            MembershipEvent::Assigned { revoked, added } => {
                let is_member = revoked.is_empty() || self.revoke(revoked).await?;
                if is_member { self.begin(added).await } else { Ok(()) }
            }
            MembershipEvent::Revoked(partitions) => self.revoke(partitions).await.map(|_| ()),
            MembershipEvent::Lost(partitions) => {
                tracing::warn!(group = self.link.config.group, "the group went on without this member");
                self.report(Change::Lost(partitions)).await
            }
            MembershipEvent::Failed(code) => refused(code, None),
            MembershipEvent::Malformed(reason) => {
                refused(ErrorCode::INCONSISTENT_GROUP_PROTOCOL, Some(reason))
            }
        }
    }

    async fn report(&mut self, change: Change) -> Result<(), Ended> {
        let changes = self.changes.clone();
        let telling = async { changes.send(change).await.map_err(|_| ClientError::Closed) };
        self.meanwhile(telling, Beats::GoOn).await
    }

    /// Begins to read, each partition from what the group has committed of it, however long that takes to be known.
    async fn begin(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Ended> {
        let link = self.link.clone();
        let committed = loop {
            match self.meanwhile(link.committed(&partitions), Beats::GoOn).await {
                Ok(committed) => break committed,
                Err(Ended::Failed(error)) if error.is_retriable() => {
                    tracing::debug!(%error, "what the group has committed is not known yet");
                }
                Err(ended) => return Err(ended),
            }
        };
        let start = |partition: &TopicPartition| match committed.get(partition) {
            Some(offset) => Start::Offset(*offset),
            None => self.link.config.start,
        };
        let starts = partitions.iter().map(|partition| (partition.clone(), start(partition))).collect();
        self.report(Change::Assigned(starts)).await
    }

    /// Does something that may take its time, and serves the reader meanwhile.
    async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = Result<T, ClientError>>,
        beats: Beats,
    ) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        let heartbeat_interval = self.link.config.heartbeat_interval;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done.map_err(Ended::from),
                order = self.order() => self.serve(order).await?,
                // The next request reports again whether it is out of the group.
                () = tokio::time::sleep(heartbeat_interval), if beats == Beats::GoOn => {
                    if self.overdue().is_none() {
                        self.send_heartbeat().await;
                    }
                }
            }
        }
    }

    /// Has the reader give partitions up, and commits what was read of them. The others of the group wait for that, up to
    /// the rebalance timeout: a reader that is later than that is not a member any more. Says whether it still is one.
    async fn revoke(&mut self, partitions: Vec<TopicPartition>) -> Result<bool, Ended> {
        let ((done, mut is_done), late) = (oneshot::channel(), Arc::<OnceLock<Late>>::default());
        self.report(Change::Revoked { partitions: partitions.clone(), late: late.clone(), done }).await?;
        let deadline = clock::now() + self.link.config.rebalance_timeout;
        let heartbeat_interval = self.link.config.heartbeat_interval;
        let (mut left, mut others) = (false, None);
        loop {
            let late_at = self.overdue_at().map_or(deadline, |at| at.min(deadline));
            let out = tokio::select! {
                biased;
                // Where the reader is gone, the orders end too.
                _ = &mut is_done => break,
                order = self.order() => {
                    self.serve(order).await?;
                    None
                }
                () = sleep_until(Some(late_at)), if !left => {
                    let out = self.overdue().or((clock::now() >= deadline).then_some(Late::ForTheOthers));
                    if out.is_some() {
                        self.leave_group().await;
                    }
                    out
                }
                () = tokio::time::sleep(heartbeat_interval), if !left => {
                    (!self.send_heartbeat().await).then_some(Late::ForTheOthers)
                }
            };
            if let Some(why) = out.filter(|_| !left) {
                tracing::warn!(group = self.link.config.group, "the reader was too slow for its group");
                left = true;
                // Nothing else sets it.
                let _ = late.set(why);
                others = self.membership.begin_anew(clock::now());
            }
        }
        if self.link.config.commit_every.is_some() && !left {
            let due = self.progress.lock().due(|partition| partitions.contains(partition));
            let (generation, member_id) = self.membership.identity();
            if let Err(error) = self.link.commit(generation, member_id, &due).await {
                tracing::warn!(%error, "what was read is not committed; it will be read again");
            }
        }
        self.progress.lock().remove(&partitions);
        if let Some(MembershipEvent::Lost(others)) = others {
            self.report(Change::Lost(others)).await?;
        }
        Ok(!left)
    }

    /// Keeps the session alive while the reader takes its time. False if the group has removed this member; any other
    /// answer of the coordinator is requested again later.
    async fn send_heartbeat(&mut self) -> bool {
        let (generation, member_id) = self.membership.identity();
        if generation < 0 {
            return true;
        }
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

    async fn ask(&mut self, ask: Ask) -> Result<Option<MembershipEvent>, Ended> {
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

    async fn join(&mut self, member_id: String) -> Result<Option<MembershipEvent>, Ended> {
        let config = self.link.config.clone();
        let topics = self.topics_to_join_with().await?;
        let subscription = self.membership.subscription(&topics);
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
    ) -> Result<Option<MembershipEvent>, Ended> {
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
