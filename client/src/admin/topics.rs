//! Topics: make, grow, remove, cut off at their beginning.

use std::collections::BTreeMap;

use millstream_protocol::{
    Str,
    messages::{
        create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic},
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
        delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
        delete_topics::{DeleteTopicState, DeleteTopicsRequest},
    },
};

use super::Admin;
use crate::{ClientError, cluster::Lane, consumer::TopicPartition};

/// The newest DeleteTopics version that takes plain names.
const DELETE_BY_NAME_VERSION_MAX: i16 = 5;

/// A topic to be made.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Partitions; none is the broker's default.
    pub partitions: Option<i32>,
    /// Replicas; none is the broker's default.
    pub replication_factor: Option<i16>,
    /// Keys and values.
    pub configs: BTreeMap<String, String>,
}

impl Admin {
    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.cluster.config().request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Makes a topic, or only checks whether it could be made. Gives the number of its partitions, if the broker tells.
    pub async fn create_topic(
        &self,
        new: &NewTopic,
        validate_only: bool,
    ) -> Result<Option<i32>, ClientError> {
        let config = |(name, value): (&String, &String)| CreatableTopicConfig {
            name: Str::from(name),
            value: Some(Str::from(value)),
        };
        let topic = CreatableTopic {
            name: Str::from(&new.name),
            num_partitions: new.partitions.unwrap_or(-1),
            replication_factor: new.replication_factor.unwrap_or(-1),
            configs: new.configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: self.timeout_ms(), validate_only };
        let response = self.cluster.ask_controller(&request).await?;
        let result = response.topics.into_iter().next().unwrap_or_default();
        let reason = result.error_message.map(|reason| reason.to_string());
        ClientError::check(result.error_code, || format!("create topic '{}'", new.name), reason)?;
        Ok(Some(result.num_partitions).filter(|n| *n > 0))
    }

    /// Removes a topic and its records.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let connection = self.cluster.any().await?;
        let version = connection.version::<DeleteTopicsRequest>(DELETE_BY_NAME_VERSION_MAX);
        let name_of = || Str::from(name.to_string());
        let mut request = DeleteTopicsRequest { timeout_ms: self.timeout_ms(), ..Default::default() };
        let version = match version {
            Ok(version) => {
                request.topic_names = vec![name_of()];
                version
            }
            Err(_) => {
                request.topics = vec![DeleteTopicState { name: Some(name_of()), ..Default::default() }];
                connection.version::<DeleteTopicsRequest>(i16::MAX)?
            }
        };
        let response = connection.call_in(version, &request).await?;
        let result = response.responses.into_iter().next().unwrap_or_default();
        let reason = result.error_message.map(|reason| reason.to_string());
        ClientError::check(result.error_code, || format!("delete topic '{name}'"), reason)
    }

    /// Grows a topic to `total` partitions.
    pub async fn grow_topic(&self, name: &str, total: i32) -> Result<(), ClientError> {
        let topic =
            CreatePartitionsTopic { name: Str::from(name.to_string()), count: total, assignments: None };
        let request = CreatePartitionsRequest {
            topics: vec![topic],
            timeout_ms: self.timeout_ms(),
            validate_only: false,
        };
        let response = self.cluster.ask_controller(&request).await?;
        let result = response.results.into_iter().next().unwrap_or_default();
        let reason = result.error_message.map(|reason| reason.to_string());
        let s = if total == 1 { "" } else { "s" };
        ClientError::check(
            result.error_code,
            || format!("grow topic '{name}' to {total} partition{s}"),
            reason,
        )
    }

    /// Removes the records below `before` (-1: all that there are), and gives the first offset that is left.
    pub async fn delete_records(&self, partition: &TopicPartition, before: i64) -> Result<i64, ClientError> {
        let what = || format!("delete records of {partition} below offset {before}");
        let leader = self.leader_of(partition).await?;
        let connection = self.cluster.broker(leader, Lane::Ask).await?;
        let wanted = DeleteRecordsPartition { partition_index: partition.partition, offset: before };
        let topic =
            DeleteRecordsTopic { name: Str::from(partition.topic.to_string()), partitions: vec![wanted] };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: self.timeout_ms() };
        let response =
            connection.call_in(connection.version::<DeleteRecordsRequest>(i16::MAX)?, &request).await?;
        let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let result = partitions.into_iter().next().unwrap_or_default();
        ClientError::check(result.error_code, what, None)?;
        Ok(result.low_watermark)
    }
}
