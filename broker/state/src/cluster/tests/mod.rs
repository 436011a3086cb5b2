//! The metadata group's machine, driven by encoded commands.

mod cluster;
mod encoding;
mod model;
mod topics;

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_model::{LogId, TopicId};

use super::{ClusterMachine, ClusterReply, ClusterResult, decode, encode_bootstrap, encode_create_topic};

fn apply(machine: &mut ClusterMachine, command: Bytes) -> ClusterResult {
    let command = decode(&command).expect("a command of ours");
    let before = machine.snapshot().into_bytes();
    let result = machine.apply(LogId::new(1, 1), command);
    machine.validate();
    if result.is_err() {
        assert_eq!(machine.snapshot().into_bytes(), before, "a refused command changes nothing");
    }
    result
}

/// A cluster of 16 shards.
fn cluster() -> ClusterMachine {
    let mut machine = ClusterMachine::new();
    apply(&mut machine, encode_bootstrap("cluster", 16)).expect("bootstrapped");
    machine
}

fn topic_id(n: u8) -> TopicId {
    TopicId([n; 16])
}

fn create(machine: &mut ClusterMachine, name: &str, id: u8, partitions: u32) -> ClusterResult {
    apply(machine, encode_create_topic(name, topic_id(id), (partitions, 16), &BTreeMap::new(), 1000))
}

/// The ids and shards of the created partitions.
fn created(result: ClusterResult) -> Vec<(u64, u32)> {
    match result {
        Ok(ClusterReply::Created { partitions }) => {
            partitions.iter().map(|(id, shard)| (id.0, shard.0)).collect()
        }
        other => panic!("{other:?} is no creation"),
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn changes(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.map(str::to_string))).collect()
}
