//! The encoding of the metadata group's commands.
//!
//! Little endian. Each begins with a version u8 = 1 and a kind u8. A text is a u32 length and UTF-8; an
//! optional text is preceded by a u8; texts are a u32 count of pairs.
//!
//! | kind | command | body |
//! | --- | --- | --- |
//! | 1 | bootstrap | cluster id text, shards u32 |
//! | 2 | register broker | node u64, host text, port u16, rack optional text |
//! | 3 | unregister broker | node u64 |
//! | 4 | create topic | name text, topic id 16 bytes, partitions u32, most shards u32, configs texts, now i64 (ms) |
//! | 5 | delete topic | name text |
//! | 6 | create partitions | name text, total u32, most shards u32 |
//! | 7 | alter topic configs | name text, count u32, count × (key text, value optional text) |
//! | 8 | alter broker configs | node u64 + 1, 0 for all; changes as above |
//! | 9 | allocate producer ids | count u32 |
//! | 10 | update features | count u32, count × (name text, level u16; 0 removes) |
//! | 11 | adopt partition | name text, topic id 16 bytes, partition u64, shard u32, now i64 (ms) |

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_model::{NodeId, PartitionId, RaftGroupId, TopicId};

use super::{Broker, ClusterMachine};
use crate::wire::{DecodeError, Input, Output};

const VERSION: u8 = 1;
const KIND_BOOTSTRAP: u8 = 1;
const KIND_REGISTER_BROKER: u8 = 2;
const KIND_UNREGISTER_BROKER: u8 = 3;
const KIND_CREATE_TOPIC: u8 = 4;
const KIND_DELETE_TOPIC: u8 = 5;
const KIND_CREATE_PARTITIONS: u8 = 6;
const KIND_ALTER_TOPIC_CONFIGS: u8 = 7;
const KIND_ALTER_BROKER_CONFIGS: u8 = 8;
const KIND_ALLOCATE_PRODUCER_IDS: u8 = 9;
const KIND_UPDATE_FEATURES: u8 = 10;
const KIND_ADOPT_PARTITION: u8 = 11;

/// Keys with their new values; `None` removes a key.
pub(super) type Changes = Vec<(String, Option<String>)>;

/// A command of the metadata group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Sets the cluster's id and number of shards, once.
    Bootstrap {
        /// The id in Kafka's text form.
        cluster_id: String,
        /// Number of shards.
        shards: u32,
    },
    /// Registers a broker's address.
    RegisterBroker {
        /// Broker id.
        node: NodeId,
        /// Its address.
        broker: Broker,
    },
    /// Unregisters a broker.
    UnregisterBroker {
        /// Broker id.
        node: NodeId,
    },
    /// Creates a topic.
    CreateTopic {
        /// Topic name.
        name: String,
        /// Topic id.
        id: TopicId,
        /// Number of partitions.
        partitions: u32,
        /// Most shards to spread them over.
        shards_max: u32,
        /// Its configuration overrides.
        configs: BTreeMap<String, String>,
        /// Time of the proposal, in milliseconds.
        now_ms: i64,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Topic name.
        name: String,
    },
    /// Adds partitions to a topic.
    CreatePartitions {
        /// Topic name.
        name: String,
        /// The new number of partitions.
        total: u32,
        /// Most shards to spread all its partitions over.
        shards_max: u32,
    },
    /// Changes configuration overrides of a topic.
    AlterTopicConfigs {
        /// Topic name.
        name: String,
        /// The changes.
        changes: Vec<(String, Option<String>)>,
    },
    /// Changes configuration overrides of one broker, or of all.
    AlterBrokerConfigs {
        /// Broker id; `None` for all.
        node: Option<NodeId>,
        /// The changes.
        changes: Vec<(String, Option<String>)>,
    },
    /// Allocates a block of producer ids.
    AllocateProducerIds {
        /// Number of ids.
        count: u32,
    },
    /// Sets feature levels; level 0 removes a feature.
    UpdateFeatures {
        /// Names and levels.
        levels: Vec<(String, u16)>,
    },
    /// Recreates the topic of an existing partition without one: the entries that created it are lost.
    AdoptPartition {
        /// Topic name.
        name: String,
        /// Topic id.
        id: TopicId,
        /// The partition.
        partition: PartitionId,
        /// Its shard.
        shard: RaftGroupId,
        /// Time of the proposal, in milliseconds.
        now_ms: i64,
    },
}

