//! Describes every configuration key with its value and source; alters broker keys.

use std::collections::BTreeMap;

use millstream_model::NodeId;
use millstream_state::cluster;

use super::{
    BrokerConfigError, Change, ChangeError, ConfigEntry, ConfigSource, ConfigTurn, Service, facts::is_fact,
    layers::Layers,
};
use crate::config::{
    BROKER_KEYS, BatchLimit, BrokerConfig, GROUP_KEYS, Key, TOPIC_KEYS, TopicConfig, broker_name,
    topic_key_of,
};

/// The scope of a change of broker keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerScope {
    This,
    All,
}

impl Service {
    /// A topic's configuration; `None` if there is no such topic.
    pub fn topic_configs(&self, name: &str) -> Option<Vec<ConfigEntry>> {
        let entry = self.inner.cluster.topic(name)?;
        Some(self.configs_of_new_topic(&entry.own_configs))
    }

    /// The configuration of a topic on which these keys are set.
    pub fn configs_of_new_topic(&self, own: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
        self.inner
            .cluster
            .with_layers(|layers| TOPIC_KEYS.iter().map(|key| topic_entry(key, own, &layers)).collect())
    }

    /// A consumer group's configuration, which is the same for all groups.
    pub fn group_configs(&self) -> Vec<ConfigEntry> {
        let entry = |key: &Key| {
            let value = (key.name.to_string(), Some(key.default.to_string()), ConfigSource::Default);
            entry_of(key.name.to_string(), key, vec![value], true)
        };
        GROUP_KEYS.iter().map(entry).collect()
    }

    /// The broker's configuration: its own keys, the topic defaults and the read-only keys.
    pub fn broker_configs(&self) -> Vec<ConfigEntry> {
        self.inner.cluster.with_layers(|layers| {
            let own = BROKER_KEYS.iter().map(|key| broker_entry(key, &layers));
            let of_topics = TOPIC_KEYS.iter().map(|key| topic_default_entry(key, &layers));
            own.chain(of_topics).chain(self.fact_configs()).collect()
        })
    }
}

impl Change {
    /// Sets dynamic broker keys, or with `None` removes them, so that the static values apply again.
    pub async fn alter_broker_config(
        &self,
        _turn: &ConfigTurn<'_>,
        scope: BrokerScope,
        changes: Vec<(String, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), BrokerConfigError> {
        let limit = self.inner.cluster.batch_limit();
        changes.iter().try_for_each(|(key, value)| check_change(key, value.as_deref(), limit))?;
        if validate_only || changes.is_empty() {
            return Ok(());
        }
        let node = match scope {
            BrokerScope::This => Some(NodeId(self.inner.serve.node_id)),
            BrokerScope::All => None,
        };
        let written = self.write_metadata(cluster::encode_alter_broker_configs(node, &changes)).await;
        written.map(|_| ()).map_err(|error| BrokerConfigError::Unavailable(error.to_string()))
    }
}

impl From<ChangeError> for BrokerConfigError {
    fn from(error: ChangeError) -> BrokerConfigError {
        BrokerConfigError::Unavailable(error.to_string())
    }
}

fn check_change(key: &str, value: Option<&str>, limit: BatchLimit) -> Result<(), BrokerConfigError> {
    if let Some(topic_key) = topic_key_of(key) {
        // Back to the default is always allowed.
        let Some(value) = value else { return Ok(()) };
        TopicConfig::check(topic_key, value)?;
        return Ok(limit.check(topic_key, value)?);
    }
    if is_fact(key) {
        return Err(BrokerConfigError::Fact { key: key.to_string() });
    }
    BrokerConfig::check(key, value.or(BrokerConfig::default_of(key)).unwrap_or_default())?;
    if BrokerConfig::is_changeable(key) {
        return Ok(());
    }
    let changeable = BrokerConfig::changeable().collect::<Vec<_>>().join(", ");
    Err(BrokerConfigError::ReadOnly { key: key.to_string(), changeable })
}

fn topic_entry(key: &Key, own: &BTreeMap<String, String>, layers: &Layers<'_>) -> ConfigEntry {
    let mut values = layers.of_topic(key.name);
    if let Some(value) = own.get(key.name) {
        values.insert(0, (key.name.to_string(), Some(value.clone()), ConfigSource::DynamicTopic));
    }
    values.push((broker_name(key.name), Some(key.default.to_string()), ConfigSource::Default));
    entry_of(key.name.to_string(), key, values, false)
}

fn topic_default_entry(key: &Key, layers: &Layers<'_>) -> ConfigEntry {
    let name = broker_name(key.name);
    let mut values = layers.of_topic(key.name);
    values.push((name.clone(), Some(key.default.to_string()), ConfigSource::Default));
    entry_of(name, key, values, false)
}

fn broker_entry(key: &Key, layers: &Layers<'_>) -> ConfigEntry {
    let mut values = layers.of_broker(key.name);
    values.push((key.name.to_string(), Some(key.default.to_string()), ConfigSource::Default));
    entry_of(key.name.to_string(), key, values, !BrokerConfig::is_changeable(key.name))
}

/// The first of `synonyms` has the highest precedence and gives the value.
fn entry_of(
    name: String,
    key: &Key,
    synonyms: Vec<(String, Option<String>, ConfigSource)>,
    read_only: bool,
) -> ConfigEntry {
    let (value, source) = match synonyms.first() {
        Some((_, value, source)) => (value.clone(), *source),
        None => (None, ConfigSource::Default),
    };
    let (kind, documentation) = (key.kind, key.documentation);
    ConfigEntry { name, value, source, read_only, sensitive: false, kind, documentation, synonyms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_change(key: &str, value: Option<&str>) -> Result<(), BrokerConfigError> {
        let config = BrokerConfig::from_values(&BTreeMap::new());
        super::check_change(key, value, BatchLimit::new(&config, config.wal_file_bytes))
    }

    #[test]
    fn only_keys_that_are_not_read_once_at_start_can_change() {
        assert_eq!(check_change("num.partitions", Some("3")), Ok(()));
        assert_eq!(check_change("num.partitions", None), Ok(()));
        assert_eq!(check_change("log.retention.ms", Some("1000")), Ok(()));
        assert_eq!(check_change("message.max.bytes", Some("1000")), Ok(()));
        assert_eq!(check_change("compression.type", Some("zstd")), Ok(()));
        let refused = check_change("log.retention.check.interval.ms", Some("1")).expect_err("read at start");
        assert!(matches!(refused, BrokerConfigError::ReadOnly { .. }), "{refused}");
        let refused = check_change("memtable.bytes", Some("67108864")).expect_err("read at start");
        let text = refused.to_string();
        assert!(text.contains("memtable.bytes") && text.contains("num.partitions"), "{text}");
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_by_name() {
        for (key, value) in
            [("no.such", "1"), ("log.no.such", "1"), ("num.partitions", "0"), ("log.retention.ms", "x")]
        {
            let refused = check_change(key, Some(value)).expect_err(key);
            assert!(matches!(refused, BrokerConfigError::Invalid(_)), "{refused}");
        }
        assert!(check_change("no.such", None).is_err());
        for value in [Some("false"), None] {
            let refused = check_change("delete.topic.enable", value).expect_err("it is read only");
            assert!(matches!(refused, BrokerConfigError::Fact { .. }), "{refused}");
        }
    }
}
