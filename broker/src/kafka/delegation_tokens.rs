//! DescribeDelegationToken, key 41, versions 1 to 3.
//!
//! 2 is flexible; 3 adds the requester of a token. As in Kafka, token requests on connections without authentication are
//! refused, and no connection has authentication.

use millstream_protocol::messages::describe_delegation_token::{
    DescribeDelegationTokenRequest, DescribeDelegationTokenResponse,
};

use super::{context::RequestContext, error::ErrorCode};

/// Always refused, as by Kafka on a PLAINTEXT listener.
pub(super) async fn describe_delegation_token(
    _: &RequestContext,
    _: DescribeDelegationTokenRequest,
) -> DescribeDelegationTokenResponse {
    DescribeDelegationTokenResponse {
        error_code: ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED.0,
        ..Default::default()
    }
}