impl ClusterCommand {
    /// The topic that the command may change.
    pub fn topic_name(&self, _machine: &ClusterMachine) -> Option<String> {
        match self {
            ClusterCommand::CreateTopic { name, .. }
            | ClusterCommand::DeleteTopic { name }
            | ClusterCommand::CreatePartitions { name, .. }
            | ClusterCommand::AdoptPartition { name, .. }
            | ClusterCommand::AlterTopicConfigs { name, .. } => Some(name.clone()),
            _ => None,
        }
    }
}

/// Decodes a command.
pub fn decode(command: &[u8]) -> Result<ClusterCommand, DecodeError> {
    let mut input = Input::new(command);
    let version = input.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version { found: version, known: VERSION });
    }
    let kind = input.u8()?;
    let decoded = decode_body(kind, &mut input)?;
    input.end()?;
    Ok(decoded)
}

fn decode_body(kind: u8, input: &mut Input<'_>) -> Result<ClusterCommand, DecodeError> {
    Ok(match kind {
        KIND_BOOTSTRAP => ClusterCommand::Bootstrap { cluster_id: input.text()?, shards: input.u32()? },
        KIND_REGISTER_BROKER => {
            ClusterCommand::RegisterBroker { node: NodeId(input.u64()?), broker: read_broker(input)? }
        }
        KIND_UNREGISTER_BROKER => ClusterCommand::UnregisterBroker { node: NodeId(input.u64()?) },
        KIND_CREATE_TOPIC => ClusterCommand::CreateTopic {
            name: input.text()?,
            id: read_topic_id(input)?,
            partitions: input.u32()?,
            shards_max: input.u32()?,
            configs: input.texts()?,
            now_ms: input.i64()?,
        },
        KIND_DELETE_TOPIC => ClusterCommand::DeleteTopic { name: input.text()? },
        KIND_CREATE_PARTITIONS => ClusterCommand::CreatePartitions {
            name: input.text()?,
            total: input.u32()?,
            shards_max: input.u32()?,
        },
        KIND_ALTER_TOPIC_CONFIGS => {
            ClusterCommand::AlterTopicConfigs { name: input.text()?, changes: read_changes(input)? }
        }
        KIND_ALTER_BROKER_CONFIGS => ClusterCommand::AlterBrokerConfigs {
            node: input.u64()?.checked_sub(1).map(NodeId),
            changes: read_changes(input)?,
        },
        KIND_ALLOCATE_PRODUCER_IDS => ClusterCommand::AllocateProducerIds { count: input.u32()? },
        KIND_UPDATE_FEATURES => {
            let count = input.count(6)?;
            let levels = (0..count).map(|_| Ok((input.text()?, input.u16()?)));
            ClusterCommand::UpdateFeatures { levels: levels.collect::<Result<_, DecodeError>>()? }
        }
        KIND_ADOPT_PARTITION => ClusterCommand::AdoptPartition {
            name: input.text()?,
            id: read_topic_id(input)?,
            partition: PartitionId(input.u64()?),
            shard: RaftGroupId(input.u32()?),
            now_ms: input.i64()?,
        },
        other => return Err(DecodeError::Kind(other)),
    })
}

pub(super) fn read_broker(input: &mut Input<'_>) -> Result<Broker, DecodeError> {
    Ok(Broker { host: input.text()?, port: input.u16()?, rack: input.optional_text()? })
}

pub(super) fn write_broker(out: &mut Output, broker: &Broker) {
    out.text(&broker.host);
    out.u16(broker.port);
    out.optional_text(broker.rack.as_deref());
}

pub(super) fn read_topic_id(input: &mut Input<'_>) -> Result<TopicId, DecodeError> {
    let mut id = TopicId::default();
    let length = id.0.len();
    id.0.copy_from_slice(input.take(length)?);
    Ok(id)
}

fn read_changes(input: &mut Input<'_>) -> Result<Changes, DecodeError> {
    let count = input.count(5)?;
    (0..count).map(|_| Ok((input.text()?, input.optional_text()?))).collect()
}

