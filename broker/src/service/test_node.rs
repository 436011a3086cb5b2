//! A node's service on a simulated disk, for tests of the operations and the protocols.

use std::{collections::HashMap, sync::Arc, time::Duration};

use millstream_model::{NodeId, PartitionId, RaftGroupId};
use millstream_replica::{Group, LogStore, NoPeers, Timing};
use millstream_store::{
    disk::{Disk, sim::SimDisk},
    tables::{Tables, TablesConfig},
    wal::{RecoveryBase, Wal, WalConfig},
};

use super::{BrokerFacts, ClusterHost, Service, StaticConfigs};
use crate::{
    config::{BatchLimit, ServeConfig, ServeOptions},
    partition::{Shard, ShardHost},
};

const CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Starts the service of a node that leads all its Raft groups.
pub(crate) async fn start(seed: u64) -> Service {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(seed));
    let (tables, _) = Tables::open(disk.clone(), TablesConfig::default()).expect("tables");
    let (wal, _) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("a log");
    let (tables, wal) = (Arc::new(tables), Arc::new(wal));
    let config = ServeConfig::resolve(ServeOptions::default()).expect("the defaults are allowed");
    let static_configs = StaticConfigs { node: 1, broker: Default::default(), topic: Default::default() };
    let batch_limit = BatchLimit::new(&config.broker, wal.file_bytes());
    let cluster = Arc::new(ClusterHost::new(tables.clone(), static_configs, batch_limit));
    let metadata = lead(RaftGroupId::METADATA, &wal, &tables, cluster.clone()).await;
    let mut shards = HashMap::new();
    for id in (1..=millstream_model::limits::SHARDS_DEFAULT).map(RaftGroupId) {
        let host = Arc::new(ShardHost::new(id, tables.clone()));
        shards.insert(id, Shard::new(lead(id, &wal, &tables, host.clone()).await, host));
    }
    let facts = BrokerFacts {
        advertised: config.kafka_addr.clone(),
        kafka_addr: config.kafka_addr.clone(),
        http_addr: config.http_addr.clone(),
        background_threads: 1,
        compaction_every: Duration::from_secs(1),
    };
    let service = Service::new(cluster, metadata, shards, wal, config, facts);
    let bootstrap = service.change(async move |change| change.bootstrap_cluster(CLUSTER.into()).await);
    bootstrap.await.expect("it ends").expect("bootstrapped");
    service
}

async fn lead(
    id: RaftGroupId,
    wal: &Arc<Wal>,
    tables: &Arc<Tables>,
    machine: Arc<dyn millstream_replica::Machine>,
) -> Group {
    let log = LogStore::new(wal.group(id));
    let group =
        Group::start(id, NodeId(1), Timing::default(), NoPeers::shared(), log, machine, tables.clone());
    let group = group.await.expect("a group");
    group.lead_alone().await.expect("it leads");
    group
}

impl Service {
    /// Whether the shards have exactly the partitions of the topics.
    pub(crate) fn shards_agree(&self) -> bool {
        let mut of_topics: Vec<(PartitionId, RaftGroupId)> = Vec::new();
        for topic in self.topics() {
            of_topics.extend(topic.partitions.iter().map(|partition| (partition.id, partition.group)));
        }
        let mut of_shards: Vec<(PartitionId, RaftGroupId)> = Vec::new();
        for shard in self.shards() {
            let id = shard.id();
            shard.host.inspect(|machine| of_shards.extend(machine.partitions().map(|(at, _)| (at, id))));
        }
        of_topics.sort();
        of_shards.sort();
        of_topics == of_shards
    }
}
