//! AlterConfigs, key 33, versions 0 to 2, and IncrementalAlterConfigs, key 44, versions 0 to 1.
//!
//! AlterConfigs replaces the configuration of a resource: keys that it does not contain are reset. 2 is flexible.
//! IncrementalAlterConfigs changes only the given keys: sets or resets them, appends to or subtracts from lists. 1 is
//! flexible. The changes of one resource are atomic.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use millstream_protocol::{
    Str,
    messages::{alter_configs, incremental_alter_configs as incremental},
};

use super::{
    configs::{Refused, Resource, resource},
    context::RequestContext,
    error::ErrorCode,
};
use crate::{
    config::{ConfigKind, GROUP_KEYS},
    service::{BrokerScope, Change, ConfigEntry, ConfigSource, ConfigTurn},
};

/// Maximum wait for a change; these requests have no timeout.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Keys with their new values; a key without a value is reset.
type Changes = Vec<(String, Option<String>)>;

/// Replaces configurations, each resource independently.
pub(super) async fn alter_configs(
    _ctx: &RequestContext,
    change: &Change,
    request: alter_configs::AlterConfigsRequest,
) -> alter_configs::AlterConfigsResponse {
    let repeated = repeated(request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())));
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in request.resources {
        let id = (asked.resource_type, asked.resource_name.clone());
        let configs = asked.configs.into_iter().map(|c| (c.name.to_string(), c.value.map(|v| v.to_string())));
        let alteration = Alteration::Replace(configs.collect());
        let (error_code, error_message) =
            answer(alter(change, &id, &repeated, alteration, request.validate_only).await);
        responses.push(alter_configs::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: id.0,
            resource_name: id.1,
        });
    }
    alter_configs::AlterConfigsResponse { responses, ..Default::default() }
}

/// Changes configurations, each resource independently.
pub(super) async fn incremental_alter_configs(
    _ctx: &RequestContext,
    change: &Change,
    request: incremental::IncrementalAlterConfigsRequest,
) -> incremental::IncrementalAlterConfigsResponse {
    let repeated = repeated(request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())));
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in request.resources {
        let id = (asked.resource_type, asked.resource_name.clone());
        let key_changes = asked.configs.into_iter().map(|c| KeyChange {
            key: c.name.to_string(),
            operation: c.config_operation,
            value: c.value.map(|v| v.to_string()),
        });
        let alteration = Alteration::Incremental(key_changes.collect());
        let (error_code, error_message) =
            answer(alter(change, &id, &repeated, alteration, request.validate_only).await);
        responses.push(incremental::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: id.0,
            resource_name: id.1,
        });
    }
    incremental::IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

fn answer(done: Result<(), Refused>) -> (i16, Option<Str>) {
    match done {
        Ok(()) => (ErrorCode::NONE.0, None),
        Err((code, reason)) => (code.0, Some(Str::from(reason))),
    }
}

type ResourceId = (i8, Str);

/// Repeated resources of a request: they are refused, as their changes could conflict.
fn repeated(ids: impl Iterator<Item = ResourceId>) -> BTreeSet<ResourceId> {
    let mut count: HashMap<ResourceId, usize> = HashMap::new();
    ids.for_each(|id| *count.entry(id).or_default() += 1);
    count.into_iter().filter(|(_, n)| *n > 1).map(|(id, _)| id).collect()
}

/// A change of a resource's configuration.
enum Alteration {
    Replace(Changes),
    Incremental(Vec<KeyChange>),
}

/// An incremental change of one key.
#[derive(Clone, Debug)]
struct KeyChange {
    key: String,
    operation: i8,
    value: Option<String>,
}

