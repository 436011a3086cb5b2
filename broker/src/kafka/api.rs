//! The table of APIs. ApiVersions advertises exactly these versions.

use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::{
    ApiKey, DecodeError, Message, Reader, Request, VersionRange, encode_response_frame,
    messages::{
        alter_configs::AlterConfigsRequest,
        alter_partition_reassignments::AlterPartitionReassignmentsRequest, api_versions::ApiVersionsRequest,
        create_partitions::CreatePartitionsRequest, create_topics::CreateTopicsRequest,
        delete_groups::DeleteGroupsRequest, delete_records::DeleteRecordsRequest,
        delete_topics::DeleteTopicsRequest, describe_acls::DescribeAclsRequest,
        describe_client_quotas::DescribeClientQuotasRequest, describe_cluster::DescribeClusterRequest,
        describe_configs::DescribeConfigsRequest, describe_delegation_token::DescribeDelegationTokenRequest,
        describe_groups::DescribeGroupsRequest, describe_log_dirs::DescribeLogDirsRequest,
        describe_producers::DescribeProducersRequest, describe_quorum::DescribeQuorumRequest,
        describe_topic_partitions::DescribeTopicPartitionsRequest,
        describe_transactions::DescribeTransactionsRequest,
        describe_user_scram_credentials::DescribeUserScramCredentialsRequest,
        elect_leaders::ElectLeadersRequest, fetch::FetchRequest, find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest, incremental_alter_configs::IncrementalAlterConfigsRequest,
        init_producer_id::InitProducerIdRequest, join_group::JoinGroupRequest,
        leave_group::LeaveGroupRequest, list_config_resources::ListConfigResourcesRequest,
        list_groups::ListGroupsRequest, list_offsets::ListOffsetsRequest,
        list_partition_reassignments::ListPartitionReassignmentsRequest,
        list_transactions::ListTransactionsRequest, metadata::MetadataRequest,
        offset_commit::OffsetCommitRequest, offset_delete::OffsetDeleteRequest,
        offset_fetch::OffsetFetchRequest, offset_for_leader_epoch::OffsetForLeaderEpochRequest,
        produce::ProduceRequest, sync_group::SyncGroupRequest,
    },
};

use super::{
    Answer, Reply, acls, alter_configs, client_quotas, configs,
    context::{OnClose, RequestContext},
    create_partitions, create_topics, delegation_tokens, delete_records, delete_topics, describe_cluster,
    describe_producers, describe_quorum, describe_topic_partitions, fetch, groups, init_producer_id,
    leader_epoch, list_config_resources, list_offsets, log_dirs, metadata, placement, produce, scram_users,
    transactions, versions,
};
use crate::{clock, service::Service};

/// Decodes a request, runs its first stage in the order of arrival, and returns the rest.
type Begin = fn(RequestContext, i32, Reader) -> Result<Answer, DecodeError>;

/// One API.
pub(super) struct Row {
    pub(super) key: ApiKey,
    /// Advertised versions.
    pub(super) versions: VersionRange,
    pub(super) begin: Begin,
}

/// A row whose handler is `async fn(&RequestContext, Request) -> Response`.
macro_rules! row {
    ($request:ty, $min:literal ..= $max:literal, $handler:path) => {
        Row {
            key: <$request as Request>::KEY,
            versions: VersionRange { min: $min, max: $max },
            begin: |context, correlation_id, reader| {
                let begun = clock::monotonic();
                let request = read::<$request>(reader, context.version)?;
                Ok(Answer::Later(Box::pin(async move {
                    let response = $handler(&context, request).await;
                    count::<$request>(&context.service, begun);
                    reply::<$request>(context.version, correlation_id, &response)
                })))
            },
        }
    };
}

/// A row whose handler is `async fn(&RequestContext, &Change, Request) -> Response`: it changes state, so it starts in the
/// order of arrival and runs to completion even if the connection closes.
macro_rules! row_changing {
    ($request:ty, $min:literal ..= $max:literal, $handler:path) => {
        Row {
            key: <$request as Request>::KEY,
            versions: VersionRange { min: $min, max: $max },
            begin: |context, correlation_id, reader| {
                let begun = clock::monotonic();
                let request = read::<$request>(reader, context.version)?;
                let service = context.service.clone();
                Ok(Answer::Change(service.change(move |change| async move {
                    let response = $handler(&context, &change, request).await;
                    count::<$request>(&context.service, begun);
                    reply::<$request>(context.version, correlation_id, &response)
                })))
            },
        }
    };
}

/// A row whose handler is `fn(&RequestContext, Request) -> (OnClose, impl Future<Output = Result<Option<Response>, String>>)`:
/// what it does before it returns happens in the order of arrival. `None`: no response; an error closes the connection.
macro_rules! row_in_order {
    ($request:ty, $min:literal ..= $max:literal, $handler:path) => {
        Row {
            key: <$request as Request>::KEY,
            versions: VersionRange { min: $min, max: $max },
            begin: |context, correlation_id, reader| {
                let begun = clock::monotonic();
                let version = context.version;
                let request = read::<$request>(reader, version)?;
                let (on_close, rest) = $handler(&context, request);
                let service = context.service;
                let of_task = service.clone();
                let work = async move {
                    let done = rest.await;
                    count::<$request>(&of_task, begun);
                    match done {
                        Ok(Some(response)) => reply::<$request>(version, correlation_id, &response),
                        Ok(None) => Reply::Nothing,
                        Err(reason) => Reply::Close(reason),
                    }
                };
                Ok(match on_close {
                    OnClose::Drop => Answer::Later(Box::pin(work)),
                    OnClose::Finish => Answer::Change(service.change(move |_| work)),
                })
            },
        }
    };
}

