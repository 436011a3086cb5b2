//! DescribeDelegationToken, key 41, versions 1 to 3.
//!
//! 2 is flexible; 3 says who asked for a token. Kafka refuses every request about tokens on a connection without
//! authentication, which all connections are.

use millstream_protocol::messages::describe_delegation_token::{
    DescribeDelegationTokenRequest, DescribeDelegationTokenResponse,
};

use super::{context::RequestContext, error::ErrorCode};

/// Refuses, as Kafka does on a PLAINTEXT listener.
pub(super) async fn describe_delegation_token(
    _: &RequestContext,
    _: DescribeDelegationTokenRequest,
) -> DescribeDelegationTokenResponse {
    DescribeDelegationTokenResponse {
        error_code: ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED.0,
        ..Default::default()
    }
}
