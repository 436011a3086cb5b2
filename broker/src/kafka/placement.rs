//! Leaders and replicas of partitions: ElectLeaders (key 43, versions 0 to 2), AlterPartitionReassignments (45, 0 to 1)
//! and ListPartitionReassignments (46, 0).
//!
//! ElectLeaders 1 adds the type of election and a top-level error, 2 is flexible. AlterPartitionReassignments 1 says
//! whether the number of replicas may change. The only node leads and holds everything: no election is ever needed, and a
//! reassignment to that node changes nothing.

use std::sync::Arc;

use millstream_protocol::{
    Str,
    messages::{
        alter_partition_reassignments::{
            AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
            ReassignablePartitionResponse, ReassignableTopicResponse,
        },
        elect_leaders::{ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult},
        list_partition_reassignments::{
            ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
        },
    },
};

use super::{context::RequestContext, error::ErrorCode};
use crate::service::{Service, TopicView};

type Refused = (ErrorCode, &'static str);

/// Kafka's numbers of preferred and unclean elections.
const ELECTION_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

/// Returns for each partition why there is no election.
pub(super) async fn elect_leaders(
    ctx: &RequestContext,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    if !ELECTION_TYPES.contains(&request.election_type) {
        return ElectLeadersResponse { error_code: ErrorCode::INVALID_REQUEST.0, ..Default::default() };
    }
    // No list means all partitions; those that need no election are then left out of the response.
    let topics = request.topic_partitions.unwrap_or_default();
    let results = topics.into_iter().map(|topic| {
        let view = ctx.service.topic(&topic.topic);
        let partition_result = topic.partitions.iter().map(|&partition_id| {
            let (code, reason) = election(&ctx.service, view.as_ref(), partition_id);
            PartitionResult { partition_id, error_code: code.0, error_message: Some(Str::from(reason)) }
        });
        let partition_result = partition_result.collect();
        ReplicaElectionResult { topic: topic.topic, partition_result }
    });
    ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() }
}

fn election(service: &Service, view: Option<&Arc<TopicView>>, partition: i32) -> Refused {
    match find(view, partition) {
        Err(refused) => refused,
        Ok(partition) if service.leadership(partition).leader.is_none() => {
            (ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, "the partition's group has no leader yet")
        }
        Ok(_) => (ErrorCode::ELECTION_NOT_NEEDED, "the partition's leader is the preferred one"),
    }
}

fn find(view: Option<&Arc<TopicView>>, partition: i32) -> Result<&crate::service::PartitionView, Refused> {
    let found = view.and_then(|view| view.partitions.get(usize::try_from(partition).ok()?));
    found.ok_or((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "the partition does not exist"))
}

/// The list is always empty.
pub(super) async fn list_partition_reassignments(
    _ctx: &RequestContext,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse { error_message: None, ..Default::default() }
}

/// Accepts reassignments to the only node, and refuses all others.
pub(super) async fn alter_partition_reassignments(
    ctx: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let node = ctx.service.node_id();
    let responses = request.topics.into_iter().map(|topic| {
        let view = ctx.service.topic(&topic.name);
        let partitions = topic.partitions.iter().map(|wanted| {
            let partition_index = wanted.partition_index;
            let checked = find(view.as_ref(), partition_index);
            match checked.and_then(|_| reassign(wanted.replicas.as_deref(), node)) {
                Ok(()) => ReassignablePartitionResponse {
                    partition_index,
                    error_message: None,
                    ..Default::default()
                },
                Err((code, reason)) => ReassignablePartitionResponse {
                    partition_index,
                    error_code: code.0,
                    error_message: Some(Str::from(reason)),
                },
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse { name: topic.name, partitions }
    });
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        responses: responses.collect(),
        error_message: None,
        ..Default::default()
    }
}

/// Whether a partition whose only replica is on `node` can be reassigned to `replicas`; `None` cancels a reassignment.
fn reassign(replicas: Option<&[i32]>, node: i32) -> Result<(), Refused> {
    match replicas {
        None => Err((ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, "the partition is not being reassigned")),
        Some([]) => Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, "a partition needs a replica")),
        Some([only]) if *only == node => Ok(()),
        Some(all) if all.iter().any(|id| *id != node) => Err((
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            "a replica is assigned to a broker that does not exist",
        )),
        Some(_) => Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, "a broker is assigned more than one replica")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_can_only_be_assigned_to_the_only_node() {
        assert_eq!(reassign(Some(&[1]), 1), Ok(()));
        assert_eq!(
            reassign(None, 1).expect_err("nothing to cancel").0,
            ErrorCode::NO_REASSIGNMENT_IN_PROGRESS
        );
        for (replicas, why) in
            [(&[][..], "needs"), (&[2], "does not exist"), (&[1, 2], "exist"), (&[1, 1], "more than")]
        {
            let (code, reason) = reassign(Some(replicas), 1).expect_err("must be refused");
            assert_eq!(code, ErrorCode::INVALID_REPLICA_ASSIGNMENT);
            assert!(reason.contains(why), "{replicas:?}: {reason}");
        }
    }
}
