//! Read-only broker keys that describe how this broker runs. Tools read them; they are set by flags, if at all.

use std::{path, time::Duration};

use super::{ConfigEntry, ConfigSource, Service};
use crate::config::{Address, ConfigKind, ServeConfig};

/// Facts about the running broker, from the composition root.
#[derive(Clone, Debug)]
pub struct BrokerFacts {
    /// The address that clients connect to.
    pub advertised: Address,
    /// Address of the Kafka listener, with the port that it is bound to.
    pub kafka_addr: Address,
    /// Address of the HTTP listener, with the port that it is bound to.
    pub http_addr: Address,
    /// Threads for flushes, retention, compaction and merges.
    pub background_threads: usize,
    /// Shortest time between two searches for partitions to compact.
    pub compaction_every: Duration,
}

struct FactKey {
    name: &'static str,
    kind: ConfigKind,
    /// The command-line flag that sets it, if any.
    flag: Option<&'static str>,
    documentation: &'static str,
    value: fn(&BrokerFacts, &ServeConfig) -> Option<String>,
}

/// Every read-only key, sorted by name.
const FACTS: &[FactKey] = &[
    FactKey {
        name: "advertised.listeners",
        kind: ConfigKind::List,
        flag: Some("advertised-kafka"),
        documentation: "What clients connect to: `--advertised-kafka`.",
        value: |facts, _| Some(format!("PLAINTEXT://{}", facts.advertised)),
    },
    FactKey {
        name: "background.threads",
        kind: ConfigKind::Int,
        flag: None,
        documentation: "Threads for flushes, retention, compaction and merges.",
        value: |facts, _| Some(facts.background_threads.to_string()),
    },
    FactKey {
        name: "broker.id",
        kind: ConfigKind::Int,
        flag: Some("node-id"),
        documentation: "The id of this broker: `--node-id`.",
        value: |_, serve| Some(serve.node_id.to_string()),
    },
    FactKey {
        name: "broker.rack",
        kind: ConfigKind::String,
        flag: Some("rack"),
        documentation: "The rack of this broker: `--rack`.",
        value: |_, serve| serve.rack.clone(),
    },
    FactKey {
        name: "delete.topic.enable",
        kind: ConfigKind::Boolean,
        flag: None,
        documentation: "Topics can always be deleted.",
        value: |_, _| Some("true".into()),
    },
    FactKey {
        name: "http-addr",
        kind: ConfigKind::String,
        flag: Some("http-addr"),
        documentation: "Address of the HTTP listener: `--http-addr`.",
        value: |facts, _| Some(facts.http_addr.to_string()),
    },
    FactKey {
        name: "listeners",
        kind: ConfigKind::List,
        flag: Some("kafka-addr"),
        documentation: "Address of the Kafka listener: `--kafka-addr`.",
        value: |facts, _| Some(format!("PLAINTEXT://{}", facts.kafka_addr)),
    },
    FactKey {
        name: "log.cleaner.backoff.ms",
        kind: ConfigKind::Long,
        flag: None,
        documentation: "Shortest time between two searches for partitions to compact.",
        value: |facts, _| Some(facts.compaction_every.as_millis().to_string()),
    },
    FactKey {
        name: "log.dirs",
        kind: ConfigKind::List,
        flag: Some("data-dir"),
        documentation: "The data directory: `--data-dir`.",
        value: |_, serve| {
            let dir = path::absolute(&serve.data_dir).unwrap_or_else(|_| serve.data_dir.clone());
            Some(dir.display().to_string())
        },
    },
    FactKey {
        name: "node.id",
        kind: ConfigKind::Int,
        flag: Some("node-id"),
        documentation: "The id of this broker: `--node-id`.",
        value: |_, serve| Some(serve.node_id.to_string()),
    },
];

/// Whether a broker key is one of the read-only keys.
pub(super) fn is_fact(key: &str) -> bool {
    FACTS.iter().any(|fact| fact.name == key)
}

impl Service {
    /// The address that clients connect to.
    pub(super) fn advertised(&self) -> &Address {
        &self.inner.facts.advertised
    }

    /// The read-only keys with their values.
    pub(super) fn fact_configs(&self) -> impl Iterator<Item = ConfigEntry> + '_ {
        let (facts, serve) = (&self.inner.facts, &self.inner.serve);
        // Keys without a value are left out, such as the rack of a broker that has none.
        FACTS.iter().filter_map(move |key| {
            let value = Some((key.value)(facts, serve)?);
            let source = match key.flag.is_some_and(|flag| serve.flags_given.contains(flag)) {
                true => ConfigSource::StaticBroker,
                false => ConfigSource::Default,
            };
            Some(ConfigEntry {
                name: key.name.to_string(),
                value: value.clone(),
                source,
                read_only: true,
                sensitive: false,
                kind: key.kind,
                documentation: key.documentation,
                synonyms: vec![(key.name.to_string(), value, source)],
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, path::PathBuf};

    use super::*;
    use millstream_tests::generated;

    #[test]
    fn the_document_has_every_key_that_is_read_only() {
        assert!(FACTS.windows(2).all(|pair| pair[0].name < pair[1].name));
        let mut text = "| key | meaning |\n| --- | --- |\n".to_string();
        for fact in FACTS {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| `{}` | {} |", fact.name, fact.documentation);
        }
        let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        generated::check(&document, "read-only broker keys", &text);
    }
}
