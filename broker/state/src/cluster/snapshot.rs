//! The encoding of the metadata group's state.
//!
//! Little endian, texts as in commands: version u8 = 1; cluster id text; shards u32; next partition u64; next
//! producer i64; brokers, broker configs, features and topics, each a u32 count and that many, sorted by key.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use millstream_model::{NodeId, PartitionId, RaftGroupId};

use super::{
    ClusterMachine, Extent, Extents, Partition, Topic,
    command::{read_broker, read_topic_id, write_broker},
    machine::SHARDS_MAX,
};
use crate::wire::{DecodeError, Input, Items, Output};

const VERSION: u8 = 1;
const EXTENT_BYTES: usize = 16;
const PARTITION_BYTES_MIN: usize = 10 + EXTENT_BYTES;

/// The captured state of the metadata group. It is small: a few dozen bytes per partition.
#[derive(Debug)]
pub struct ClusterSnapshot(Vec<u8>);

impl ClusterSnapshot {
    /// Writes the snapshot.
    pub fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0)
    }

    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("memory takes all");
        bytes
    }
}

pub(super) fn capture(machine: &ClusterMachine) -> ClusterSnapshot {
    let mut out = Output::with_capacity(
        256 + machine.topics.len() * 64 + machine.partition_count() * PARTITION_BYTES_MIN,
    );
    out.u8(VERSION);
    out.text(&machine.cluster_id);
    out.u32(machine.shards);
    out.u64(machine.next_partition);
    out.i64(machine.next_producer);
    out.count(machine.brokers.len());
    for (node, broker) in &machine.brokers {
        out.u64(node.0);
        write_broker(&mut out, broker);
    }
    out.count(machine.broker_configs.len());
    for (node, configs) in &machine.broker_configs {
        out.flag(node.is_some());
        out.u64(node.map_or(0, |node| node.0));
        out.texts(configs);
    }
    out.count(machine.features.len());
    for (name, level) in &machine.features {
        out.text(name);
        out.u16(*level);
    }
    out.count(machine.topics.len());
    machine.topics.values().for_each(|topic| write_topic(&mut out, topic));
    ClusterSnapshot(out.into_bytes())
}

fn write_topic(out: &mut Output, topic: &Topic) {
    out.text(&topic.name);
    out.raw(&topic.id.0);
    out.flag(topic.internal);
    out.i64(topic.created_ms);
    out.texts(&topic.configs);
    out.count(topic.partitions.len());
    for partition in &topic.partitions {
        out.u64(partition.id.0);
        out.u16(partition.extents.count() as u16);
        for extent in partition.extents.iter() {
            out.i64(extent.start);
            out.u32(extent.shard.0);
            out.i32(extent.epoch);
        }
    }
}

pub(super) fn read(source: impl Read) -> Result<ClusterMachine, DecodeError> {
    let mut items = Items::new(source);
    let version = items.item(|input| input.u8())?;
    if version != VERSION {
        return Err(DecodeError::Version { found: version, known: VERSION });
    }
    let mut machine = ClusterMachine::new();
    machine.cluster_id = items.item(|input| input.text())?;
    machine.shards = items.item(|input| input.u32())?;
    machine.next_partition = items.item(|input| input.u64())?;
    machine.next_producer = items.item(|input| input.i64())?;
    if machine.shards > SHARDS_MAX {
        return Err(DecodeError::Value { field: "the number of shards", value: machine.shards.into() });
    }
    machine.brokers = map(&mut items, |input| Ok((NodeId(input.u64()?), read_broker(input)?)))?;
    machine.broker_configs = map(&mut items, |input| {
        let some = input.flag("the mark of a broker")?;
        let node = NodeId(input.u64()?);
        Ok((some.then_some(node), input.texts()?))
    })?;
    machine.features = map(&mut items, |input| Ok((input.text()?, input.u16()?)))?;
    let shards = machine.shards;
    machine.topics = map(&mut items, |input| {
        let topic = read_topic(input, shards)?;
        Ok((topic.name.clone(), topic))
    })?;
    items.end()?;
    machine.index_all();
    Ok(machine)
}

fn map<K: Ord, V>(
    items: &mut Items<impl Read>,
    read: impl Fn(&mut Input<'_>) -> Result<(K, V), DecodeError>,
) -> Result<BTreeMap<K, V>, DecodeError> {
    let mut map = BTreeMap::new();
    for _ in 0..items.count()? {
        let (key, value) = items.item(&read)?;
        map.insert(key, value);
    }
    Ok(map)
}

fn read_topic(input: &mut Input<'_>, shards: u32) -> Result<Topic, DecodeError> {
    let (name, id) = (input.text()?, read_topic_id(input)?);
    let (internal, created_ms) = (input.flag("the mark of an internal topic")?, input.i64()?);
    let configs = input.texts()?;
    let count = input.count(PARTITION_BYTES_MIN)?;
    let partitions = (0..count).map(|_| read_partition(input, shards)).collect::<Result<_, _>>()?;
    Ok(Topic { name, id, partitions, configs, internal, created_ms })
}

fn read_partition(input: &mut Input<'_>, shards: u32) -> Result<Partition, DecodeError> {
    let id = PartitionId(input.u64()?);
    let count = input.u16()?;
    let extents: Result<Vec<Extent>, DecodeError> = (0..count).map(|_| read_extent(input, shards)).collect();
    let none = DecodeError::Value { field: "the number of extents", value: 0 };
    Ok(Partition { id, extents: Extents::from_list(extents?).ok_or(none)? })
}

fn read_extent(input: &mut Input<'_>, shards: u32) -> Result<Extent, DecodeError> {
    let extent = Extent { start: input.i64()?, shard: RaftGroupId(input.u32()?), epoch: input.i32()? };
    if !(1..=shards).contains(&extent.shard.0) {
        return Err(DecodeError::Value { field: "an extent's shard", value: extent.shard.0.into() });
    }
    Ok(extent)
}
