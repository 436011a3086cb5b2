//! Consumer groups over HTTP: list, describe with lag, reset offsets, delete.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State, http::StatusCode};
use millstream_protocol::{decode_data, messages::consumer_protocol::ConsumerProtocolAssignment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Open, Port,
    problem::{Body, Name, Problem},
};
use crate::{
    clock,
    service::{
        CommittedOffset, GroupError, MemberRef, MemberView, OffsetEntry, OffsetQuery, PartitionLag,
        PartitionView, RecordTimes, Service, TopicLag, TopicView,
    },
};

/// Batches that are read to describe one group.
const READS_MAX: usize = 10_000;
/// The generation of commits without membership.
const NO_GENERATION: i32 = -1;

/// Consumer groups.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Groups")]
pub(super) struct GroupsJson {
    /// The groups that this node coordinates, sorted by name.
    groups: Vec<GroupSummaryJson>,
}

/// A summary of a consumer group.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupSummary")]
struct GroupSummaryJson {
    /// Group name.
    name: String,
    /// Kafka's name of the group's state.
    state: &'static str,
    /// Protocol type: `consumer` for consumers, empty if only offsets were committed.
    protocol_type: String,
}

/// A consumer group with its lag.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Group")]
pub(super) struct GroupJson {
    /// Group name.
    name: String,
    /// Kafka's name of the group's state.
    state: &'static str,
    /// Protocol type.
    protocol_type: String,
    /// The assignor that was chosen; null during a rebalance.
    protocol: Option<String>,
    /// Members of the group.
    members: Vec<MemberJson>,
    /// Number of unread records in all topics.
    lag_records: i64,
    /// Age of the oldest unread record in seconds; 0 if there is none, null if it is unknown.
    lag_seconds: Option<f64>,
    /// Partitions with records that are not included in the lag: the group has committed no offset for them,
    /// or another node leads them.
    uncounted_partitions: usize,
    /// Topics with committed offsets of the group, or that its members subscribe to.
    topics: Vec<GroupTopicJson>,
}

/// A member of a group.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Member")]
struct MemberJson {
    /// Member id.
    id: String,
    /// Instance id, for a static member.
    instance_id: Option<String>,
    /// Client id.
    client_id: String,
    /// Client address.
    host: String,
    /// Assigned partitions by topic.
    assignment: BTreeMap<String, Vec<i32>>,
}

/// The lag of a group in a topic.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupTopic")]
struct GroupTopicJson {
    /// Topic name.
    topic: String,
    /// Number of unread records.
    lag_records: i64,
    /// Age of the oldest unread record in seconds.
    lag_seconds: Option<f64>,
    /// Partitions with records that are not included in the lag.
    uncounted_partitions: usize,
    /// Partitions with a committed offset.
    partitions: Vec<GroupPartitionJson>,
}

/// The lag of a group in a partition.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupPartition")]
struct GroupPartitionJson {
    /// Partition number.
    partition: i32,
    /// Committed offset: that of the next record to read.
    committed_offset: i64,
    /// First offset of the partition.
    log_start_offset: i64,
    /// Offset after the last record.
    end_offset: i64,
    /// Number of unread records.
    lag_records: i64,
    /// Age of the oldest unread record in seconds.
    lag_seconds: Option<f64>,
}

/// A reset of a group's offsets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Reset")]
pub(super) struct ResetJson {
    /// Topic name.
    topic: String,
    /// Partition numbers; all if omitted.
    #[serde(default)]
    partitions: Option<Vec<i32>>,
    /// The new position.
    to: PositionJson,
}

/// A position in a partition.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "Position")]
enum PositionJson {
    /// The first record.
    Earliest,
    /// After the last record.
    Latest,
    /// This offset, limited to the partition's range.
    Offset(i64),
    /// The first record with a timestamp at or after this, in milliseconds since 1970; after the last record
    /// if there is none.
    TimeMs(i64),
}

/// The committed offsets after a reset.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ResetDone")]
pub(super) struct ResetDoneJson {
    /// Group name.
    group: String,
    /// Topic name.
    topic: String,
    /// Offsets by partition.
    offsets: BTreeMap<i32, i64>,
}

pub(super) async fn list(Open(admin): Open) -> Json<GroupsJson> {
    let groups = admin.sources.service.groups().list().into_iter();
    let groups = groups.map(|group| GroupSummaryJson {
        name: group.name.to_string(),
        state: group.state,
        protocol_type: group.protocol_type,
    });
    Json(GroupsJson { groups: groups.collect() })
}

pub(super) async fn show(
    State(port): State<Arc<Port>>,
    Open(admin): Open,
    Name(name): Name,
) -> Result<Json<GroupJson>, Problem> {
    port.in_background(move || group(&admin.sources.service, &name)).await?.map(Json)
}

