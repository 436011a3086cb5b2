//! DescribeUserScramCredentials, key 50, version 0. No user has credentials: there is no authentication.

use std::collections::HashMap;

use millstream_protocol::{
    Str,
    messages::describe_user_scram_credentials::{
        DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
        DescribeUserScramCredentialsResult,
    },
};

use super::{context::RequestContext, error::ErrorCode};

/// Lists no users; every requested user is unknown.
pub(super) async fn describe_user_scram_credentials(
    _: &RequestContext,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let mut named: HashMap<Str, usize> = HashMap::new();
    let mut order = Vec::new();
    for user in request.users.unwrap_or_default() {
        match named.get_mut(&user.name) {
            Some(times) => *times += 1,
            None => {
                order.push(user.name.clone());
                named.insert(user.name, 1);
            }
        }
    }
    let results = order.into_iter().map(|user| unknown(named.get(&user).is_some_and(|n| *n > 1), user));
    DescribeUserScramCredentialsResponse {
        error_message: None,
        results: results.collect(),
        ..Default::default()
    }
}

fn unknown(is_repeated: bool, user: Str) -> DescribeUserScramCredentialsResult {
    let (code, reason) = if is_repeated {
        (ErrorCode::DUPLICATE_RESOURCE, format!("the request names the user {user} more than once"))
    } else {
        (ErrorCode::RESOURCE_NOT_FOUND, format!("the user {user} has no SCRAM credentials"))
    };
    DescribeUserScramCredentialsResult {
        user,
        error_code: code.0,
        error_message: Some(Str::from(reason)),
        ..Default::default()
    }
}
