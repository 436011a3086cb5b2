//! ApiVersions 0-4.
//!
//! 0: the list. 1: throttle time. 3: flexible, the client's name and version; the response header stays at
//! version 0. 4: features may start at level 0. An unknown version is answered in the format of version 0, with error 35
//! and the list, so that the client can choose another.

use bytes::Bytes;
use millstream_protocol::{
    ApiKey, encode_response_frame,
    messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse},
};

use super::{api, context::RequestContext, error::ErrorCode};

/// Maximum length of the name and the version of a client's software.
const SOFTWARE_NAME_BYTES_MAX: usize = 256;

fn list() -> Vec<ApiVersion> {
    let rows = api::ROWS.iter();
    rows.map(|row| ApiVersion {
        api_key: row.key as i16,
        min_version: row.versions.min,
        max_version: row.versions.max,
    })
    .collect()
}

/// Lists the supported APIs and versions.
pub(super) async fn api_versions(
    context: &RequestContext,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    let named = context.version < 3
        || is_name(&request.client_software_name) && is_name(&request.client_software_version);
    if !named {
        return ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST.0, ..Default::default() };
    }
    ApiVersionsResponse { api_keys: list(), ..Default::default() }
}

/// Kafka's rule for client software names and versions: letters and digits, with dots and dashes between them.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= SOFTWARE_NAME_BYTES_MAX
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

/// The response to an unknown version of ApiVersions; `None` for any other API.
pub(super) fn refusal(key: ApiKey, correlation_id: i32) -> Option<Vec<Bytes>> {
    if key != ApiKey::ApiVersions {
        return None;
    }
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UNSUPPORTED_VERSION.0,
        api_keys: list(),
        ..Default::default()
    };
    encode_response_frame(key, 0, correlation_id, &response).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kafkas_rule() {
        for good in ["librdkafka", "apache-kafka-java", "2.15.0", "a"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "a\n", &"x".repeat(257)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