/// Every API, sorted by key.
pub(super) static ROWS: &[Row] = &[
    // 0-2 are advertised because librdkafka before 2.11.1 turns compression off without them; they are refused.
    row_in_order!(ProduceRequest, 0..=11, produce::produce),
    row!(FetchRequest, 4..=12, fetch::fetch),
    row!(ListOffsetsRequest, 1..=11, list_offsets::list_offsets),
    row_in_order!(MetadataRequest, 0..=13, metadata::metadata),
    row!(OffsetCommitRequest, 2..=8, groups::offset_commit),
    row!(OffsetFetchRequest, 1..=8, groups::offset_fetch),
    row!(FindCoordinatorRequest, 0..=4, groups::find_coordinator),
    row!(JoinGroupRequest, 0..=9, groups::join_group),
    row!(HeartbeatRequest, 0..=4, groups::heartbeat),
    row!(LeaveGroupRequest, 0..=5, groups::leave_group),
    row!(SyncGroupRequest, 0..=5, groups::sync_group),
    row!(DescribeGroupsRequest, 0..=6, groups::describe_groups),
    row!(ListGroupsRequest, 0..=5, groups::list_groups),
    row!(ApiVersionsRequest, 0..=4, versions::api_versions),
    row_changing!(CreateTopicsRequest, 0..=7, create_topics::create_topics),
    row_changing!(DeleteTopicsRequest, 0..=6, delete_topics::delete_topics),
    row_changing!(DeleteRecordsRequest, 0..=2, delete_records::delete_records),
    row_changing!(InitProducerIdRequest, 0..=4, init_producer_id::init_producer_id),
    row!(OffsetForLeaderEpochRequest, 2..=4, leader_epoch::offset_for_leader_epoch),
    row!(DescribeAclsRequest, 1..=3, acls::describe_acls),
    row!(DescribeConfigsRequest, 1..=4, configs::describe_configs),
    row_changing!(AlterConfigsRequest, 0..=2, alter_configs::alter_configs),
    row!(DescribeLogDirsRequest, 1..=5, log_dirs::describe_log_dirs),
    row_changing!(CreatePartitionsRequest, 0..=3, create_partitions::create_partitions),
    row!(DescribeDelegationTokenRequest, 1..=3, delegation_tokens::describe_delegation_token),
    row!(DeleteGroupsRequest, 0..=2, groups::delete_groups),
    row!(ElectLeadersRequest, 0..=2, placement::elect_leaders),
    row_changing!(IncrementalAlterConfigsRequest, 0..=1, alter_configs::incremental_alter_configs),
    row!(AlterPartitionReassignmentsRequest, 0..=1, placement::alter_partition_reassignments),
    row!(ListPartitionReassignmentsRequest, 0..=0, placement::list_partition_reassignments),
    row!(OffsetDeleteRequest, 0..=0, groups::offset_delete),
    row!(DescribeClientQuotasRequest, 0..=1, client_quotas::describe_client_quotas),
    row!(DescribeUserScramCredentialsRequest, 0..=0, scram_users::describe_user_scram_credentials),
    row!(DescribeQuorumRequest, 0..=2, describe_quorum::describe_quorum),
    row!(DescribeClusterRequest, 0..=2, describe_cluster::describe_cluster),
    row!(DescribeProducersRequest, 0..=0, describe_producers::describe_producers),
    row!(DescribeTransactionsRequest, 0..=0, transactions::describe_transactions),
    row!(ListTransactionsRequest, 0..=1, transactions::list_transactions),
    row!(ListConfigResourcesRequest, 0..=1, list_config_resources::list_config_resources),
    row!(DescribeTopicPartitionsRequest, 0..=0, describe_topic_partitions::describe_topic_partitions),
];

/// The row of an API key.
pub(super) fn find(key: i16) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&key, |row| row.key as i16).ok().map(|at| &ROWS[at])
}

fn read<R: Request>(mut reader: Reader, version: i16) -> Result<R, DecodeError> {
    R::decode(&mut reader, version)
}

fn count<R: Request>(service: &Service, begun: Instant) {
    service.meter().answered(R::KEY as i16, clock::monotonic().saturating_duration_since(begun));
}

fn reply<R: Request>(version: i16, correlation_id: i32, response: &R::Response) -> Reply {
    match frame::<R>(version, correlation_id, response) {
        Ok(frame) => Reply::Frame(frame),
        // A value that this version cannot encode is a bug of the broker; the client must not wait forever.
        Err(error) => Reply::Close(format!("the reply to {} cannot be written: {error}", R::KEY.name())),
    }
}

fn frame<R: Request>(
    version: i16,
    correlation_id: i32,
    response: &R::Response,
) -> Result<Vec<Bytes>, millstream_protocol::EncodeError>
where
    R::Response: Message,
{
    encode_response_frame(R::KEY, version, correlation_id, response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_found_by_their_key() {
        assert!(ROWS.windows(2).all(|pair| (pair[0].key as i16) < pair[1].key as i16));
        for row in ROWS {
            assert!(find(row.key as i16).is_some_and(|found| found.key == row.key));
        }
        assert!(find(-1).is_none() && find(i16::MAX).is_none());
    }
}
