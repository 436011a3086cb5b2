//! DescribeConfigs, key 32, versions 1 to 4. AlterConfigs and IncrementalAlterConfigs: `alter_configs.rs`.
//!
//! 1 adds the source of a value and its synonyms; 2 is as 1; 3 adds the type and the documentation; 4 is flexible.

use millstream_protocol::{
    Str,
    messages::describe_configs::{
        DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
        DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
    },
};

use super::{context::RequestContext, error::ErrorCode};
use crate::{
    config::ConfigKind,
    service::{ConfigEntry, ConfigSource, Service},
};

/// Kafka's number of the resource type "topic".
pub(super) const TOPIC: i8 = 2;
/// Kafka's number of the resource type "broker".
pub(super) const BROKER: i8 = 4;
/// Kafka's number of the resource type "broker logger".
pub(super) const BROKER_LOGGER: i8 = 8;
/// Kafka's number of the resource type "client metrics".
pub(super) const CLIENT_METRICS: i8 = 16;
/// Kafka's number of the resource type "group".
pub(super) const GROUP: i8 = 32;

/// A resource with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Topic(Str),
    /// Any consumer group; it need not exist.
    Group,
    /// This broker.
    Broker,
    /// The cluster-wide defaults of all brokers.
    AllBrokers,
}

/// An error code with its message.
pub(super) type Refused = (ErrorCode, String);

/// Parses the resource of a request.
pub(super) fn resource(kind: i8, name: &Str, node: i32) -> Result<Resource, Refused> {
    match (kind, &**name) {
        (TOPIC, _) => Ok(Resource::Topic(name.clone())),
        (GROUP, "") => Err((ErrorCode::INVALID_REQUEST, "a group's name is not empty".into())),
        (GROUP, _) => Ok(Resource::Group),
        (BROKER, "") => Ok(Resource::AllBrokers),
        (BROKER, id) => match id.parse::<i32>() {
            Ok(id) if id == node => Ok(Resource::Broker),
            Ok(id) => Err((
                ErrorCode::INVALID_REQUEST,
                format!("broker {id} was requested, but this is broker {node}"),
            )),
            Err(_) => Err((ErrorCode::INVALID_REQUEST, format!("a broker id is a whole number, not '{id}'"))),
        },
        _ => Err((
            ErrorCode::INVALID_REQUEST,
            format!(
                "resource type {kind} has no configuration here; topics (2), brokers (4) and groups (32) have"
            ),
        )),
    }
}

/// Describes configurations, each resource independently.
pub(super) async fn describe_configs(
    ctx: &RequestContext,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
    let results = request.resources.into_iter().map(|asked| {
        let found = entries(&ctx.service, &asked);
        let (error_code, error_message) = match &found {
            Ok(_) => (ErrorCode::NONE, None),
            Err((code, reason)) => (*code, Some(Str::from(reason))),
        };
        let entries = found.unwrap_or_default().into_iter().filter(|entry| is_requested(&asked, &entry.name));
        DescribeConfigsResult {
            error_code: error_code.0,
            error_message,
            configs: entries.map(|entry| describe(entry, synonyms, documentation)).collect(),
            resource_type: asked.resource_type,
            resource_name: asked.resource_name.clone(),
        }
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}

fn entries(service: &Service, asked: &DescribeConfigsResource) -> Result<Vec<ConfigEntry>, Refused> {
    match resource(asked.resource_type, &asked.resource_name, service.node_id())? {
        Resource::Topic(name) => service
            .topic_configs(&name)
            .ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("topic '{name}' does not exist"))),
        Resource::Group => Ok(service.group_configs()),
        Resource::Broker => Ok(service.broker_configs()),
        Resource::AllBrokers => {
            // As in Kafka, only dynamic values are described for the cluster-wide defaults.
            let mut entries = service.broker_configs();
            entries.retain_mut(|entry| {
                entry.synonyms.retain(|(_, _, source)| *source == ConfigSource::DynamicDefaultBroker);
                entry.source = ConfigSource::DynamicDefaultBroker;
                entry.value = entry.synonyms.first().and_then(|(_, value, _)| value.clone());
                !entry.synonyms.is_empty()
            });
            Ok(entries)
        }
    }
}

