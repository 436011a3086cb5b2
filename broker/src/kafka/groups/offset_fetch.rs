//! OffsetFetch, key 9, versions 1 to 8.
//!
//! 2 can request all topics, and has an error for the whole group; 3 adds the throttle time; 5 the leader epoch; 6 is
//! flexible; 7 can request stable offsets only, which all are; 8 takes a list of groups, in another format.

use std::sync::Arc;

use millstream_protocol::{
    Str,
    messages::offset_fetch::{
        OffsetFetchRequest, OffsetFetchRequestTopic, OffsetFetchResponse, OffsetFetchResponseGroup,
        OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
        OffsetFetchResponseTopics,
    },
};

use super::{super::context::RequestContext, code, owned, text};
use crate::service::{CommittedOffset, GroupError, TopicOffsets};

/// Version from which a response has an error for the group.
const GROUP_ERROR_FROM: i16 = 2;
/// Version from which a request has a list of groups.
const LIST_FROM: i16 = 8;

/// The requested topics and partitions; `None` for all.
type Wanted = Option<Vec<(Arc<str>, Vec<i32>)>>;

/// Returns committed offsets; -1 where nothing is committed.
pub(in crate::kafka) async fn offset_fetch(
    ctx: &RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if ctx.version < LIST_FROM {
        return one_group(ctx, &request.group_id, request.topics);
    }
    let groups = request.groups.into_iter().map(|group| {
        let topics =
            group.topics.map(|all| all.into_iter().map(|t| (owned(&t.name), t.partition_indexes)).collect());
        match look_up(ctx, &group.group_id, topics) {
            Ok(found) => OffsetFetchResponseGroup {
                group_id: group.group_id,
                topics: found.into_iter().map(topics_answer).collect(),
                error_code: 0,
            },
            Err(error) => OffsetFetchResponseGroup {
                group_id: group.group_id,
                error_code: code(error),
                ..Default::default()
            },
        }
    });
    OffsetFetchResponse { groups: groups.collect(), ..Default::default() }
}

fn look_up(ctx: &RequestContext, group: &str, wanted: Wanted) -> Result<Vec<TopicOffsets>, GroupError> {
    match wanted {
        Some(topics) => ctx.service.groups().offsets_of(group, topics),
        None => ctx.service.groups().all_offsets(group),
    }
}

fn one_group(
    ctx: &RequestContext,
    group: &str,
    topics: Option<Vec<OffsetFetchRequestTopic>>,
) -> OffsetFetchResponse {
    let wanted = |all: &Vec<OffsetFetchRequestTopic>| {
        all.iter().map(|t| (owned(&t.name), t.partition_indexes.clone())).collect()
    };
    match look_up(ctx, group, topics.as_ref().map(wanted)) {
        Ok(found) => {
            let topics = found.into_iter().map(topic_answer).collect();
            OffsetFetchResponse { topics, ..Default::default() }
        }
        Err(error) if ctx.version >= GROUP_ERROR_FROM => {
            OffsetFetchResponse { error_code: code(error), ..Default::default() }
        }
        Err(error) => {
            let topics =
                topics.unwrap_or_default().into_iter().map(|topic| topic_error(topic, error)).collect();
            OffsetFetchResponse { topics, ..Default::default() }
        }
    }
}

fn topic_error(topic: OffsetFetchRequestTopic, error: GroupError) -> OffsetFetchResponseTopic {
    let partition = |index| OffsetFetchResponsePartition { error_code: code(error), ..answer(index, None) };
    OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partition_indexes.into_iter().map(partition).collect(),
    }
}

fn topic_answer(found: TopicOffsets) -> OffsetFetchResponseTopic {
    let partitions =
        found.partitions.into_iter().map(|(index, committed)| answer(index, committed)).collect();
    OffsetFetchResponseTopic { name: text(&found.topic), partitions }
}

fn answer(partition_index: i32, committed: Option<CommittedOffset>) -> OffsetFetchResponsePartition {
    let committed =
        committed.unwrap_or(CommittedOffset { offset: -1, leader_epoch: -1, ..Default::default() });
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: committed.offset,
        committed_leader_epoch: committed.leader_epoch,
        metadata: Some(Str::from(committed.metadata)),
        error_code: 0,
    }
}

fn topics_answer(found: TopicOffsets) -> OffsetFetchResponseTopics {
    let partition = |(index, committed)| {
        let same = answer(index, committed);
        OffsetFetchResponsePartitions {
            partition_index: same.partition_index,
            committed_offset: same.committed_offset,
            committed_leader_epoch: same.committed_leader_epoch,
            metadata: same.metadata,
            error_code: same.error_code,
        }
    };
    let partitions = found.partitions.into_iter().map(partition).collect();
    OffsetFetchResponseTopics { name: text(&found.topic), partitions, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_offset_is_minus_one_with_empty_metadata() {
        let nothing = answer(4, None);
        assert_eq!(
            (nothing.partition_index, nothing.committed_offset, nothing.committed_leader_epoch),
            (4, -1, -1)
        );
        assert_eq!(nothing.metadata.as_deref(), Some(""));
    }
}
