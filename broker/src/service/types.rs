//! Parameters and results of the operations.

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
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    pub rack: Option<String>,
}

/// A topic with its partitions and its effective configuration.
#[derive(Clone, Debug)]
pub struct TopicView {
    pub name: String,
    /// A topic that is created again under the same name has another id.
    pub id: TopicId,
    /// The index is Kafka's partition number.
    pub partitions: Vec<PartitionView>,
    /// Whether it belongs to the broker.
    pub internal: bool,
    pub config: Arc<TopicConfig>,
    /// Kept when the topic changes.
    pub meter: Arc<TopicMeter>,
}

/// The leader of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leading node, if there is one.
    pub leader: Option<i32>,
    /// The leader's epoch; -1 without a leader.
    pub epoch: i32,
}

/// A topic to be created.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// -1: the broker's default.
    pub partitions: i32,
    /// -1: the broker's default.
    pub replication_factor: i16,
    /// Partition numbers and their nodes, instead of the two fields above.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Keys and values; a key without a value keeps its default.
    pub configs: Vec<(String, Option<String>)>,
}

/// One partition's record set of a produce request.
#[derive(Clone, Debug)]
pub struct ProducePart {
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
    /// Set on this broker at run time.
    DynamicBroker,
    /// Set for all brokers at run time.
    DynamicDefaultBroker,
    /// Given at start.
    StaticBroker,
    /// The key's default.
    Default,
}

/// One configuration key with its value.
#[derive(Clone, Debug)]
pub struct ConfigEntry {
    /// The key's Kafka name.
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
    /// Whether it can only be given at start.
    pub read_only: bool,
    /// Whether its value is hidden.
    pub sensitive: bool,
    pub kind: ConfigKind,
    pub documentation: &'static str,
    /// Every layer that sets it, by precedence.
    pub synonyms: Vec<(String, Option<String>, ConfigSource)>,
}
