//! DescribeTopicPartitions, key 75, version 0: topics in pages.
//!
//! Topics are sorted by name. A page holds as many partitions as the client and the broker allow, at least one; the cursor
//! names the first partition of the next page.

use std::{collections::BTreeSet, sync::Arc};

use millstream_protocol::{
    Str, Uuid,
    messages::describe_topic_partitions::{
        Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
    },
};

use super::{
    context::RequestContext,
    error::{ErrorCode, refusal},
    operations,
};
use crate::service::{PartitionView, TopicView};

/// Maximum partitions of one page.
const PAGE_PARTITIONS_MAX: i32 = 2000;

/// Describes one page of topics.
pub(super) async fn describe_topic_partitions(
    ctx: &RequestContext,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let asked: BTreeSet<Str> = request.topics.into_iter().map(|topic| topic.name).collect();
    let start =
        request.cursor.map_or((Str::default(), 0), |cursor| (cursor.topic_name, cursor.partition_index));
    if start.1 < 0 || (!asked.is_empty() && !start.0.is_empty() && !asked.contains(&start.0)) {
        let refuse = |name| unknown(name, ErrorCode::INVALID_REQUEST.0);
        return DescribeTopicPartitionsResponse {
            topics: asked.into_iter().map(refuse).collect(),
            ..Default::default()
        };
    }
    let limit = request.response_partition_limit.clamp(1, PAGE_PARTITIONS_MAX) as usize;
    let found: Vec<(Str, Option<Arc<TopicView>>)> = if asked.is_empty() {
        ctx.service.topics().into_iter().map(|view| (Str::from(&view.name), Some(view))).collect()
    } else {
        asked.into_iter().map(|name| (name.clone(), ctx.service.topic(&name))).collect()
    };
    let mut page = Page { left: limit, next: None };
    let mut topics = Vec::new();
    for (name, view) in found.into_iter().filter(|(name, _)| *name >= start.0) {
        let from = if name == start.0 { start.1 as usize } else { 0 };
        let Some(view) = view else {
            topics.push(unknown(name.clone(), missing_code(ctx, &name)));
            continue;
        };
        let taken = page.take(&name, from, view.partitions.len());
        if page.next.is_some() && taken.is_empty() {
            break;
        }
        topics.push(describe(ctx, &view, &view.partitions[taken]));
        if page.next.is_some() {
            break;
        }
    }
    DescribeTopicPartitionsResponse { topics, next_cursor: page.next, ..Default::default() }
}

/// The remaining capacity of the page, and the start of the next one.
struct Page {
    left: usize,
    next: Option<Cursor>,
}

impl Page {
    /// The partitions of a topic from `from` on that fit.
    fn take(&mut self, name: &Str, from: usize, count: usize) -> std::ops::Range<usize> {
        let from = from.min(count);
        let taken = self.left.min(count - from);
        self.left -= taken;
        if from + taken < count {
            self.next = Some(Cursor { topic_name: name.clone(), partition_index: (from + taken) as i32 });
        }
        from..from + taken
    }
}

fn missing_code(ctx: &RequestContext, name: &Str) -> i16 {
    let invalid = ctx.service.check_topic_name(name).err();
    invalid.map_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0, |error| refusal(&error).0)
}

fn unknown(name: Str, error_code: i16) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic { error_code, name: Some(name), ..Default::default() }
}

fn describe(
    ctx: &RequestContext,
    view: &TopicView,
    partitions: &[PartitionView],
) -> DescribeTopicPartitionsResponseTopic {
    let node = ctx.service.node_id();
    let partition = |partition: &PartitionView| {
        let leadership = ctx.service.leadership(partition);
        DescribeTopicPartitionsResponsePartition {
            error_code: ErrorCode::from(&leadership).0,
            partition_index: partition.index,
            leader_id: leadership.leader.unwrap_or(-1),
            leader_epoch: leadership.epoch,
            replica_nodes: vec![node],
            isr_nodes: vec![node],
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            ..Default::default()
        }
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::NONE.0,
        name: Some(Str::from(&view.name)),
        topic_id: Uuid(view.id.0),
        is_internal: view.internal,
        partitions: partitions.iter().map(partition).collect(),
        topic_authorized_operations: operations::TOPIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_every_partition_once() {
        let topics = [("a", 3), ("b", 0), ("c", 5), ("d", 1)];
        for limit in 1..10 {
            let mut seen = Vec::new();
            let mut cursor = (Str::default(), 0);
            loop {
                let mut page = Page { left: limit, next: None };
                for (name, count) in topics.iter().filter(|(name, _)| *name >= &*cursor.0) {
                    let name = Str::from(*name);
                    let from = if name == cursor.0 { cursor.1 } else { 0 };
                    seen.extend(page.take(&name, from, *count).map(|index| (name.to_string(), index)));
                    if page.next.is_some() {
                        break;
                    }
                }
                match page.next {
                    Some(next) => cursor = (next.topic_name, next.partition_index as usize),
                    None => break,
                }
            }
            let all =
                topics.iter().flat_map(|(name, count)| (0..*count).map(|index| (name.to_string(), index)));
            assert!(seen.iter().cloned().eq(all), "limit {limit}: {seen:?}");
        }
    }

    #[test]
    fn a_cursor_beyond_the_last_partition_continues_with_the_next_topic() {
        let mut page = Page { left: 5, next: None };
        assert!(page.take(&Str::from("a"), 9, 3).is_empty());
        assert_eq!(page.next, None);
    }
}