/// No list of keys, or an empty one, requests all keys.
fn is_requested(asked: &DescribeConfigsResource, name: &str) -> bool {
    match asked.configuration_keys.as_deref() {
        None | Some([]) => true,
        Some(keys) => keys.iter().any(|key| &**key == name),
    }
}

fn describe(entry: ConfigEntry, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let hidden = |value: Option<String>| value.filter(|_| !entry.sensitive).map(Str::from);
    let synonym = |(name, value, source): (String, Option<String>, ConfigSource)| DescribeConfigsSynonym {
        name: Str::from(name),
        value: hidden(value),
        source: source_number(source),
    };
    DescribeConfigsResourceResult {
        name: Str::from(entry.name),
        value: hidden(entry.value),
        read_only: entry.read_only,
        config_source: source_number(entry.source),
        is_sensitive: entry.sensitive,
        synonyms: if synonyms { entry.synonyms.into_iter().map(synonym).collect() } else { Vec::new() },
        config_type: kind_number(entry.kind),
        documentation: documentation.then(|| Str::from(entry.documentation)),
    }
}

/// Kafka's number of a source.
pub(super) fn source_number(source: ConfigSource) -> i8 {
    match source {
        ConfigSource::DynamicTopic => 1,
        ConfigSource::DynamicBroker => 2,
        ConfigSource::DynamicDefaultBroker => 3,
        ConfigSource::StaticBroker => 4,
        ConfigSource::Default => 5,
    }
}

/// Kafka's number of a type.
fn kind_number(kind: ConfigKind) -> i8 {
    match kind {
        ConfigKind::Boolean => 1,
        ConfigKind::String => 2,
        ConfigKind::Int => 3,
        ConfigKind::Long => 5,
        ConfigKind::Double => 6,
        ConfigKind::List => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_topics_this_broker_and_all_brokers() {
        assert_eq!(resource(2, &Str::from("a"), 1), Ok(Resource::Topic(Str::from("a"))));
        assert_eq!(resource(4, &Str::from("1"), 1), Ok(Resource::Broker));
        assert_eq!(resource(4, &Str::from(""), 1), Ok(Resource::AllBrokers));
        assert_eq!(resource(32, &Str::from("g"), 1), Ok(Resource::Group));
        for (kind, name) in [(4, "2"), (4, "x"), (8, "1"), (0, ""), (32, ""), (127, "")] {
            let (code, reason) = resource(kind, &Str::from(name), 1).expect_err("no such resource");
            assert_eq!(code, ErrorCode::INVALID_REQUEST, "{kind} {name}: {reason}");
        }
    }

    fn entry(sensitive: bool) -> ConfigEntry {
        ConfigEntry {
            name: "retention.ms".into(),
            value: Some("5".into()),
            source: ConfigSource::DynamicTopic,
            read_only: false,
            sensitive,
            kind: ConfigKind::Long,
            documentation: "How long.",
            synonyms: vec![("retention.ms".into(), Some("5".into()), ConfigSource::DynamicTopic)],
        }
    }

    #[test]
    fn synonyms_and_documentation_are_returned_on_request() {
        let all = describe(entry(false), true, true);
        assert_eq!((all.synonyms.len(), all.documentation.as_deref()), (1, Some("How long.")));
        assert_eq!((all.config_source, all.config_type, all.value.as_deref()), (1, 5, Some("5")));
        let few = describe(entry(false), false, false);
        assert!(few.synonyms.is_empty() && few.documentation.is_none());
    }

    #[test]
    fn sensitive_values_are_hidden_everywhere() {
        let hidden = describe(entry(true), true, false);
        assert!(hidden.value.is_none() && hidden.synonyms[0].value.is_none());
    }

    #[test]
    fn an_empty_list_of_keys_requests_all() {
        let asked = |keys| DescribeConfigsResource { configuration_keys: Some(keys), ..Default::default() };
        assert!(is_requested(&asked(Vec::new()), "a"));
        let asked = asked(vec![Str::from("b")]);
        assert!(is_requested(&asked, "b") && !is_requested(&asked, "a"));
    }
}
