//! DescribeCluster, key 60, versions 0 to 2.
//!
//! 1 adds the endpoint type; 2 can include fenced brokers.

use millstream_protocol::{
    Str,
    messages::describe_cluster::{DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse},
};

use super::{
    context::RequestContext,
    error::ErrorCode,
    operations::{self, if_requested},
};
use crate::service::BrokerInfo;

/// Endpoint types; this node has a broker endpoint only.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Describes the brokers of the cluster.
pub(super) async fn describe_cluster(
    ctx: &RequestContext,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if let Err((code, reason)) = check_endpoint(request.endpoint_type) {
        return DescribeClusterResponse {
            error_code: code.0,
            error_message: Some(Str::from(reason)),
            ..Default::default()
        };
    }
    DescribeClusterResponse {
        cluster_id: Str::from(ctx.service.cluster_id()),
        controller_id: ctx.service.controller_id(),
        brokers: ctx.service.brokers().into_iter().map(broker).collect(),
        cluster_authorized_operations: if_requested(
            request.include_cluster_authorized_operations,
            operations::CLUSTER,
        ),
        ..Default::default()
    }
}

fn check_endpoint(endpoint_type: i8) -> Result<(), (ErrorCode, &'static str)> {
    match endpoint_type {
        BROKERS => Ok(()),
        CONTROLLERS => {
            Err((ErrorCode::MISMATCHED_ENDPOINT_TYPE, "controllers were requested, but this is a broker"))
        }
        _ => Err((ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "endpoints are brokers (1) or controllers (2)")),
    }
}

fn broker(info: BrokerInfo) -> DescribeClusterBroker {
    DescribeClusterBroker {
        broker_id: info.id,
        host: Str::from(info.host),
        port: i32::from(info.port),
        rack: info.rack.map(Str::from),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_broker_endpoints_are_supported() {
        assert_eq!(check_endpoint(1), Ok(()));
        assert_eq!(check_endpoint(2).expect_err("a controller").0, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
        assert_eq!(check_endpoint(3).expect_err("nothing").0, ErrorCode::UNSUPPORTED_ENDPOINT_TYPE);
    }
}
