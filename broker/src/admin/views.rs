//! What the JSON admin API shows of the cluster and of topics.

use std::collections::BTreeMap;

use millstream_state::cluster::cluster_id_text;
use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{ConfigEntry, ConfigSource, PartitionView, Service, TopicView};

/// The cluster as the node that answers knows it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cluster")]
pub(super) struct ClusterJson {
    /// The id that Kafka clients see.
    cluster_id: String,
    /// Of the broker that answers.
    version: &'static str,
    /// Id of the node that leads the metadata.
    controller: i32,
    /// All brokers.
    brokers: Vec<BrokerJson>,
    /// How many topics there are.
    topics: usize,
    /// How many partitions they have together.
    partitions: usize,
    /// The Raft groups that carry partitions.
    shards: Vec<ShardJson>,
}

/// A broker, as clients reach it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Broker")]
struct BrokerJson {
    /// Node id.
    id: i32,
    /// Advertised host.
    host: String,
    /// Advertised port.
    port: u16,
    /// Its rack, if it has one.
    rack: Option<String>,
}

/// A Raft group that carries partitions.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Shard")]
struct ShardJson {
    /// The shard's number.
    id: u32,
    /// Raft term in which the node that answers leads it; null while it does not.
    led_term: Option<u64>,
}

/// Configuration keys.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Configs")]
pub(super) struct ConfigsJson {
    /// Every key, with `log.` in front those that topics take from the broker.
    config: Vec<ConfigJson>,
}

/// A configuration key.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Config")]
struct ConfigJson {
    /// Kafka's name of it.
    name: String,
    /// Its value.
    value: Option<String>,
    /// Where the value comes from: `topic`, `broker`, `all brokers`, `start` or `default`.
    source: &'static str,
    /// Whether it can change while the broker runs.
    changeable: bool,
    /// What it does.
    documentation: &'static str,
}

/// Topics in few words.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topics")]
pub(super) struct TopicsJson {
    /// Every topic, sorted by name.
    topics: Vec<TopicSummaryJson>,
}

/// A topic in few words.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TopicSummary")]
struct TopicSummaryJson {
    /// Its name.
    name: String,
    /// Its id, as Kafka's tools print it.
    id: String,
    /// How many partitions it has.
    partitions: usize,
    /// Whether it belongs to the broker.
    internal: bool,
    /// Size of all its batches on the node that answers.
    bytes: u64,
}

/// A topic.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topic")]
pub(super) struct TopicJson {
    /// Its name.
    name: String,
    /// Its id, as Kafka's tools print it.
    id: String,
    /// Whether it belongs to the broker.
    internal: bool,
    /// Its partitions.
    partitions: Vec<PartitionJson>,
    /// What is set on the topic itself.
    config: BTreeMap<String, String>,
}

/// A partition.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Partition")]
struct PartitionJson {
    /// Kafka's number of it.
    index: i32,
    /// The shard that holds its end.
    shard: u32,
    /// Node id of its leader; null while there is none.
    leader: Option<i32>,
    /// The leader's epoch; -1 without a leader.
    leader_epoch: i32,
    /// First offset that there is.
    log_start_offset: Option<i64>,
    /// Offset behind the last record.
    end_offset: Option<i64>,
    /// Size of its batches on the node that answers.
    bytes: u64,
}

/// The cluster as this node knows it.
pub(super) fn cluster(service: &Service) -> ClusterJson {
    let topics = service.topics();
    let brokers = service.brokers().into_iter();
    let mut shards: Vec<ShardJson> = service
        .shards()
        .map(|shard| ShardJson { id: shard.id().0, led_term: shard.group().led_term() })
        .collect();
    shards.sort_by_key(|shard| shard.id);
    ClusterJson {
        cluster_id: service.cluster_id(),
        version: env!("CARGO_PKG_VERSION"),
        controller: service.controller_id(),
        brokers: brokers.map(|b| BrokerJson { id: b.id, host: b.host, port: b.port, rack: b.rack }).collect(),
        topics: topics.len(),
        partitions: topics.iter().map(|topic| topic.partitions.len()).sum(),
        shards,
    }
}

/// Every key of the broker.
pub(super) fn configs(service: &Service) -> ConfigsJson {
    ConfigsJson { config: service.broker_configs().into_iter().map(config_json).collect() }
}

fn config_json(entry: ConfigEntry) -> ConfigJson {
    let source = match entry.source {
        ConfigSource::DynamicTopic => "topic",
        ConfigSource::DynamicBroker => "broker",
        ConfigSource::DynamicDefaultBroker => "all brokers",
        ConfigSource::StaticBroker => "start",
        ConfigSource::Default => "default",
    };
    ConfigJson {
        name: entry.name,
        value: entry.value.filter(|_| !entry.sensitive),
        source,
        changeable: !entry.read_only,
        documentation: entry.documentation,
    }
}

/// Every topic, in few words.
pub(super) fn topics(service: &Service) -> TopicsJson {
    let summary = |view: &TopicView| TopicSummaryJson {
        name: view.name.clone(),
        id: cluster_id_text(view.id.0),
        partitions: view.partitions.len(),
        internal: view.internal,
        bytes: view.partitions.iter().map(|partition| service.partition_bytes(partition)).sum(),
    };
    TopicsJson { topics: service.topics().iter().map(|view| summary(view)).collect() }
}

/// One topic.
pub(super) fn topic(service: &Service, name: &str) -> Option<TopicJson> {
    let view = service.topic(name)?;
    let own =
        service.topic_configs(name)?.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
    Some(TopicJson {
        name: view.name.clone(),
        id: cluster_id_text(view.id.0),
        internal: view.internal,
        partitions: view.partitions.iter().map(|partition| partition_json(service, partition)).collect(),
        config: own.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect(),
    })
}

fn partition_json(service: &Service, partition: &PartitionView) -> PartitionJson {
    let leadership = service.leadership(partition);
    let offsets = service.partition_offsets(partition);
    PartitionJson {
        index: partition.index,
        shard: partition.group.0,
        leader: leadership.leader,
        leader_epoch: leadership.epoch,
        log_start_offset: offsets.map(|(start, _)| start),
        end_offset: offsets.map(|(_, end)| end),
        bytes: service.partition_bytes(partition),
    }
}
