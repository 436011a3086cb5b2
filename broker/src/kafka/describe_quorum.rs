//! DescribeQuorum, key 55, versions 0 to 2: the metadata group, presented as Kafka's metadata quorum.
//!
//! 1 adds the last fetch times of replicas; 2 error messages, directory ids and the addresses of the nodes. Offsets are
//! indexes in the group's log.

use millstream_protocol::{
    Str,
    messages::describe_quorum::{
        DescribeQuorumRequest, DescribeQuorumResponse, Listener, Node, ReplicaState, ResponsePartitionData,
        ResponseTopicData,
    },
};
use millstream_replica::{Quorum, QuorumReplica};

use super::{context::RequestContext, error::ErrorCode};
use crate::{clock, service::BrokerInfo};

/// Kafka's name of the metadata topic.
const TOPIC: &str = "__cluster_metadata";
/// The name of the one listener.
const LISTENER: &str = "PLAINTEXT";
/// Version from which responses have the addresses of the nodes.
const NODES_FROM: i16 = 2;
/// An unknown time of a replica.
const UNKNOWN: i64 = -1;

pub(super) async fn describe_quorum(
    ctx: &RequestContext,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let Some(quorum) = ctx.service.metadata().quorum() else {
        return DescribeQuorumResponse {
            error_code: ErrorCode::NOT_LEADER_OR_FOLLOWER.0,
            error_message: Some("this broker does not lead the metadata".into()),
            ..Default::default()
        };
    };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions =
            topic.partitions.iter().map(|asked| match (&*topic.topic_name, asked.partition_index) {
                (TOPIC, 0) => describe(&quorum, clock::now_ms()),
                (_, index) => unknown(index),
            });
        let partitions = partitions.collect();
        ResponseTopicData { topic_name: topic.topic_name, partitions }
    });
    let nodes = match ctx.version {
        ..NODES_FROM => Vec::new(),
        _ => ctx.service.brokers().into_iter().map(node).collect(),
    };
    DescribeQuorumResponse { error_message: None, topics: topics.collect(), nodes, ..Default::default() }
}

fn describe(quorum: &Quorum, now_ms: i64) -> ResponsePartitionData {
    let replica = |replica: &QuorumReplica| {
        // The leader is always caught up with itself. The times of followers are unknown here.
        let seen_ms = if replica.node == quorum.leader { now_ms } else { UNKNOWN };
        ReplicaState {
            replica_id: replica.node.0 as i32,
            log_end_offset: replica.log_end.map_or(UNKNOWN, |end| end as i64),
            last_fetch_timestamp: seen_ms,
            last_caught_up_timestamp: seen_ms,
            ..Default::default()
        }
    };
    ResponsePartitionData {
        error_message: None,
        leader_id: quorum.leader.0 as i32,
        leader_epoch: quorum.term as i32,
        high_watermark: quorum.committed_end as i64,
        current_voters: quorum.voters.iter().map(replica).collect(),
        observers: quorum.learners.iter().map(replica).collect(),
        ..Default::default()
    }
}

fn unknown(partition_index: i32) -> ResponsePartitionData {
    ResponsePartitionData {
        partition_index,
        error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0,
        error_message: Some(Str::from(format!("the metadata is partition 0 of {TOPIC}"))),
        ..Default::default()
    }
}

fn node(broker: BrokerInfo) -> Node {
    let listener = Listener { name: LISTENER.into(), host: Str::from(broker.host), port: broker.port };
    Node { node_id: broker.id, listeners: vec![listener] }
}

#[cfg(test)]
mod tests {
    use millstream_model::NodeId;

    use super::*;

    #[test]
    fn a_followers_offset_is_that_known_to_the_leader() {
        let replica = |node, log_end| QuorumReplica { node: NodeId(node), log_end };
        let quorum = Quorum {
            leader: NodeId(1),
            term: 7,
            committed_end: 10,
            voters: vec![replica(1, Some(11)), replica(2, Some(9)), replica(3, None)],
            learners: vec![replica(4, Some(3))],
        };
        let described = describe(&quorum, 1_000);
        assert_eq!((described.leader_id, described.leader_epoch, described.high_watermark), (1, 7, 10));
        let seen = |replicas: &[ReplicaState]| -> Vec<_> {
            replicas.iter().map(|r| (r.replica_id, r.log_end_offset, r.last_fetch_timestamp)).collect()
        };
        assert_eq!(seen(&described.current_voters), [(1, 11, 1_000), (2, 9, -1), (3, -1, -1)]);
        assert_eq!(seen(&described.observers), [(4, 3, -1)]);
    }
}
