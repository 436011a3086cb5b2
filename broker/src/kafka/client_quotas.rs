//! DescribeClientQuotas, key 48, versions 0 to 1. 1 is flexible.
//!
//! There are no quotas, so every valid filter matches nothing.

use std::collections::HashSet;

use millstream_protocol::{
    Str,
    messages::describe_client_quotas::{
        ComponentData, DescribeClientQuotasRequest, DescribeClientQuotasResponse,
    },
};

use super::{configs::Refused, context::RequestContext, error::ErrorCode};

/// Kinds of entities that quotas can be set for.
const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const IP: &str = "ip";
/// Match types of an entity.
const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

/// The list is always empty.
pub(super) async fn describe_client_quotas(
    _: &RequestContext,
    request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    match check(&request.components) {
        Ok(()) => DescribeClientQuotasResponse {
            error_message: None,
            entries: Some(Vec::new()),
            ..Default::default()
        },
        Err((code, reason)) => DescribeClientQuotasResponse {
            error_code: code.0,
            error_message: Some(Str::from(reason)),
            entries: None,
            ..Default::default()
        },
    }
}

fn check(components: &[ComponentData]) -> Result<(), Refused> {
    let mut kinds = HashSet::new();
    for ComponentData { entity_type, match_type, r#match, .. } in components {
        if !matches!(&**entity_type, USER | CLIENT_ID | IP) {
            let reason = format!("'{entity_type}' is not an entity type; {USER}, {CLIENT_ID} and {IP} are");
            let code = if entity_type.is_empty() {
                ErrorCode::INVALID_REQUEST
            } else {
                ErrorCode::UNSUPPORTED_VERSION
            };
            return Err((code, reason));
        }
        if !kinds.insert(&**entity_type) {
            return Err(invalid(format!("the filter names the entity type {entity_type} more than once")));
        }
        match (*match_type, r#match) {
            (EXACT, Some(_)) | (DEFAULT | SPECIFIED, None) => {}
            (EXACT, None) => return Err(invalid("an exact match needs a name".into())),
            (DEFAULT | SPECIFIED, Some(_)) => {
                return Err(invalid(format!("match type {match_type} must not have a name")));
            }
            (other, _) => {
                return Err(invalid(format!(
                    "match type {other} does not exist; 0 is exact, 1 default, 2 any name"
                )));
            }
        }
    }
    if kinds.contains(IP) && kinds.len() > 1 {
        return Err(invalid(format!("a filter for {IP} has no other entity type")));
    }
    Ok(())
}

fn invalid(reason: String) -> Refused {
    (ErrorCode::INVALID_REQUEST, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(entity_type: &'static str, match_type: i8, name: Option<&'static str>) -> ComponentData {
        ComponentData { entity_type: entity_type.into(), match_type, r#match: name.map(Str::from) }
    }

    #[test]
    fn a_filter_that_kafka_refuses_is_refused() {
        let code = |components: &[ComponentData]| check(components).map_err(|(code, _)| code);
        let user = component("user", EXACT, Some("u"));
        assert_eq!(code(&[]), Ok(()));
        assert_eq!(code(&[user.clone(), component("client-id", DEFAULT, None)]), Ok(()));
        assert_eq!(code(&[component("ip", SPECIFIED, None)]), Ok(()));
        for refused in [
            vec![user.clone(), user.clone()],
            vec![component("", EXACT, Some("u"))],
            vec![component("user", EXACT, None)],
            vec![component("user", DEFAULT, Some("u"))],
            vec![component("user", 3, None)],
            vec![component("ip", DEFAULT, None), user.clone()],
        ] {
            assert_eq!(code(&refused), Err(ErrorCode::INVALID_REQUEST), "{refused:?}");
        }
        assert_eq!(code(&[component("group", DEFAULT, None)]), Err(ErrorCode::UNSUPPORTED_VERSION));
    }
}
