//! ListConfigResources, key 74, versions 0 to 1: resources whose configuration can be described.
//!
//! 0 lists client metrics subscriptions, of which there are none; 1 has a list of types, an empty one for all.

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

/// The resource types of each version.
const IN_VERSION_0: &[i8] = &[CLIENT_METRICS];
const IN_VERSION_1: &[i8] = &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

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

/// The requested types; `None` if the version does not support one of them.
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
        // Groups have no configuration of their own; loggers and client metrics have none at all.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_belong_to_versions_and_an_empty_list_means_all() {
        assert_eq!(wanted(0, &[]), Some(vec![16]));
        assert_eq!(wanted(0, &[TOPIC]), None);
        assert_eq!(wanted(1, &[]), Some(vec![2, 4, 8, 16, 32]));
        assert_eq!(wanted(1, &[GROUP, TOPIC, TOPIC]), Some(vec![2, 32]));
        assert_eq!(wanted(1, &[TOPIC, 3]), None);
    }
}
