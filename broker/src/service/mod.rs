//! The broker's operations, independent of any protocol.

mod bootstrap;
mod changes;
mod cluster;
mod configs;
mod disk_headroom;
mod error;
mod facts;
mod fetch;
mod groups;
mod inspect;
mod lag;
mod layers;
mod offsets_topic;
mod produce;
mod producers;
mod reconcile;
#[cfg(test)]
pub(crate) mod test_node;
mod topics;
mod turns;
mod types;

use std::{collections::HashMap, sync::Arc, time::Duration};

use millstream_model::{PartitionId, RaftGroupId, TopicId};
use millstream_replica::Group;
use millstream_store::wal::Wal;
use parking_lot::Mutex;

use crate::{
    config::{BrokerConfig, ServeConfig, TopicConfig},
    partition::{Replies, Shard, leader_epoch},
    telemetry::{Meter, TopicMeter},
};
use changes::Changes;
use disk_headroom::DiskHeadroom;
use produce::{AheadWarnings, Decompression};
use producers::ProducerIds;

pub use changes::{Change, ChangeError, ConfigTurn, PendingChange};
pub use configs::BrokerScope;
pub(crate) use disk_headroom::DiskSample;
pub use disk_headroom::{FlushTrouble, WriteStop};
pub use error::{BrokerConfigError, ProducerIdError, TopicError};
pub use facts::BrokerFacts;
pub use groups::{
    CommittedOffset, GroupError, GroupExpiry, GroupView, Groups, JoinRefusal, JoinRequest, Joined,
    JoinedMember, ListedGroup, MemberRef, MemberView, OffsetEntry, SyncRequest, Synced, TopicOffsets,
};
pub(crate) use inspect::space_of;
pub use inspect::{ActiveProducer, DiskSpace};
pub use lag::{PartitionLag, RecordTimes, TopicLag};
pub use layers::StaticConfigs;
pub use produce::Queueing;
pub use reconcile::TopicRepair;
pub(crate) use topics::PARTITIONS_MAX;
pub use turns::Turns;
pub use types::{BrokerInfo, ConfigEntry, ConfigSource, Leadership, NewTopic, ProducePart, TopicView};

pub use crate::partition::{
    Appended, FetchError, FetchPart, Fetched, FoundOffset, OffsetQuery, PartitionView, ProduceError,
    RefusedRecord, RefusedRecords,
};
pub use cluster::ClusterHost;

/// The broker's operations, for every protocol. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<ClusterHost>,
    metadata: Group,
    shards: HashMap<RaftGroupId, Arc<Shard>>,
    groups: Groups,
    serve: ServeConfig,
    producer_ids: ProducerIds,
    meter: Meter,
    /// Memory budget of records in replies to consumers.
    replies: Replies,
    disk_headroom: DiskHeadroom,
    log: Arc<Wal>,
    /// Set while flushes fail.
    flush_trouble: Mutex<Option<FlushTrouble>>,
    decompression: Decompression,
    ahead_warnings: AheadWarnings,
    changes: Changes,
    facts: BrokerFacts,
}

impl Service {
    /// The service of a node whose Raft groups are running.
    pub fn new(
        cluster: Arc<ClusterHost>,
        metadata: Group,
        shards: HashMap<RaftGroupId, Arc<Shard>>,
        log: Arc<Wal>,
        serve: ServeConfig,
        facts: BrokerFacts,
    ) -> Service {
        let groups = Groups::new(&shards, serve.broker.groups.clone());
        let replies = Replies::new(serve.broker.replies_bytes_max);
        let decompression = Decompression::new(serve.broker.decompressed_bytes_max);
        let inner = Inner {
            cluster,
            metadata,
            groups,
            shards,
            serve,
            producer_ids: Default::default(),
            meter: Meter::default(),
            replies,
            disk_headroom: DiskHeadroom::default(),
            log,
            flush_trouble: Mutex::default(),
            decompression,
            ahead_warnings: AheadWarnings::default(),
            changes: Changes::default(),
            facts,
        };
        Service { inner: Arc::new(inner) }
    }

    /// The cluster's id, as Kafka prints it.
    pub fn cluster_id(&self) -> String {
        self.inner.cluster.inspect(|machine| machine.cluster_id().to_string())
    }

    pub fn node_id(&self) -> i32 {
        self.inner.serve.node_id as i32
    }

    /// The node that leads the metadata group.
    pub fn controller_id(&self) -> i32 {
        self.node_id()
    }

    /// Every broker of the cluster.
    pub fn brokers(&self) -> Vec<BrokerInfo> {
        let (host, port) = (self.advertised().host().to_string(), self.advertised().port());
        vec![BrokerInfo { id: self.node_id(), host, port, rack: self.inner.serve.rack.clone() }]
    }