fn write_changes(out: &mut Output, changes: &[(String, Option<String>)]) {
    out.count(changes.len());
    for (key, value) in changes {
        out.text(key);
        out.optional_text(value.as_deref());
    }
}

/// Encodes a command that sets the cluster's id and number of shards; a cluster that has them keeps them.
pub fn encode_bootstrap(cluster_id: &str, shards: u32) -> Bytes {
    let mut out = Output::command(VERSION, KIND_BOOTSTRAP);
    out.text(cluster_id);
    out.u32(shards);
    out.into_command()
}

/// Encodes a command that registers a broker's address.
pub fn encode_register_broker(node: NodeId, broker: &Broker) -> Bytes {
    let mut out = Output::command(VERSION, KIND_REGISTER_BROKER);
    out.u64(node.0);
    write_broker(&mut out, broker);
    out.into_command()
}

/// Encodes a command that unregisters a broker.
pub fn encode_unregister_broker(node: NodeId) -> Bytes {
    let mut out = Output::command(VERSION, KIND_UNREGISTER_BROKER);
    out.u64(node.0);
    out.into_command()
}

/// Encodes a command that creates a topic with this many partitions, spread over at most `shards_max` shards.
pub fn encode_create_topic(
    name: &str,
    id: TopicId,
    (partitions, shards_max): (u32, u32),
    configs: &BTreeMap<String, String>,
    now_ms: i64,
) -> Bytes {
    let mut out = Output::command(VERSION, KIND_CREATE_TOPIC);
    out.text(name);
    out.raw(&id.0);
    out.u32(partitions);
    out.u32(shards_max);
    out.texts(configs);
    out.i64(now_ms);
    out.into_command()
}

/// Encodes a command that deletes a topic.
pub fn encode_delete_topic(name: &str) -> Bytes {
    let mut out = Output::command(VERSION, KIND_DELETE_TOPIC);
    out.text(name);
    out.into_command()
}

/// Encodes a command that grows a topic to `total` partitions, spread over at most `shards_max` shards.
pub fn encode_create_partitions(name: &str, total: u32, shards_max: u32) -> Bytes {
    let mut out = Output::command(VERSION, KIND_CREATE_PARTITIONS);
    out.text(name);
    out.u32(total);
    out.u32(shards_max);
    out.into_command()
}

/// Encodes a command that sets overrides of a topic, or removes them with `None`.
pub fn encode_alter_topic_configs(name: &str, changes: &[(String, Option<String>)]) -> Bytes {
    let mut out = Output::command(VERSION, KIND_ALTER_TOPIC_CONFIGS);
    out.text(name);
    write_changes(&mut out, changes);
    out.into_command()
}

/// Encodes a command that sets overrides of one broker or of all, or removes them with `None`.
pub fn encode_alter_broker_configs(node: Option<NodeId>, changes: &[(String, Option<String>)]) -> Bytes {
    let mut out = Output::command(VERSION, KIND_ALTER_BROKER_CONFIGS);
    out.u64(node.map_or(0, |node| node.0.saturating_add(1)));
    write_changes(&mut out, changes);
    out.into_command()
}

/// Encodes a command that allocates a block of producer ids.
pub fn encode_allocate_producer_ids(count: u32) -> Bytes {
    let mut out = Output::command(VERSION, KIND_ALLOCATE_PRODUCER_IDS);
    out.u32(count);
    out.into_command()
}

/// Encodes a command that sets feature levels; level 0 removes a feature.
pub fn encode_update_features(levels: &[(String, u16)]) -> Bytes {
    let mut out = Output::command(VERSION, KIND_UPDATE_FEATURES);
    out.count(levels.len());
    for (name, level) in levels {
        out.text(name);
        out.u16(*level);
    }
    out.into_command()
}

/// Encodes a command that recreates the topic of an existing partition.
pub fn encode_adopt_partition(
    name: &str,
    id: TopicId,
    (partition, shard): (PartitionId, RaftGroupId),
    now_ms: i64,
) -> Bytes {
    let mut out = Output::command(VERSION, KIND_ADOPT_PARTITION);
    out.text(name);
    out.raw(&id.0);
    out.u64(partition.0);
    out.u32(shard.0);
    out.i64(now_ms);
    out.into_command()
}
