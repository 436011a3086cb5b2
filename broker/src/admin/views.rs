//! The JSON admin API's views of the cluster and of topics.

use std::collections::BTreeMap;

use millstream_state::cluster::cluster_id_text;
use schemars::JsonSchema;
use serde::Serialize;

use crate::service::{ConfigEntry, ConfigSource, PartitionView, Service, TopicView};

/// The cluster in the view of this node.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cluster")]
pub(super) struct ClusterJson {
    /// Cluster id, as Kafka clients see it.
    cluster_id: String,
    /// Version of this broker.
    version: &'static str,
    /// Node id of the metadata leader.
    controller: i32,
    /// All brokers.
    brokers: Vec<BrokerJson>,
    /// Number of topics.
    topics: usize,
    /// Number of partitions of all topics.
    partitions: usize,
    /// The Raft groups that carry partitions.
    shards: Vec<ShardJson>,
}

/// A broker's address for clients.
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
    /// Shard number.
    id: u32,
    /// Raft term in which this node leads it; null if it does not.
    led_term: Option<u64>,
}

/// Configuration keys.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Configs")]
pub(super) struct ConfigsJson {
    /// Every key; the defaults of topic keys have the prefix `log.`.
    config: Vec<ConfigJson>,
}

/// A configuration key.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Config")]
struct ConfigJson {
    /// Key name, as in Kafka.
    name: String,
    /// Its value.
    value: Option<String>,
    /// Source of the value: `topic`, `broker`, `all brokers`, `start` or `default`.
    source: &'static str,
    /// Whether it can be changed while the broker runs.
    changeable: bool,
    /// What it does.
    documentation: &'static str,
}

/// A list of topics.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topics")]
pub(super) struct TopicsJson {
    /// Every topic, sorted by name.
    topics: Vec<TopicSummaryJson>,
}

/// A summary of a topic.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TopicSummary")]
struct TopicSummaryJson {
    /// Topic name.
    name: String,
    /// Topic id, as Kafka's tools print it.
    id: String,
    /// Number of partitions.
    partitions: usize,
    /// Whether it is an internal topic.
    internal: bool,
    /// Size of all its batches on this node.
    bytes: u64,
}

/// A topic.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topic")]
pub(super) struct TopicJson {
    /// Topic name.
    name: String,
    /// Topic id, as Kafka's tools print it.
    id: String,
    /// Whether it is an internal topic.
    internal: bool,
    /// Its partitions.
    partitions: Vec<PartitionJson>,
    /// Configuration overrides of the topic.
    config: BTreeMap<String, String>,
}

/// A partition.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Partition")]
struct PartitionJson {
    /// Partition number.
    index: i32,
    /// The shard that has its end.
    shard: u32,
    /// Node id of its leader; null if there is none.
    leader: Option<i32>,
    /// Leader epoch; -1 without a leader.
    leader_epoch: i32,
    /// First offset.
    log_start_offset: Option<i64>,
    /// Offset after the last record.
    end_offset: Option<i64>,
    /// Size of its batches on this node.
    bytes: u64,
}

/// The cluster in the view of this node.
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

/// A list of topics.
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