    /// The current configuration; some keys change while the broker runs.
    pub fn broker_config(&self) -> Arc<BrokerConfig> {
        self.inner.cluster.broker_config()
    }

    /// Request and topic metrics.
    pub fn meter(&self) -> &Meter {
        &self.inner.meter
    }

    /// Every topic, sorted by name.
    pub fn topics(&self) -> Vec<Arc<TopicView>> {
        self.inner.cluster.topics().iter().map(|entry| entry.view.clone()).collect()
    }

    /// The sum over all topics that have no metric series of their own, deleted topics included.
    pub fn other_topics_meter(&self) -> Arc<TopicMeter> {
        self.inner.cluster.other_topics_meter()
    }

    pub fn topic(&self, name: &str) -> Option<Arc<TopicView>> {
        self.inner.cluster.topic(name).map(|entry| entry.view.clone())
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<TopicView>> {
        self.inner.cluster.topic_by_id(id).map(|entry| entry.view.clone())
    }

    /// Replicas per partition.
    pub fn replicas(&self) -> usize {
        // A cluster has one node, which holds each partition once.
        1
    }

    /// The current leader of a partition.
    pub fn leadership(&self, partition: &PartitionView) -> Leadership {
        match self.inner.shards.get(&partition.group).and_then(|shard| shard.group().led_term()) {
            Some(term) => {
                Leadership { leader: Some(self.node_id()), epoch: leader_epoch(term, partition.epoch_base) }
            }
            None => Leadership { leader: None, epoch: -1 },
        }
    }

    /// The configuration of the topic that a partition belongs to; `None` when the topic was deleted.
    pub fn topic_config_of(&self, partition: PartitionId) -> Option<Arc<TopicConfig>> {
        self.inner.cluster.owner(partition).map(|(view, _)| view.config.clone())
    }

    /// The compacted topics that set `max.compaction.lag.ms`: that lag, and their partitions.
    pub fn compaction_lags(&self) -> Vec<(Duration, Vec<PartitionId>)> {
        self.inner.cluster.compaction_lags()
    }

    /// The log start offset of a partition; `None` when it was deleted.
    pub fn log_start_of(&self, partition: PartitionId) -> Option<i64> {
        let (_, place) = self.inner.cluster.owner(partition)?;
        self.inner.shards.get(&place.group)?.host.partition(partition, |p| p.log_start())
    }

    /// Sets the sampled disk usage and the bytes that must stay free; returns whether the disk is low. Produce is refused
    /// while it is low, and also between two samples, as soon as the bytes accepted since the last one could have used up
    /// the headroom.
    pub(crate) fn set_disk_space(&self, sample: DiskSample, low_bytes: u64) -> bool {
        let (low, changed) = self.inner.disk_headroom.set(sample, low_bytes);
        if changed {
            tracing::warn!(low, "free disk space crossed disk.low.bytes");
        }
        low
    }

    /// Whether free space is below `disk.low.bytes`.
    pub fn disk_is_low(&self) -> bool {
        self.inner.disk_headroom.is_low()
    }

    /// Why produce requests are refused now; `None` while they are accepted.
    pub fn write_stop(&self) -> Option<WriteStop> {
        let full = || match self.disk_space() {
            Some(space) if space.lacks_inodes() => WriteStop::NoInodes { free_bytes: space.free_bytes },
            _ => WriteStop::LogFull,
        };
        self.inner.disk_headroom.stop().or_else(|| self.inner.log.waits_for_room().then(full))
    }

    /// Replaces the static configuration.
    pub(crate) fn set_static_configs(&self, given: StaticConfigs) {
        self.inner.cluster.set_static_configs(given);
    }

    /// Sets or clears the reason why flushes fail.
    pub fn set_flush_trouble(&self, trouble: Option<FlushTrouble>) {
        *self.inner.flush_trouble.lock() = trouble;
    }

    /// Why flushes fail now, if they do.
    pub fn flush_trouble(&self) -> Option<FlushTrouble> {
        self.inner.flush_trouble.lock().clone()
    }

    /// The shards of this node, for maintenance.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.inner.shards.values()
    }

    /// Memory budget of records in replies to consumers.
    pub(crate) fn replies(&self) -> &Replies {
        &self.inner.replies
    }

    pub fn groups(&self) -> &Groups {
        &self.inner.groups
    }

    /// The metadata Raft group.
    pub fn metadata(&self) -> &Group {
        &self.inner.metadata
    }

    /// The replicated cluster state.
    pub fn cluster(&self) -> &Arc<ClusterHost> {
        &self.inner.cluster
    }
}
