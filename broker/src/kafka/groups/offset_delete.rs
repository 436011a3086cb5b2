//! OffsetDelete, key 47, version 0.

use std::sync::Arc;

use millstream_protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestTopic, OffsetDeleteResponse, OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
};

use super::{super::context::RequestContext, ErrorCode, code, exists, owned};

/// Deletes committed offsets, except those of topics that the group's members subscribe to.
pub(in crate::kafka) async fn offset_delete(
    ctx: &RequestContext,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let known = |topic: &OffsetDeleteRequestTopic| {
        let indexes = topic.partitions.iter().map(|p| p.partition_index);
        (owned(&topic.name), indexes.filter(|index| exists(ctx, &topic.name, *index)).collect())
    };
    let wanted: Vec<(Arc<str>, Vec<i32>)> = request.topics.iter().map(known).collect();
    let deleted = match ctx.service.groups().delete_offsets(&request.group_id, wanted.clone()).await {
        Ok(deleted) => deleted,
        Err(error) => return OffsetDeleteResponse { error_code: code(error), ..Default::default() },
    };
    let answers = request.topics.into_iter().zip(wanted).zip(deleted);
    let topics = answers.map(|((asked, (_, known)), deleted)| answer(asked, &known, deleted));
    OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
}

fn answer(asked: OffsetDeleteRequestTopic, known: &[i32], deleted: bool) -> OffsetDeleteResponseTopic {
    let code = |index: i32| match (known.contains(&index), deleted) {
        (false, _) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        (true, true) => ErrorCode::NONE,
        (true, false) => ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
    };
    let partitions = asked.partitions.into_iter().map(|partition| OffsetDeleteResponsePartition {
        partition_index: partition.partition_index,
        error_code: code(partition.partition_index).0,
    });
    OffsetDeleteResponseTopic { name: asked.name, partitions: partitions.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::messages::offset_delete::OffsetDeleteRequestPartition;

    #[test]
    fn each_partition_has_the_reason_why_its_offset_was_not_deleted() {
        let partitions =
            [0, 9].map(|partition_index| OffsetDeleteRequestPartition { partition_index }).into();
        let asked = || OffsetDeleteRequestTopic { name: "t".into(), partitions: Vec::clone(&partitions) };
        let codes = |deleted| {
            answer(asked(), &[0], deleted).partitions.iter().map(|p| p.error_code).collect::<Vec<_>>()
        };
        assert_eq!(codes(true), [0, 3]);
        assert_eq!(codes(false), [86, 3]);
    }
}
