//! What the verbs take and give.

use std::sync::Arc;

use bytes::Bytes;
use millstream_model::TopicId;

use crate::{
    config::{ConfigKind, TopicConfig},
    partition::PartitionView,
    telemetry::TopicMeter,
};

/// A broker of the cluster, as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Node id.
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Rack, if it has one.
    pub rack: Option<String>,
}

/// A topic as it stands.
#[derive(Clone, Debug)]
pub struct TopicView {
    /// Its name.
    pub name: String,
    /// Its id; a topic made again under the same name has another.
    pub id: TopicId,
    /// Its partitions; the index is Kafka's partition number.
    pub partitions: Vec<PartitionView>,
    /// Whether it belongs to the broker.
    pub internal: bool,
    /// Its configuration.
    pub config: Arc<TopicConfig>,
    /// What it has moved; a topic that changes keeps it.
    pub meter: Arc<TopicMeter>,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leading node, if there is one.
    pub leader: Option<i32>,
    /// The leader's epoch; -1 without a leader.
    pub epoch: i32,
}

/// A topic to be made.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Partitions; -1 takes the broker's default.
    pub partitions: i32,
    /// Replicas; -1 takes the broker's default.
    pub replication_factor: i16,
    /// Partition number and nodes, instead of the two above.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Keys and values; a key without a value keeps its default.
    pub configs: Vec<(String, Option<String>)>,
}

/// One partition's record set of a produce request.
#[derive(Clone, Debug)]
pub struct ProducePart {
    /// The topic.
    pub topic: Arc<TopicView>,
    /// Index into the topic's partitions.
    pub partition: usize,
    /// Exactly one batch.
    pub records: Bytes,
}

/// Where a configuration value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    DynamicTopic,
    /// Set on this broker while it runs.
    DynamicBroker,
    /// Set for all brokers while they run.
    DynamicDefaultBroker,
    /// Given at start.
    StaticBroker,
    /// Nobody set it.
    Default,
}

/// One configuration key with its value.
#[derive(Clone, Debug)]
pub struct ConfigEntry {
    /// Kafka's name of it.
    pub name: String,
    /// Its value.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it can only be given at start.
    pub read_only: bool,
    /// Whether its value is hidden.
    pub sensitive: bool,
    /// Type of the value.
    pub kind: ConfigKind,
    /// What it does.
    pub documentation: &'static str,
    /// Every place that gives it a value, the strongest first.
    pub synonyms: Vec<(String, Option<String>, ConfigSource)>,
}
