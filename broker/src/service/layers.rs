//! Configuration layers, by precedence: dynamic topic, dynamic broker, dynamic cluster default, static (given at start),
//! the key's default.
//!
//! Below the topic's own layer a topic key is a broker key of another name, as in Kafka: see [`broker_name`].

use std::collections::BTreeMap;

use millstream_model::NodeId;
use millstream_state::cluster::ClusterMachine;

use super::ConfigSource;
use crate::config::{broker_name, topic_key_of};

/// The static configuration: what was given at start.
#[derive(Clone, Debug, Default)]
pub struct StaticConfigs {
    /// Id of this broker.
    pub node: u64,
    pub broker: BTreeMap<String, String>,
    /// Defaults of topic keys on this broker.
    pub topic: BTreeMap<String, String>,
}

/// The layers below the topic's own.
pub(super) struct Layers<'a> {
    this_broker: Option<&'a BTreeMap<String, String>>,
    all_brokers: Option<&'a BTreeMap<String, String>>,
    static_configs: &'a StaticConfigs,
}

impl<'a> Layers<'a> {
    pub(super) fn new(machine: &'a ClusterMachine, static_configs: &'a StaticConfigs) -> Layers<'a> {
        Layers {
            this_broker: machine.broker_configs(Some(NodeId(static_configs.node))),
            all_brokers: machine.broker_configs(None),
            static_configs,
        }
    }

    /// Every layer that sets the broker key, by precedence.
    pub(super) fn of_broker(&self, key: &str) -> Vec<(String, Option<String>, ConfigSource)> {
        self.values(key, self.static_configs.broker.get(key))
    }

    /// Every layer that sets a default for the topic key, by precedence.
    pub(super) fn of_topic(&self, key: &str) -> Vec<(String, Option<String>, ConfigSource)> {
        self.values(&broker_name(key), self.static_configs.topic.get(key))
    }

    fn values(
        &self,
        key: &str,
        static_value: Option<&String>,
    ) -> Vec<(String, Option<String>, ConfigSource)> {
        let dynamic = |layer: Option<&'a BTreeMap<String, String>>| layer.and_then(|values| values.get(key));
        let layers = [
            (dynamic(self.this_broker), ConfigSource::DynamicBroker),
            (dynamic(self.all_brokers), ConfigSource::DynamicDefaultBroker),
            (static_value, ConfigSource::StaticBroker),
        ];
        let set = layers.into_iter().filter_map(|(value, source)| Some((value?.clone(), source)));
        set.map(|(value, source)| (key.to_string(), Some(value), source)).collect()
    }

    /// The broker keys that are set, each with its effective value.
    pub(super) fn broker_values(&self) -> BTreeMap<String, String> {
        let mut values = self.static_configs.broker.clone();
        for layer in [self.all_brokers, self.this_broker].into_iter().flatten() {
            let keys = layer.iter().filter(|(key, _)| topic_key_of(key).is_none());
            values.extend(keys.map(|(key, value)| (key.clone(), value.clone())));
        }
        values
    }

    /// The effective topic keys of a topic with these values of its own.
    pub(super) fn topic_values(&self, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut values = self.static_configs.topic.clone();
        for layer in [self.all_brokers, self.this_broker].into_iter().flatten() {
            let defaults = layer.iter().filter_map(|(key, value)| Some((topic_key_of(key)?, value)));
            values.extend(defaults.map(|(key, value)| (key.to_string(), value.clone())));
        }
        values.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_model::LogId;
    use millstream_state::cluster::{self, ClusterMachine};

    fn set(machine: &mut ClusterMachine, node: Option<u64>, key: &str, value: &str) {
        let changes = [(key.to_string(), Some(value.to_string()))];
        let command = cluster::encode_alter_broker_configs(node.map(NodeId), &changes);
        let command = cluster::decode(&command).expect("a command");
        machine.apply(LogId { term: 1, index: 1 }, command).expect("applied");
    }

    #[test]
    fn the_layer_of_highest_precedence_wins_for_brokers_and_for_topics() {
        let mut machine = ClusterMachine::new();
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_string(), value.to_string())]);
        let static_configs =
            StaticConfigs { node: 7, broker: one("num.partitions", "2"), topic: one("retention.ms", "10") };
        let value = |machine: &ClusterMachine| {
            Layers::new(machine, &static_configs).broker_values()["num.partitions"].clone()
        };
        assert_eq!(value(&machine), "2");
        set(&mut machine, None, "num.partitions", "3");
        assert_eq!(value(&machine), "3");
        set(&mut machine, Some(7), "num.partitions", "4");
        set(&mut machine, Some(8), "num.partitions", "5");
        assert_eq!(value(&machine), "4");
        let sources: Vec<_> =
            Layers::new(&machine, &static_configs).of_broker("num.partitions").iter().map(|l| l.2).collect();
        let all =
            [ConfigSource::DynamicBroker, ConfigSource::DynamicDefaultBroker, ConfigSource::StaticBroker];
        assert_eq!(sources, all);

        set(&mut machine, None, "log.retention.ms", "20");
        let layers = Layers::new(&machine, &static_configs);
        assert_eq!(layers.topic_values(&BTreeMap::new())["retention.ms"], "20");
        assert_eq!(layers.topic_values(&one("retention.ms", "30"))["retention.ms"], "30");
        assert!(!layers.broker_values().contains_key("log.retention.ms"));
        assert_eq!(layers.of_topic("retention.ms").len(), 2);
    }
}
