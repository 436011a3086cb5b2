//! ListOffsets, key 2, versions 1 to 11.
//!
//! 2 adds the isolation level and the throttle time; 4 the leader epoch; 6 is flexible; 7 adds the largest timestamp (-3);
//! 8 the earliest local offset (-4); 9 the latest tiered offset (-5); 10 a timeout for lookups in remote storage, which
//! does not exist here; 11 the earliest offset that is pending upload (-6).

use std::collections::HashSet;

use millstream_protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

use super::{context::RequestContext, error::ErrorCode};
use crate::service::{FoundOffset, OffsetQuery, Service, TopicView};

/// Version from which responses have a leader epoch.
const LEADER_EPOCH_FROM: i16 = 4;

/// The requested offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Query(OffsetQuery),
    /// An offset in remote storage: never found, as there is no remote storage.
    Remote,
}

/// Decodes a timestamp or one of Kafka's special values; `None` for a value that this version does not have.
fn wanted(timestamp: i64, version: i16) -> Option<Wanted> {
    match timestamp {
        0.. => Some(Wanted::Query(OffsetQuery::At(timestamp))),
        -1 => Some(Wanted::Query(OffsetQuery::Latest)),
        -2 => Some(Wanted::Query(OffsetQuery::Earliest)),
        -3 if version >= 7 => Some(Wanted::Query(OffsetQuery::MaxTimestamp)),
        -4 if version >= 8 => Some(Wanted::Query(OffsetQuery::EarliestLocal)),
        -5 if version >= 9 => Some(Wanted::Remote),
        -6 if version >= 11 => Some(Wanted::Remote),
        _ => None,
    }
}

/// Looks up offsets, each partition independently.
pub(super) async fn list_offsets(ctx: &RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut seen = HashSet::new();
    for topic in request.topics {
        let view = ctx.service.topic(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            // A client could not distinguish two answers for one partition.
            let found = match &view {
                _ if !seen.insert((topic.name.clone(), partition.partition_index)) => {
                    Err(ErrorCode::INVALID_REQUEST)
                }
                Some(view) => find(&ctx.service, view, &partition, ctx.version).await,
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            };
            partitions.push(answer(partition.partition_index, found, ctx.version));
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

async fn find(
    service: &Service,
    topic: &TopicView,
    asked: &ListOffsetsPartition,
    version: i16,
) -> Result<Option<FoundOffset>, ErrorCode> {
    let partition = usize::try_from(asked.partition_index).ok().and_then(|index| topic.partitions.get(index));
    let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    match wanted(asked.timestamp, version).ok_or(ErrorCode::UNSUPPORTED_VERSION)? {
        Wanted::Remote => Ok(None),
        Wanted::Query(query) => {
            let found = service.list_offset(partition, query, asked.current_leader_epoch).await;
            found.map_err(|error| ErrorCode::from(&error))
        }
    }
}

fn answer(
    partition_index: i32,
    found: Result<Option<FoundOffset>, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let error_code = found.err().unwrap_or(ErrorCode::NONE).0;
    match found {
        Ok(Some(found)) => ListOffsetsPartitionResponse {
            partition_index,
            error_code,
            timestamp: found.timestamp_ms,
            offset: found.offset,
            leader_epoch: if version >= LEADER_EPOCH_FROM { found.leader_epoch } else { -1 },
        },
        _ => ListOffsetsPartitionResponse { partition_index, error_code, ..Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_timestamps_belong_to_versions() {
        assert_eq!(wanted(-1, 1), Some(Wanted::Query(OffsetQuery::Latest)));
        assert_eq!(wanted(-2, 1), Some(Wanted::Query(OffsetQuery::Earliest)));
        for (timestamp, first) in [(-3, 7), (-4, 8), (-5, 9), (-6, 11)] {
            assert_eq!(wanted(timestamp, first - 1), None, "{timestamp}");
            assert!(wanted(timestamp, first).is_some(), "{timestamp}");
        }
        assert_eq!(wanted(-7, 11), None);
        assert_eq!(wanted(5, 1), Some(Wanted::Query(OffsetQuery::At(5))));
    }

    #[test]
    fn an_offset_that_was_not_found_is_minus_one_without_an_error() {
        let nothing = answer(3, Ok(None), 4);
        assert_eq!(
            (nothing.error_code, nothing.offset, nothing.timestamp, nothing.leader_epoch),
            (0, -1, -1, -1)
        );
        let failed = answer(3, Err(ErrorCode::NOT_LEADER_OR_FOLLOWER), 4);
        assert_eq!((failed.error_code, failed.offset), (6, -1));
    }

    #[test]
    fn old_answers_have_no_leader_epoch() {
        let epoch = |version| {
            let found = FoundOffset { offset: 5, timestamp_ms: 6, leader_epoch: 7 };
            answer(3, Ok(Some(found)), version).leader_epoch
        };
        assert_eq!((epoch(3), epoch(4)), (-1, 7));
    }
}
