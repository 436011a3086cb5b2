//! CreatePartitions, key 37, versions 0 to 3.
//!
//! 2 is flexible; 3 only changes the order of quota errors.

use std::collections::HashMap;

use millstream_protocol::{
    Str,
    messages::create_partitions::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
    },
};

use super::{
    context::RequestContext,
    error::{ErrorCode, refusal},
    timeout::wait_of,
};
use crate::service::{Change, TopicError};

/// Adds partitions to topics, each independently.
pub(super) async fn create_partitions(
    _ctx: &RequestContext,
    change: &Change,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut count: HashMap<Str, usize> = HashMap::new();
    request.topics.iter().for_each(|topic| *count.entry(topic.name.clone()).or_default() += 1);
    let mut results: Vec<CreatePartitionsTopicResult> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.clone();
        match count.get_mut(&name) {
            Some(1) | None => {}
            // A repeated topic is answered once.
            Some(0) => continue,
            Some(n) => {
                *n = 0;
                let reason = Some(Str::from("the request names the topic more than once"));
                results.push(result(name, (ErrorCode::INVALID_REQUEST.0, reason)));
                continue;
            }
        }
        let grown =
            change.within(wait_of(request.timeout_ms), |change| grow(change, topic, request.validate_only));
        let done = grown.await.unwrap_or(Err(TopicError::Timeout));
        results.push(result(name, done.map_or_else(|e| refusal(&e), |()| (ErrorCode::NONE.0, None))));
    }
    CreatePartitionsResponse { results, ..Default::default() }
}

fn result(name: Str, (error_code, error_message): (i16, Option<Str>)) -> CreatePartitionsTopicResult {
    CreatePartitionsTopicResult { name, error_code, error_message }
}

async fn grow(change: Change, topic: CreatePartitionsTopic, validate_only: bool) -> Result<(), TopicError> {
    let now = change.topic(&topic.name).ok_or(TopicError::Unknown)?.partitions.len();
    if let Some(assignments) = &topic.assignments {
        let assignments: Vec<&[i32]> = assignments.iter().map(|a| &a.broker_ids[..]).collect();
        check_assignments(&assignments, i64::from(topic.count) - now as i64, change.node_id())?;
    }
    change.create_partitions(&topic.name, topic.count, validate_only).await
}

/// Checks that each new partition has an assignment to the only node.
fn check_assignments(assignments: &[&[i32]], added: i64, node: i32) -> Result<(), TopicError> {
    // A count that does not grow is refused later, with another error.
    if added > 0 && assignments.len() as i64 != added {
        let text = format!("{added} new partitions need as many assignments, not {}", assignments.len());
        return Err(TopicError::InvalidReplicaAssignment(text));
    }
    match assignments.iter().find(|replicas| **replicas != [node]) {
        Some(replicas) => Err(TopicError::InvalidReplicaAssignment(format!(
            "a new partition is assigned to {replicas:?}; the only node is {node}"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_match_the_new_partitions_and_the_node() {
        assert_eq!(check_assignments(&[&[1], &[1]], 2, 1), Ok(()));
        for wrong in [&[&[1][..]][..], &[&[1], &[2]], &[&[1], &[]], &[&[1], &[1, 1]]] {
            let refused = check_assignments(wrong, 2, 1).expect_err("must be refused");
            assert!(matches!(refused, TopicError::InvalidReplicaAssignment(_)), "{wrong:?}: {refused}");
        }
    }
}