fn group(service: &Service, name: &str) -> Result<GroupJson, Problem> {
    let refused = |error| Problem::of_group(name, error);
    let view = service.groups().describe(name).map_err(refused)?.ok_or_else(|| Problem::no_group(name))?;
    let mut times = RecordTimes::new(READS_MAX);
    let lags = service.group_lag(name, clock::now_ms(), &mut times).map_err(refused)?;
    let oldest: Option<Vec<i64>> = lags.iter().map(TopicLag::age_ms).collect();
    Ok(GroupJson {
        name: name.to_string(),
        state: view.phase.name(),
        protocol_type: view.protocol_type.unwrap_or_default(),
        protocol: view.protocol,
        members: view.members.into_iter().map(member_json).collect(),
        lag_records: lags.iter().map(TopicLag::records).sum(),
        lag_seconds: oldest.map(|ages| in_seconds(ages.into_iter().max().unwrap_or(0))),
        uncounted_partitions: lags.iter().map(|lag| lag.uncounted).sum(),
        topics: lags.iter().map(topic_json).collect(),
    })
}

fn in_seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

fn member_json(member: MemberView) -> MemberJson {
    MemberJson {
        id: member.id.to_string(),
        instance_id: member.instance_id.map(|id| id.to_string()),
        client_id: member.client_id,
        host: member.client_host,
        assignment: assignment(member.assignment),
    }
}

/// A consumer's assignment; members of other types have assignments that only they can decode.
fn assignment(bytes: bytes::Bytes) -> BTreeMap<String, Vec<i32>> {
    if bytes.is_empty() {
        return BTreeMap::new();
    }
    let read = decode_data::<ConsumerProtocolAssignment>(bytes).map(|(_, read)| read).unwrap_or_default();
    read.assigned_partitions.into_iter().map(|topic| (topic.topic.to_string(), topic.partitions)).collect()
}

fn topic_json(lag: &TopicLag) -> GroupTopicJson {
    GroupTopicJson {
        topic: lag.topic.to_string(),
        lag_records: lag.records(),
        lag_seconds: lag.age_ms().map(in_seconds),
        uncounted_partitions: lag.uncounted,
        partitions: lag.partitions.iter().map(partition_json).collect(),
    }
}

fn partition_json(lag: &PartitionLag) -> GroupPartitionJson {
    GroupPartitionJson {
        partition: lag.partition,
        committed_offset: lag.committed,
        log_start_offset: lag.log_start,
        end_offset: lag.end,
        lag_records: lag.records,
        lag_seconds: lag.age_ms.map(in_seconds),
    }
}

pub(super) async fn reset(
    Open(admin): Open,
    Name(name): Name,
    Body(wanted): Body<ResetJson>,
) -> Result<Json<ResetDoneJson>, Problem> {
    let service = &admin.sources.service;
    let topic = service.topic(&wanted.topic).ok_or_else(|| Problem::no_topic(&wanted.topic))?;
    let mut offsets = BTreeMap::new();
    for partition in chosen(&topic, wanted.partitions)? {
        offsets.insert(partition.index, position(service, partition, wanted.to).await?);
    }
    let commit_ms = clock::now_ms();
    let entry = |(partition, offset): (&i32, &i64)| OffsetEntry {
        topic: topic.name.as_str().into(),
        partition: *partition,
        committed: CommittedOffset {
            offset: *offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_ms,
            expire_ms: None,
        },
    };
    let no_member = MemberRef { id: "".into(), instance_id: None, generation: NO_GENERATION };
    let committed =
        service.groups().commit(name.as_str().into(), no_member, offsets.iter().map(entry).collect()).await;
    committed.map_err(|error| Problem::of_group(&name, error))?;
    Ok(Json(ResetDoneJson { group: name, topic: wanted.topic, offsets }))
}

fn chosen(topic: &TopicView, wanted: Option<Vec<i32>>) -> Result<Vec<&PartitionView>, Problem> {
    let Some(wanted) = wanted else { return Ok(topic.partitions.iter().collect()) };
    let find = |index: i32| {
        let found = usize::try_from(index).ok().and_then(|at| topic.partitions.get(at));
        found.ok_or_else(|| {
            let (name, partitions) = (&topic.name, topic.partitions.len());
            let error = format!(
                "topic '{name}' has no partition {index}: the number of its partitions is {partitions}"
            );
            Problem { status: StatusCode::BAD_REQUEST, error }
        })
    };
    wanted.into_iter().collect::<BTreeSet<_>>().into_iter().map(find).collect()
}

async fn position(service: &Service, partition: &PartitionView, to: PositionJson) -> Result<i64, Problem> {
    let find = async |query| {
        Ok::<_, Problem>(service.list_offset(partition, query, -1).await?.map(|found| found.offset))
    };
    let query = match to {
        PositionJson::Earliest => OffsetQuery::Earliest,
        PositionJson::Latest => OffsetQuery::Latest,
        PositionJson::TimeMs(time) => OffsetQuery::At(time.max(0)),
        PositionJson::Offset(offset) => {
            let bounds = service.partition_offsets(partition);
            let (start, end) = bounds.ok_or_else(|| Problem::from(crate::service::FetchError::NotLeader))?;
            return Ok(offset.clamp(start, end));
        }
    };
    match find(query).await? {
        Some(offset) => Ok(offset),
        // No record is late enough.
        None => Ok(find(OffsetQuery::Latest).await?.unwrap_or(0)),
    }
}

pub(super) async fn remove(Open(admin): Open, Name(name): Name) -> Result<StatusCode, Problem> {
    let removed: Result<(), GroupError> = admin.sources.service.groups().delete(&name).await;
    removed.map(|()| StatusCode::NO_CONTENT).map_err(|error| Problem::of_group(&name, error))
}
