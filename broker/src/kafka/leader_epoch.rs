//! OffsetForLeaderEpoch, key 23, versions 2 to 4.
//!
//! 2 has the current leader epoch known to the client; 3 adds the replica id; 4 is flexible.

use millstream_protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

use super::{context::RequestContext, error::ErrorCode};
use crate::service::{Service, TopicView};

/// Returns the end offsets of leader epochs, with which a client detects that records it has read were truncated.
pub(super) async fn offset_for_leader_epoch(
    ctx: &RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let view = ctx.service.topic(&topic.topic);
        let partitions = topic.partitions.iter().map(|asked| {
            let found = view.as_ref().ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            answer(asked.partition, found.and_then(|view| end_of_epoch(&ctx.service, view, asked)))
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult { topic: topic.topic, partitions }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}

fn end_of_epoch(
    service: &Service,
    topic: &TopicView,
    asked: &OffsetForLeaderPartition,
) -> Result<(i32, i64), ErrorCode> {
    let partition = usize::try_from(asked.partition).ok().and_then(|index| topic.partitions.get(index));
    let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let (current, epoch) = (asked.current_leader_epoch, asked.leader_epoch);
    let found = service.end_offset_for_epoch(partition, current, epoch);
    found.map_err(|error| ErrorCode::from(&error))
}

fn answer(partition: i32, found: Result<(i32, i64), ErrorCode>) -> EpochEndOffset {
    match found {
        Ok((leader_epoch, end_offset)) => {
            EpochEndOffset { error_code: ErrorCode::NONE.0, partition, leader_epoch, end_offset }
        }
        Err(code) => EpochEndOffset { error_code: code.0, partition, ..Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_no_offset() {
        let failed = answer(2, Err(ErrorCode::FENCED_LEADER_EPOCH));
        assert_eq!((failed.error_code, failed.leader_epoch, failed.end_offset), (74, -1, -1));
        let found = answer(2, Ok((3, 9)));
        assert_eq!((found.partition, found.error_code, found.leader_epoch, found.end_offset), (2, 0, 3, 9));
    }
}
