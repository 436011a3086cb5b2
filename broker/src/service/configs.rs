//! Every configuration key with its value and where that comes from.

use std::collections::BTreeMap;

use super::{ConfigEntry, ConfigSource, Service};
use crate::config::{BROKER_KEYS, Key, TOPIC_KEYS};

impl Service {
    /// A topic's configuration; `None` if there is no such topic.
    pub fn topic_configs(&self, name: &str) -> Option<Vec<ConfigEntry>> {
        let entry = self.inner.cluster.topic(name)?;
        let layers = |key: &Key| {
            let own = entry.own_configs.get(key.name);
            let given = self.inner.cluster.defaults().get(key.name);
            vec![
                (key.name.to_string(), own.cloned(), ConfigSource::DynamicTopic),
                (format!("log.{}", key.name), given.cloned(), ConfigSource::StaticBroker),
                (format!("log.{}", key.name), Some(key.default.to_string()), ConfigSource::Default),
            ]
        };
        Some(TOPIC_KEYS.iter().map(|key| entry_of(key, layers(key), false)).collect())
    }

    /// The broker's configuration.
    pub fn broker_configs(&self) -> Vec<ConfigEntry> {
        let given: &BTreeMap<String, String> = &self.inner.serve.broker_set;
        let layers = |key: &Key| {
            vec![
                (key.name.to_string(), given.get(key.name).cloned(), ConfigSource::StaticBroker),
                (key.name.to_string(), Some(key.default.to_string()), ConfigSource::Default),
            ]
        };
        BROKER_KEYS.iter().map(|key| entry_of(key, layers(key), true)).collect()
    }
}

/// The strongest layer that has a value wins.
fn entry_of(key: &Key, layers: Vec<(String, Option<String>, ConfigSource)>, read_only: bool) -> ConfigEntry {
    let synonyms: Vec<_> = layers.into_iter().filter(|(_, value, _)| value.is_some()).collect();
    let (value, source) = match synonyms.first() {
        Some((_, value, source)) => (value.clone(), *source),
        None => (None, ConfigSource::Default),
    };
    ConfigEntry {
        name: key.name.to_string(),
        value,
        source,
        read_only,
        sensitive: false,
        kind: key.kind,
        documentation: key.documentation,
        synonyms,
    }
}
