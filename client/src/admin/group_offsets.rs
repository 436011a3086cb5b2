//! Moving a group: what it has committed is set from outside, while it has no members.

use std::collections::BTreeMap;

use millstream_protocol::{
    Str,
    messages::{
        offset_commit::OffsetCommitRequest,
        offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    },
};

use super::Admin;
use crate::{ClientError, cluster::Lane, consumer::TopicPartition, wire::topics_to_commit};

/// The newest OffsetCommit version that names topics.
const COMMIT_VERSION_MAX: i16 = 9;
/// A commit from outside the group has no generation.
const NO_GENERATION: i32 = -1;

impl Admin {
    /// Commits these offsets for a group, which need not exist yet. Refused while the group has members.
    pub async fn set_group_offsets(
        &self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        let connection = self.cluster.broker(self.cluster.coordinator(group).await?, Lane::Ask).await?;
        let request = OffsetCommitRequest {
            group_id: Str::from(group.to_string()),
            generation_id_or_member_epoch: NO_GENERATION,
            topics: topics_to_commit(offsets),
            ..Default::default()
        };
        let version = connection.version::<OffsetCommitRequest>(COMMIT_VERSION_MAX)?;
        let answer = connection.call_in(version, &request).await?;
        for topic in answer.topics {
            for partition in topic.partitions {
                let what = || {
                    format!(
                        "set the offset of group '{group}' for {}-{}",
                        topic.name, partition.partition_index
                    )
                };
                ClientError::check(partition.error_code, what, None)?;
            }
        }
        Ok(())
    }

    /// Removes what a group has committed of these partitions. Refused for topics that members of the group read.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<(), ClientError> {
        let connection = self.cluster.broker(self.cluster.coordinator(group).await?, Lane::Ask).await?;
        let one = |place: &TopicPartition| OffsetDeleteRequestTopic {
            name: Str::from(place.topic.to_string()),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: place.partition }],
        };
        let group_id = Str::from(group.to_string());
        let request = OffsetDeleteRequest { group_id, topics: partitions.iter().map(one).collect() };
        let version = connection.version::<OffsetDeleteRequest>(i16::MAX)?;
        let answer = connection.call_in(version, &request).await?;
        let what = || format!("remove offsets of group '{group}'");
        ClientError::check(answer.error_code, what, None)?;
        let mut all = answer.topics.iter().flat_map(|topic| &topic.partitions);
        all.try_for_each(|partition| ClientError::check(partition.error_code, what, None))
    }
}