async fn alter(
    change: &Change,
    id: &ResourceId,
    repeated: &BTreeSet<ResourceId>,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Refused> {
    if repeated.contains(id) {
        return Err((ErrorCode::INVALID_REQUEST, "the request names the resource more than once".into()));
    }
    let resource = resource(id.0, &id.1, change.node_id())?;
    let work = async move |change: Change| execute(&change, resource, alteration, validate_only).await;
    let late = || {
        Err((
            ErrorCode::REQUEST_TIMED_OUT,
            "the change was not completed in time; it may still take effect".to_string(),
        ))
    };
    change.within(WAIT_MAX, work).await.unwrap_or_else(late)
}

async fn execute(
    change: &Change,
    resource: Resource,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Refused> {
    // The values that the change depends on must not change before the result is written.
    let turn = change.config_turn().await;
    match resource {
        Resource::Topic(name) => {
            let missing =
                || (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("topic '{name}' does not exist"));
            let entries = change.topic_configs(&name).ok_or_else(missing)?;
            let changes = resolve(alteration, &entries, ConfigSource::DynamicTopic)?;
            let done = change.alter_topic_config(&turn, &name, changes, validate_only).await;
            done.map_err(|error| (ErrorCode::from(&error), error.to_string()))
        }
        Resource::Group => {
            refuse_group(&resolve(alteration, &change.group_configs(), ConfigSource::DynamicTopic)?)
        }
        Resource::Broker => {
            alter_broker(
                change,
                &turn,
                BrokerScope::This,
                ConfigSource::DynamicBroker,
                alteration,
                validate_only,
            )
            .await
        }
        Resource::AllBrokers => {
            alter_broker(
                change,
                &turn,
                BrokerScope::All,
                ConfigSource::DynamicDefaultBroker,
                alteration,
                validate_only,
            )
            .await
        }
    }
}

/// Group keys have no effect, so setting one is refused. Resetting one is allowed.
fn refuse_group(changes: &Changes) -> Result<(), Refused> {
    let known = |key: &String| GROUP_KEYS.iter().any(|known| known.name == key);
    if let Some((key, _)) = changes.iter().find(|(key, _)| !known(key)) {
        return Err((ErrorCode::INVALID_CONFIG, format!("unknown group configuration {key}")));
    }
    match changes.iter().find(|(_, value)| value.is_some()) {
        None => Ok(()),
        Some((key, _)) => Err((
            ErrorCode::INVALID_CONFIG,
            format!(
                "{key} cannot be set: it applies to KIP-848 groups and share groups, which are not supported"
            ),
        )),
    }
}

async fn alter_broker(
    change: &Change,
    turn: &ConfigTurn<'_>,
    scope: BrokerScope,
    layer: ConfigSource,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Refused> {
    let changes = resolve(alteration, &change.broker_configs(), layer)?;
    let done = change.alter_broker_config(turn, scope, changes, validate_only).await;
    done.map_err(|error| (ErrorCode::from(&error), error.to_string()))
}

/// Resolves an alteration to changes of the keys in `layer`.
fn resolve(alteration: Alteration, entries: &[ConfigEntry], layer: ConfigSource) -> Result<Changes, Refused> {
    let set_here = |entry: &ConfigEntry| {
        let own = entry.synonyms.iter().find(|(_, _, source)| *source == layer);
        own.and_then(|(_, value, _)| value.clone())
    };
    match alteration {
        Alteration::Replace(wanted) => {
            let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
            entries.iter().filter(|entry| set_here(entry).is_some()).for_each(|entry| {
                all.insert(entry.name.clone(), None);
            });
            all.extend(wanted);
            Ok(all.into_iter().collect())
        }
        Alteration::Incremental(key_changes) => {
            let mut keys = BTreeSet::new();
            if let Some(key_change) = key_changes.iter().find(|key_change| !keys.insert(&key_change.key)) {
                return Err((
                    ErrorCode::INVALID_REQUEST,
                    format!("the request names {} more than once", key_change.key),
                ));
            }
            key_changes
                .iter()
                .map(|key_change| {
                    let entry = entries.iter().find(|entry| entry.name == key_change.key);
                    // A list that is not set in this layer is changed from its effective value.
                    let current = entry.and_then(|entry| set_here(entry).or_else(|| entry.value.clone()));
                    Ok((
                        key_change.key.clone(),
                        outcome(key_change, entry.map(|entry| entry.kind), current.as_deref())?,
                    ))
                })
                .collect()
        }
    }
}

/// A key's value after one change. Unknown keys are accepted here and refused where values are checked.
fn outcome(
    key_change: &KeyChange,
    kind: Option<ConfigKind>,
    current: Option<&str>,
) -> Result<Option<String>, Refused> {
    let value = || {
        let missing =
            || (ErrorCode::INVALID_REQUEST, format!("the change of {} has no value", key_change.key));
        key_change.value.clone().ok_or_else(missing)
    };
    match key_change.operation {
        0 => value().map(Some),
        1 => Ok(None),
        2 | 3 if kind.is_some_and(|kind| kind != ConfigKind::List) => Err((
            ErrorCode::INVALID_CONFIG,
            format!(
                "{} is not a list: it can be set, but not appended to or subtracted from",
                key_change.key
            ),
        )),
        2 => value().map(|added| Some(append(current.unwrap_or_default(), &added))),
        3 => value().map(|taken| Some(subtract(current.unwrap_or_default(), &taken))),
        other => Err((
            ErrorCode::INVALID_REQUEST,
            format!("operation {other} does not exist; 0 sets, 1 deletes, 2 appends, 3 subtracts"),
        )),
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn append(current: &str, added: &str) -> String {
    let mut all: Vec<&str> = items(current).collect();
    for item in items(added) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all.join(",")
}

fn subtract(current: &str, taken: &str) -> String {
    let taken: Vec<&str> = items(taken).collect();
    items(current).filter(|item| !taken.contains(item)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: ConfigKind, own: Option<&str>, default: &str) -> ConfigEntry {
        let mut synonyms = vec![(name.to_string(), Some(default.to_string()), ConfigSource::Default)];
        if let Some(own) = own {
            synonyms.insert(0, (name.to_string(), Some(own.to_string()), ConfigSource::DynamicTopic));
        }
        ConfigEntry {
            name: name.to_string(),
            value: synonyms[0].1.clone(),
            source: synonyms[0].2,
            read_only: false,
            sensitive: false,
            kind,
            documentation: "",
            synonyms,
        }
    }

    fn topic() -> Vec<ConfigEntry> {
        vec![
            entry("cleanup.policy", ConfigKind::List, None, "delete"),
            entry("retention.ms", ConfigKind::Long, Some("5"), "9"),
            entry("segment.ms", ConfigKind::Long, None, "7"),
        ]
    }

    fn key_change(key: &str, operation: i8, value: Option<&str>) -> KeyChange {
        KeyChange { key: key.into(), operation, value: value.map(String::from) }
    }

    fn key_changes(all: Vec<KeyChange>) -> Result<Changes, Refused> {
        resolve(Alteration::Incremental(all), &topic(), ConfigSource::DynamicTopic)
    }

    #[test]
    fn replacing_resets_the_keys_that_are_not_given() {
        let wanted = vec![("segment.ms".to_string(), Some("8".to_string()))];
        let changes =
            resolve(Alteration::Replace(wanted), &topic(), ConfigSource::DynamicTopic).expect("resolved");
        assert_eq!(
            changes,
            [("retention.ms".to_string(), None), ("segment.ms".to_string(), Some("8".to_string()))]
        );
    }

    #[test]
    fn lists_are_changed_from_their_effective_values() {
        let grown = key_changes(vec![key_change("cleanup.policy", 2, Some("compact"))]).expect("resolved");
        assert_eq!(grown[0].1.as_deref(), Some("delete,compact"));
        let same = key_changes(vec![key_change("cleanup.policy", 2, Some("delete"))]).expect("resolved");
        assert_eq!(same[0].1.as_deref(), Some("delete"));
        let shrunk =
            key_changes(vec![key_change("cleanup.policy", 3, Some("delete,compact"))]).expect("resolved");
        assert_eq!(shrunk[0].1.as_deref(), Some(""));
    }

    #[test]
    fn only_lists_can_be_appended_to_and_subtracted_from() {
        for operation in [2, 3] {
            let (code, reason) =
                key_changes(vec![key_change("retention.ms", operation, Some("1"))]).expect_err("no list");
            assert_eq!(code, ErrorCode::INVALID_CONFIG, "{reason}");
        }
    }

    #[test]
    fn malformed_operations_are_refused() {
        let twice = vec![key_change("retention.ms", 0, Some("1")), key_change("retention.ms", 1, None)];
        for refused in
            [twice, vec![key_change("retention.ms", 0, None)], vec![key_change("retention.ms", 4, Some("1"))]]
        {
            let (code, _) = key_changes(refused.clone()).expect_err("malformed");
            assert_eq!(code, ErrorCode::INVALID_REQUEST, "{refused:?}");
        }
        assert_eq!(
            key_changes(vec![key_change("retention.ms", 1, None)]),
            Ok(vec![("retention.ms".to_string(), None)])
        );
    }

    #[test]
    fn repeated_resources_are_found() {
        let ids = [(2, Str::from("a")), (2, Str::from("b")), (4, Str::from("a")), (2, Str::from("a"))];
        assert_eq!(repeated(ids.into_iter()), BTreeSet::from([(2, Str::from("a"))]));
    }
}
