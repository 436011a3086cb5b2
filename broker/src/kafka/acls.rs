//! DescribeAcls, key 29, versions 1 to 3.
//!
//! 1 has pattern types; 2 is flexible; 3 has a resource type for users. There is no authorizer. As in Kafka, the answer is
//! then SECURITY_DISABLED and not an empty list, which would mean that nothing is allowed.

use millstream_protocol::{
    Str,
    messages::describe_acls::{DescribeAclsRequest, DescribeAclsResponse},
};

use super::{context::RequestContext, error::ErrorCode};

/// Always SECURITY_DISABLED.
pub(super) async fn describe_acls(_: &RequestContext, _: DescribeAclsRequest) -> DescribeAclsResponse {
    DescribeAclsResponse {
        error_code: ErrorCode::SECURITY_DISABLED.0,
        error_message: Some(Str::from("No Authorizer is configured.")),
        ..Default::default()
    }
}
