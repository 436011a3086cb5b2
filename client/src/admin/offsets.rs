//! Offsets by name and by time.

use std::collections::BTreeMap;

use millstream_protocol::{
    ErrorCode, Str,
    messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
};

use super::Admin;
use crate::{
    ClientError, Cluster,
    cluster::Lane,
    consumer::{Start, TopicPartition},
};

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first that there is.
    Earliest,
    /// Behind the last.
    Latest,
    /// That of the record with the largest timestamp.
    MaxTimestamp,
    /// The first whose timestamp is at or after this, in milliseconds.
    Time(i64),
}

impl OffsetAt {
    fn timestamp(self) -> i64 {
        match self {
            OffsetAt::Latest => -1,
            OffsetAt::Earliest => -2,
            OffsetAt::MaxTimestamp => -3,
            OffsetAt::Time(time) => time.max(0),
        }
    }
}

/// An offset that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: i64,
    /// The record's timestamp in milliseconds, or -1.
    pub timestamp_ms: i64,
}

impl Admin {
    pub(super) async fn leader_of(&self, partition: &TopicPartition) -> Result<i32, ClientError> {
        leader(&self.cluster, partition).await
    }

    /// Finds offsets; none where no record is late enough.
    pub async fn offsets(
        &self,
        partitions: Vec<TopicPartition>,
        at: OffsetAt,
    ) -> Vec<(TopicPartition, Result<Option<FoundOffset>, ClientError>)> {
        find(&self.cluster, partitions.into_iter().map(|partition| (partition, at.timestamp())).collect())
            .await
    }
}

async fn leader(cluster: &Cluster, partition: &TopicPartition) -> Result<i32, ClientError> {
    let topic = cluster.topic(&partition.topic, false).await?;
    let known = usize::try_from(partition.partition).ok().and_then(|at| topic.partitions.get(at));
    let refused = |code| ClientError::Refused { what: format!("find {partition}"), code, reason: None };
    let known = known.ok_or_else(|| refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))?;
    known.leader.ok_or_else(|| refused(ErrorCode::LEADER_NOT_AVAILABLE))
}

type Answer = (TopicPartition, Result<Option<FoundOffset>, ClientError>);

/// One request to each broker that leads some of the partitions.
async fn find(cluster: &Cluster, wanted: Vec<(TopicPartition, i64)>) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::with_capacity(wanted.len());
    let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, i64)>> = BTreeMap::new();
    for (partition, timestamp) in wanted {
        match leader(cluster, &partition).await {
            Ok(leader) => by_leader.entry(leader).or_default().push((partition, timestamp)),
            Err(error) => answers.push((partition, Err(error))),
        }
    }
    for (leader, wanted) in by_leader {
        match ask(cluster, leader, &wanted).await {
            Ok(found) => answers.extend(found),
            Err(error) => {
                answers.extend(wanted.into_iter().map(|(partition, _)| (partition, Err(error.clone()))))
            }
        }
    }
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    answers
}

async fn ask(
    cluster: &Cluster,
    leader: i32,
    wanted: &[(TopicPartition, i64)],
) -> Result<Vec<Answer>, ClientError> {
    let connection = cluster.broker(leader, Lane::Ask).await?;
    let version = connection.version::<ListOffsetsRequest>(i16::MAX)?;
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for (partition, timestamp) in wanted {
        let asked = ListOffsetsPartition {
            partition_index: partition.partition,
            timestamp: *timestamp,
            ..Default::default()
        };
        match topics.last_mut().filter(|topic| *topic.name == *partition.topic) {
            Some(topic) => topic.partitions.push(asked),
            None => {
                let name = Str::from(partition.topic.to_string());
                topics.push(ListOffsetsTopic { name, partitions: vec![asked] });
            }
        }
    }
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let response = connection.call_in(version, &request).await?;
    let mut found: BTreeMap<(String, i32), _> = BTreeMap::new();
    for topic in response.topics {
        found.extend(topic.partitions.into_iter().map(|p| ((topic.name.to_string(), p.partition_index), p)));
    }
    let answers = wanted.iter().map(|(partition, _)| {
        let what = || format!("find an offset of {partition}");
        let answer = found.remove(&(partition.topic.to_string(), partition.partition)).unwrap_or_default();
        let offset = Some(answer.offset).filter(|offset| *offset >= 0);
        let found = offset.map(|offset| FoundOffset { offset, timestamp_ms: answer.timestamp });
        (partition.clone(), ClientError::check(answer.error_code, what, None).map(|()| found))
    });
    Ok(answers.collect())
}

/// The offset with which each reading begins. Where no record is late enough, it is the end.
pub(crate) async fn find_starts(
    cluster: &Cluster,
    wanted: Vec<(TopicPartition, Start)>,
) -> Vec<(TopicPartition, Result<i64, ClientError>)> {
    let timestamp = |start| match start {
        Start::Beginning => OffsetAt::Earliest.timestamp(),
        Start::End | Start::Offset(_) => OffsetAt::Latest.timestamp(),
        Start::Time(time) => OffsetAt::Time(time).timestamp(),
    };
    let asked = wanted.into_iter().map(|(partition, start)| (partition, timestamp(start)));
    let (mut starts, mut late) = (Vec::new(), Vec::new());
    for (partition, answer) in find(cluster, asked.collect()).await {
        match answer {
            Ok(Some(found)) => starts.push((partition, Ok(found.offset))),
            Ok(None) => late.push((partition, OffsetAt::Latest.timestamp())),
            Err(error) => starts.push((partition, Err(error))),
        }
    }
    let ends = find(cluster, late).await.into_iter();
    starts.extend(
        ends.map(|(partition, answer)| (partition, answer.map(|end| end.map_or(0, |end| end.offset)))),
    );
    starts
}
