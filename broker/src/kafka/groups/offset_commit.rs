//! OffsetCommit, key 8, versions 2 to 8.
//!
//! Up to 4 a commit has a retention time; 3 adds the throttle time; 6 the leader epoch; 7 static members; 8 is flexible.

use std::sync::Arc;

use millstream_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};

use super::{super::context::RequestContext, ErrorCode, exists, group_code, member, owned};
use crate::{
    clock,
    service::{CommittedOffset, GroupError, OffsetEntry},
};

/// Values common to all offsets of one request.
struct Commit<'a> {
    ctx: &'a RequestContext,
    commit_ms: i64,
    expire_ms: Option<i64>,
    metadata_bytes_max: usize,
}

/// Commits offsets; resolves when they are durable.
pub(in crate::kafka) async fn offset_commit(
    ctx: &RequestContext,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let commit_ms = clock::now_ms();
    let retention_ms = Some(request.retention_time_ms).filter(|ms| *ms >= 0);
    let commit = Commit {
        ctx,
        commit_ms,
        expire_ms: retention_ms.map(|ms| commit_ms.saturating_add(ms)),
        metadata_bytes_max: ctx.service.broker_config().offset_metadata_bytes_max,
    };
    let mut entries = Vec::new();
    let refused: Vec<_> = request.topics.iter().map(|topic| commit.check(topic, &mut entries)).collect();
    let member =
        member(&request.member_id, request.group_instance_id.as_ref(), request.generation_id_or_member_epoch);
    let result = ctx.service.groups().commit(owned(&request.group_id), member, entries).await;
    let topics = request.topics.into_iter().zip(refused).map(|(topic, codes)| answer(topic, codes, result));
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

impl Commit<'_> {
    /// Collects the offsets that can be committed, and returns the errors of the others.
    fn check(
        &self,
        topic: &OffsetCommitRequestTopic,
        entries: &mut Vec<OffsetEntry>,
    ) -> Vec<Option<ErrorCode>> {
        let name = owned(&topic.name);
        let check = |partition: &OffsetCommitRequestPartition| match self.entry(&name, partition) {
            Ok(entry) => {
                entries.push(entry);
                None
            }
            Err(code) => Some(code),
        };
        topic.partitions.iter().map(check).collect()
    }

    fn entry(
        &self,
        topic: &Arc<str>,
        asked: &OffsetCommitRequestPartition,
    ) -> Result<OffsetEntry, ErrorCode> {
        if !exists(self.ctx, topic, asked.partition_index) {
            return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
        if metadata.len() > self.metadata_bytes_max {
            return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
        }
        let committed = CommittedOffset {
            offset: asked.committed_offset,
            leader_epoch: asked.committed_leader_epoch,
            metadata: metadata.to_string(),
            commit_ms: self.commit_ms,
            expire_ms: self.expire_ms,
        };
        Ok(OffsetEntry { topic: topic.clone(), partition: asked.partition_index, committed })
    }
}

fn answer(
    topic: OffsetCommitRequestTopic,
    refused: Vec<Option<ErrorCode>>,
    result: Result<(), GroupError>,
) -> OffsetCommitResponseTopic {
    let whole = match result {
        Ok(()) => ErrorCode::NONE,
        Err(GroupError::TooLarge | GroupError::OutOfBytes) => ErrorCode::INVALID_COMMIT_OFFSET_SIZE,
        Err(error) => group_code(error),
    };
    let partition =
        |(asked, refused): (OffsetCommitRequestPartition, Option<ErrorCode>)| OffsetCommitResponsePartition {
            partition_index: asked.partition_index,
            error_code: refused.unwrap_or(whole).0,
        };
    let partitions = topic.partitions.into_iter().zip(refused).map(partition).collect();
    OffsetCommitResponseTopic { name: topic.name, partitions, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_offset_has_its_own_error_besides_the_groups() {
        let partition =
            |partition_index| OffsetCommitRequestPartition { partition_index, ..Default::default() };
        let topic = || OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition(0), partition(1)],
            ..Default::default()
        };
        let refused = || vec![None, Some(ErrorCode::OFFSET_METADATA_TOO_LARGE)];
        let codes = |result| {
            let answer = answer(topic(), refused(), result);
            answer.partitions.iter().map(|p| (p.partition_index, p.error_code)).collect::<Vec<_>>()
        };
        assert_eq!(codes(Ok(())), [(0, 0), (1, 12)]);
        assert_eq!(codes(Err(GroupError::RebalanceInProgress)), [(0, 27), (1, 12)]);
        assert_eq!(codes(Err(GroupError::TooLarge)), [(0, 28), (1, 12)]);
        assert_eq!(codes(Err(GroupError::OutOfBytes)), [(0, 28), (1, 12)]);
    }
}
