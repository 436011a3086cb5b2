//! A group's coordinator, asked: the requests of a member, and what the group has committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_protocol::{
    ErrorCode, Request, Str,
    messages::{
        leave_group::{LeaveGroupRequest, MemberIdentity},
        offset_commit::OffsetCommitRequest,
        offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic},
    },
};

use super::GroupConfig;
use crate::{
    ClientError, Cluster, clock,
    cluster::{Lane, MemberLane},
    consumer::TopicPartition,
    wire::topics_to_commit,
};

/// The newest OffsetCommit version of classic groups.
const COMMIT_VERSION_MAX: i16 = 8;
/// The newest OffsetFetch version that asks for one group.
const FETCH_VERSION_MAX: i16 = 7;
/// First LeaveGroup version that names several members.
const MANY_LEAVE_FROM: i16 = 3;
/// No coordinator is known.
const UNKNOWN_NODE: i32 = -1;

pub(super) type Offsets = BTreeMap<TopicPartition, i64>;

/// The group's coordinator, wherever it is now. Clones share what they know.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) cluster: Cluster,
    pub(super) config: Arc<GroupConfig>,
    node: Arc<AtomicI32>,
    own: Arc<MemberLane>,
}

impl Link {
    pub(super) fn new(cluster: Cluster, config: Arc<GroupConfig>) -> Link {
        let own = Arc::new(cluster.member_lane());
        Link { cluster, config, node: Arc::new(AtomicI32::new(UNKNOWN_NODE)), own }
    }

    /// Where joins, syncs and heartbeats go: not behind those of another member.
    pub(super) fn own_lane(&self) -> Lane {
        self.own.lane()
    }

    pub(super) fn group_id(&self) -> Str {
        Str::from(&self.config.group)
    }

    pub(super) fn instance_id(&self) -> Option<Str> {
        self.config.instance.as_ref().map(Str::from)
    }

    /// Topics that match the pattern, asked for anew. What belongs to the broker itself is never one of them.
    pub(super) async fn matching_topics(&self) -> Result<BTreeSet<String>, ClientError> {
        let Some(pattern) = &self.config.pattern else { return Ok(BTreeSet::new()) };
        let all = self.cluster.topics().await?;
        let matching = all.iter().filter(|topic| !topic.internal && pattern.matches(&topic.name));
        Ok(matching.map(|topic| topic.name.clone()).collect())
    }

    /// Looks for the coordinator.
    pub(super) async fn find(&self) -> Result<i32, ClientError> {
        let node = self.cluster.coordinator(&self.config.group).await?;
        self.node.store(node, Relaxed);
        Ok(node)
    }

    /// Asks the coordinator. A join holds up whatever follows it on its connection, so that members' requests have
    /// another one than questions about offsets.
    pub(super) async fn call<R: Request>(
        &self,
        lane: Lane,
        request: &R,
        version_max: i16,
        longer: Duration,
    ) -> Result<R::Response, ClientError> {
        let node = match self.node.load(Relaxed) {
            UNKNOWN_NODE => self.find().await?,
            node => node,
        };
        let connection = self.cluster.broker(node, lane).await?;
        connection.call_waiting(connection.version::<R>(version_max)?, request, longer).await
    }

    /// Tries until it is done or refused for good, or until answers take too long.
    async fn insist<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        let (begun, mut failures) = (clock::now(), 0);
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let over = clock::now().saturating_duration_since(begun) > self.cluster.config().request_timeout;
            let hopeless = !error.is_retriable() || error.code() == Some(ErrorCode::REBALANCE_IN_PROGRESS);
            if over || hopeless {
                return Err(error);
            }
            failures += 1;
            tracing::debug!(%error, "the group's coordinator does not answer");
            tokio::time::sleep(self.cluster.backoff().after(failures, clock::random_u64())).await;
            self.node.store(UNKNOWN_NODE, Relaxed);
        }
    }

    /// What the group has committed of these partitions.
    pub(super) async fn committed(&self, partitions: &[TopicPartition]) -> Result<Offsets, ClientError> {
        if partitions.is_empty() {
            return Ok(Offsets::new());
        }
        self.insist(|| self.noted_once(partitions)).await
    }

    async fn noted_once(&self, partitions: &[TopicPartition]) -> Result<Offsets, ClientError> {
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
        let request =
            OffsetFetchRequest { group_id: self.group_id(), topics: Some(topics), ..Default::default() };
        let answer = self.call(Lane::Ask, &request, FETCH_VERSION_MAX, Duration::ZERO).await?;
        let what = || format!("ask for the offsets of group '{}'", self.config.group);
        ClientError::check(answer.error_code, what, None)?;
        let mut committed = Offsets::new();
        for topic in answer.topics {
            let name: Arc<str> = topic.name.as_str().into();
            for found in topic.partitions {
                ClientError::check(found.error_code, what, None)?;
                if found.committed_offset >= 0 {
                    let place = TopicPartition { topic: name.clone(), partition: found.partition_index };
                    committed.insert(place, found.committed_offset);
                }
            }
        }
        Ok(committed)
    }

    /// Commits offsets as a member of a generation.
    pub(super) async fn commit(
        &self,
        generation: i32,
        member_id: &str,
        offsets: &Offsets,
    ) -> Result<(), ClientError> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.insist(|| self.commit_once(generation, member_id, offsets)).await
    }

    /// The same without a second try.
    pub(super) async fn commit_once(
        &self,
        generation: i32,
        member_id: &str,
        offsets: &Offsets,
    ) -> Result<(), ClientError> {
        let request = OffsetCommitRequest {
            group_id: self.group_id(),
            generation_id_or_member_epoch: generation,
            member_id: Str::from(member_id.to_string()),
            group_instance_id: self.instance_id(),
            topics: topics_to_commit(offsets),
            ..Default::default()
        };
        let answer = self.call(Lane::Ask, &request, COMMIT_VERSION_MAX, Duration::ZERO).await?;
        let what = || format!("commit the offsets of group '{}'", self.config.group);
        let mut all = answer.topics.iter().flat_map(|topic| topic.partitions.iter());
        all.try_for_each(|partition| ClientError::check(partition.error_code, what, None))
    }

    /// Leaves the group, so that others need not wait for the session timeout.
    pub(super) async fn leave(&self, member_id: &str) -> Result<(), ClientError> {
        let node = self.node.load(Relaxed);
        let (member_id, group_id) = (Str::from(member_id.to_string()), self.group_id());
        let connection = self.cluster.broker(node, Lane::Ask).await?;
        let version = connection.version::<LeaveGroupRequest>(i16::MAX)?;
        let request = match version {
            MANY_LEAVE_FROM.. => LeaveGroupRequest {
                group_id,
                members: vec![MemberIdentity { member_id, ..Default::default() }],
                ..Default::default()
            },
            _ => LeaveGroupRequest { group_id, member_id, ..Default::default() },
        };
        connection.call_in(version, &request).await.map(|_| ())
    }
}
