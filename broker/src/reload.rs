//! SIGHUP: reloads the configuration file and applies the changes that a running broker supports.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{BrokerConfig, ServeConfig},
    service::{Service, StaticConfigs},
};

/// The changes of the configuration file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// The new configuration.
    broker: BTreeMap<String, String>,
    topic: BTreeMap<String, String>,
    /// Keys with another value now.
    changed: BTreeSet<String>,
    /// Keys whose new value requires a restart.
    at_start: BTreeSet<String>,
}

/// Reloads the configuration; an invalid one changes nothing.
pub(crate) fn reload(now: &mut ServeConfig, service: &Service) {
    let read = match now.read_again() {
        Ok(Some(read)) => read,
        Ok(None) => return tracing::info!("SIGHUP: there is no configuration file to reload"),
        Err(error) => return tracing::error!(%error, "SIGHUP: configuration not reloaded"),
    };
    let changes = changes(now, &read);
    for key in &changes.at_start {
        tracing::warn!(key, "SIGHUP: this key requires a restart");
    }
    service.set_static_configs(StaticConfigs {
        node: now.node_id,
        broker: changes.broker.clone(),
        topic: changes.topic.clone(),
    });
    (now.broker_set, now.topic_set) = (changes.broker, changes.topic);
    let changed = Vec::from_iter(changes.changed).join(", ");
    tracing::info!(changed, "SIGHUP: configuration reloaded");
}

fn changes(now: &ServeConfig, read: &ServeConfig) -> Changes {
    let mut changes =
        Changes { broker: now.broker_set.clone(), topic: read.topic_set.clone(), ..Changes::default() };
    for key in differing(&now.broker_set, &read.broker_set) {
        if !BrokerConfig::is_changeable(key) {
            changes.at_start.insert(key.clone());
            continue;
        }
        match read.broker_set.get(key) {
            Some(value) => changes.broker.insert(key.clone(), value.clone()),
            None => changes.broker.remove(key),
        };
        changes.changed.insert(key.clone());
    }
    changes.changed.extend(differing(&now.topic_set, &read.topic_set).cloned());
    let flags = [
        ("advertised-kafka", now.advertised_kafka != read.advertised_kafka),
        ("data-dir", now.data_dir != read.data_dir),
        ("http-addr", now.http_addr != read.http_addr),
        ("kafka-addr", now.kafka_addr != read.kafka_addr),
        ("node-id", now.node_id != read.node_id),
        ("rack", now.rack != read.rack),
    ];
    changes.at_start.extend(flags.iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_string()));
    changes
}

/// Keys that only one of the two has, or that have different values.
fn differing<'a>(
    a: &'a BTreeMap<String, String>,
    b: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = &'a String> {
    a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeOptions;

    #[test]
    fn what_may_change_while_the_broker_runs_is_changed_and_the_rest_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("millstream.toml");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write("rack = \"a\"\n\"num.partitions\" = 2\n\"connections.max\" = 7\n\"log.retention.ms\" = 5\n");
        let set = vec!["offsets.retention.minutes=9".to_string()];
        let options = ServeOptions { config: Some(file.clone()), set, ..ServeOptions::default() };
        let now = ServeConfig::resolve(options).expect("a good one");
        let read = || now.read_again().map(|read| changes(&now, &read.expect("there is a file")));
        let same = read().expect("readable");
        assert_eq!((same.changed.len(), same.at_start.len()), (0, 0));
        assert_eq!((&same.broker, &same.topic), (&now.broker_set, &now.topic_set));

        write("rack = \"b\"\n\"num.partitions\" = 3\n\"connections.max\" = 8\n\"log.retention.ms\" = 6\n");
        let other = read().expect("readable");
        assert_eq!(Vec::from_iter(other.changed), ["num.partitions", "retention.ms"]);
        assert_eq!(Vec::from_iter(other.at_start), ["connections.max", "rack"]);
        let value = |key: &str| other.broker.get(key).map(String::as_str);
        assert_eq!(
            (value("num.partitions"), value("connections.max"), value("offsets.retention.minutes")),
            (Some("3"), Some("7"), Some("9")),
            "--set is stronger than the file, as at the start"
        );

        write("\"num.partitions\" = \"many\"\n");
        assert!(read().is_err());
        write("");
        assert_eq!(read().expect("readable").broker.get("num.partitions"), None, "the default counts again");
    }
}
