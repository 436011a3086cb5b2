//! ListConfigResources, key 74, versions 0 to 1: what has a configuration that can be described.
//!
//! 0 lists what clients may be asked to measure, which is nothing here; 1 names the types that are wanted, none of them for
//! all.

use millstream_protocol::{
    Str,
    messages::list_config_resources::{
        ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
    },
};

use super::{
    configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC},
    context::RequestContext,
    error::ErrorCode,
};
use crate::service::Service;

/// The types that each version can list.
const IN_VERSION_0: &[i8] = &[CLIENT_METRICS];
const IN_VERSION_1: &[i8] = &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

/// Lists resources.
pub(super) async fn list_config_resources(
    ctx: &RequestContext,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let Some(kinds) = wanted(ctx.version, &request.resource_types) else {
        return ListConfigResourcesResponse {
            error_code: ErrorCode::UNSUPPORTED_VERSION.0,
            ..Default::default()
        };
    };
    let resources = kinds.into_iter().flat_map(|kind| {
        let names = names(&ctx.service, kind).into_iter();
        names.map(move |name| ConfigResource { resource_name: Str::from(name), resource_type: kind })
    });
    ListConfigResourcesResponse { config_resources: resources.collect(), ..Default::default() }
}

/// The types that are asked for; `None` if the version does not have one of them.
fn wanted(version: i16, asked: &[i8]) -> Option<Vec<i8>> {
    let known = if version == 0 { IN_VERSION_0 } else { IN_VERSION_1 };
    if asked.iter().any(|kind| !known.contains(kind)) {
        return None;
    }
    let is_wanted = |kind: &&i8| asked.is_empty() || asked.contains(*kind);
    Some(known.iter().filter(is_wanted).copied().collect())
}

fn names(service: &Service, kind: i8) -> Vec<String> {
    match kind {
        TOPIC => service.topics().iter().map(|topic| topic.name.clone()).collect(),
        BROKER => service.brokers().iter().map(|broker| broker.id.to_string()).collect(),
        // No group has a configuration of its own, and loggers and client metrics have none at all.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_belong_to_versions_and_none_of_them_is_all() {
        assert_eq!(wanted(0, &[]), Some(vec![16]));
        assert_eq!(wanted(0, &[TOPIC]), None);
        assert_eq!(wanted(1, &[]), Some(vec![2, 4, 8, 16, 32]));
        assert_eq!(wanted(1, &[GROUP, TOPIC, TOPIC]), Some(vec![2, 32]));
        assert_eq!(wanted(1, &[TOPIC, 3]), None);
    }
}
