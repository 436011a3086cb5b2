//! What the JSON admin API shows.

use std::collections::BTreeMap;

use millstream_state::cluster::cluster_id_text;
use serde::Serialize;

use crate::service::{ConfigSource, PartitionView, Service, TopicView};

/// Why a request has no answer.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// In words.
    pub(super) error: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ClusterJson {
    cluster_id: String,
    version: &'static str,
    controller: i32,
    brokers: Vec<BrokerJson>,
    topics: usize,
    partitions: usize,
    shards: Vec<ShardJson>,
}

#[derive(Debug, Serialize)]
struct BrokerJson {
    id: i32,
    host: String,
    port: u16,
    rack: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShardJson {
    id: u32,
    /// Term of this node's leadership; none while it does not lead.
    led_term: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicsJson {
    topics: Vec<TopicSummaryJson>,
}

#[derive(Debug, Serialize)]
struct TopicSummaryJson {
    name: String,
    /// As Kafka's tools print it.
    id: String,
    partitions: usize,
    internal: bool,
    bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicJson {
    name: String,
    id: String,
    internal: bool,
    partitions: Vec<PartitionJson>,
    /// What is set on the topic itself.
    config: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct PartitionJson {
    index: i32,
    shard: u32,
    leader: Option<i32>,
    leader_epoch: i32,
    log_start_offset: Option<i64>,
    end_offset: Option<i64>,
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
