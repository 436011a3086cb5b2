//! DeleteRecords, key 21, versions 0 to 2.
//!
//! 1 is as 0; 2 is flexible.

use millstream_protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};

use super::{context::RequestContext, error::ErrorCode, timeout::wait_of};
use crate::service::{Change, TopicView};

/// The low watermark in the response to a failed deletion.
const NO_LOW_WATERMARK: i64 = -1;

/// Advances the log start offsets of partitions, each independently.
pub(super) async fn delete_records(
    ctx: &RequestContext,
    change: &Change,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let view = ctx.service.topic(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let done = match &view {
                Some(view) => delete(change, view, &wanted, request.timeout_ms).await,
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: wanted.partition_index,
                low_watermark: done.unwrap_or(NO_LOW_WATERMARK),
                error_code: done.err().unwrap_or(ErrorCode::NONE).0,
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

async fn delete(
    change: &Change,
    topic: &TopicView,
    wanted: &DeleteRecordsPartition,
    timeout_ms: i32,
) -> Result<i64, ErrorCode> {
    let partition =
        usize::try_from(wanted.partition_index).ok().and_then(|index| topic.partitions.get(index));
    let partition = *partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    if topic.internal {
        return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
    }
    // A compacted topic must keep the newest record of each key.
    if !topic.config.delete {
        return Err(ErrorCode::POLICY_VIOLATION);
    }
    let offset = wanted.offset;
    let deleted = change
        .within(wait_of(timeout_ms), async move |change| change.delete_records(&partition, offset).await);
    deleted.await.ok_or(ErrorCode::REQUEST_TIMED_OUT)?.map_err(|error| ErrorCode::from(&error))
}
