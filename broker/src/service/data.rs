//! What a node's service is made of; and fetch and offsets, the verbs that read partitions.

use std::{collections::HashMap, sync::Arc, time::Duration};

use millstream_model::{PartitionId, RaftGroupId, TopicId};
use millstream_replica::Group;
use millstream_state::partition as commands;
use millstream_store::wal::Wal;
use parking_lot::Mutex;

use super::{
    BrokerFacts, BrokerInfo, Change, ClusterHost, FetchError, FetchPart, Fetched, FlushTrouble, FoundOffset,
    Leadership, OffsetQuery, PartitionView, TopicView, WriteStop,
    changes::Changes,
    disk_headroom::{DiskHeadroom, DiskSample},
    produce::{AheadWarnings, Opener},
};
use crate::{
    clock,
    config::{BrokerConfig, ServeConfig, TopicConfig},
    partition::{self, FetchBounds, Locate, Shard, ShardHost, leader_epoch},
    telemetry::{Meter, TopicMeter},
};

/// What the broker does, for any protocol. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) cluster: Arc<ClusterHost>,
    pub(super) metadata: Group,
    pub(super) shards: HashMap<RaftGroupId, Arc<Shard>>,
    pub(super) groups: super::Groups,
    pub(super) serve: ServeConfig,
    pub(super) producer_ids: super::producers::ProducerIds,
    pub(super) meter: Meter,
    /// Memory of records on their way to consumers.
    pub(super) replies: partition::Replies,
    pub(super) disk_headroom: DiskHeadroom,
    pub(super) log: Arc<Wal>,
    /// What must leave memory cannot be written now.
    pub(super) flush_trouble: Mutex<Option<FlushTrouble>>,
    pub(super) opener: Opener,
    pub(super) ahead_warnings: AheadWarnings,
    pub(super) changes: Changes,
    /// How this broker runs.
    pub(super) facts: BrokerFacts,
}

impl Service {
    /// The verbs of a node whose groups run.
    pub fn new(
        cluster: Arc<ClusterHost>,
        metadata: Group,
        shards: HashMap<RaftGroupId, Arc<Shard>>,
        log: Arc<Wal>,
        serve: ServeConfig,
        facts: BrokerFacts,
    ) -> Service {
        let groups = super::Groups::new(&shards, serve.broker.groups.clone());
        let replies = partition::Replies::new(serve.broker.replies_bytes_max);
        let opener = Opener::new(serve.broker.opened_bytes_max);
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
            opener,
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

    /// This node's id.
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

    /// The broker's configuration now: some of it changes while the broker runs.
    pub fn broker_config(&self) -> Arc<BrokerConfig> {
        self.inner.cluster.broker_config()
    }

    /// What requests and topics have moved.
    pub fn meter(&self) -> &Meter {
        &self.inner.meter
    }

    /// Every topic, sorted by name.
    pub fn topics(&self) -> Vec<Arc<TopicView>> {
        self.inner.cluster.topics().iter().map(|entry| entry.view.clone()).collect()
    }

    /// What all topics without a series of their own have moved together, deleted ones included.
    pub fn other_topics_meter(&self) -> Arc<TopicMeter> {
        self.inner.cluster.other_topics_meter()
    }

    /// One topic.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicView>> {
        self.inner.cluster.topic(name).map(|entry| entry.view.clone())
    }

    /// One topic.
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<TopicView>> {
        self.inner.cluster.topic_by_id(id).map(|entry| entry.view.clone())
    }

    /// Replicas that every partition has.
    pub fn replicas(&self) -> usize {
        // One node holds each partition once.
        1
    }

    /// Who leads a partition now.
    pub fn leadership(&self, partition: &PartitionView) -> Leadership {
        match self.inner.shards.get(&partition.group).and_then(|shard| shard.group().led_term()) {
            Some(term) => {
                Leadership { leader: Some(self.node_id()), epoch: leader_epoch(term, partition.epoch_base) }
            }
            None => Leadership { leader: None, epoch: -1 },
        }
    }

    /// The configuration of the topic that a partition belongs to; `None` when the topic is gone.
    pub fn topic_config_of(&self, partition: PartitionId) -> Option<Arc<TopicConfig>> {
        self.inner.cluster.owner(partition).map(|(view, _)| view.config.clone())
    }

    /// The compacted topics that bound how long a record may stay uncompacted: that time, and their partitions.
    pub fn compaction_lags(&self) -> Vec<(Duration, Vec<PartitionId>)> {
        self.inner.cluster.compaction_lags()
    }

    /// First offset that a partition still has; `None` when it is gone.
    pub fn log_start_of(&self, partition: PartitionId) -> Option<i64> {
        let (_, place) = self.inner.cluster.owner(partition)?;
        self.inner.shards.get(&place.group)?.host.partition(partition, |p| p.log_start())
    }

    /// Tells what was seen of the disk and how much must stay free; whether it is low. Produce is refused while it is,
    /// and as soon as what was taken since could have used up the difference, however seldom this is called.
    pub(crate) fn set_disk_space(&self, look: DiskSample, low_bytes: u64) -> bool {
        let (low, changed) = self.inner.disk_headroom.set(look, low_bytes);
        if changed {
            tracing::warn!(low, "free disk space crossed disk.low.bytes");
        }
        low
    }

    /// Whether the disk is nearly full.
    pub fn disk_is_low(&self) -> bool {
        self.inner.disk_headroom.is_low()
    }

    /// Why what is produced is not taken now, if it is not.
    pub fn write_stop(&self) -> Option<WriteStop> {
        let full = || match self.disk_space() {
            Some(space) if space.lacks_inodes() => WriteStop::NoInodes { free_bytes: space.free_bytes },
            _ => WriteStop::LogFull,
        };
        self.inner.disk_headroom.stop().or_else(|| self.inner.log.waits_for_room().then(full))
    }

    /// Replaces the configuration that was given at start.
    pub(crate) fn set_given(&self, given: super::GivenConfigs) {
        self.inner.cluster.set_given(given);
    }

    /// Tells whether what must leave memory can be written, and why not.
    pub fn set_flush_trouble(&self, trouble: Option<FlushTrouble>) {
        *self.inner.flush_trouble.lock() = trouble;
    }

    /// Why what must leave memory cannot be written now, if it cannot.
    pub fn flush_trouble(&self) -> Option<FlushTrouble> {
        self.inner.flush_trouble.lock().clone()
    }

    /// The shards of this node, for the loops that keep house.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.inner.shards.values()
    }

    /// Memory of records on their way to consumers.
    pub(crate) fn replies(&self) -> &partition::Replies {
        &self.inner.replies
    }

    /// Consumer groups.
    pub fn groups(&self) -> &super::Groups {
        &self.inner.groups
    }

    /// The metadata group.
    pub fn metadata(&self) -> &Group {
        &self.inner.metadata
    }

    /// The metadata group's state.
    pub fn cluster(&self) -> &Arc<ClusterHost> {
        &self.inner.cluster
    }

    /// Reads what there is; waits until there are `min_bytes`, an error, or the time is up.
    pub async fn fetch(
        &self,
        parts: &[FetchPart],
        max_bytes: usize,
        max_wait: Duration,
        min_bytes: usize,
    ) -> Vec<Result<Fetched, FetchError>> {
        let bounds = FetchBounds { max_bytes, min_bytes, deadline: clock::deadline(max_wait) };
        let (begun, mut waited) = (clock::monotonic(), Duration::ZERO);
        let results = partition::fetch(&*self.inner, parts, bounds, &self.inner.replies, &mut waited).await;
        self.count_fetch(clock::monotonic().saturating_duration_since(begun), waited);
        for (part, fetched) in parts.iter().zip(&results) {
            let Some(bytes) = fetched.as_ref().ok().map(Fetched::len).filter(|bytes| *bytes > 0) else {
                continue;
            };
            self.inner.meter.total.fetched(bytes);
            if let Some((topic, _)) = self.inner.cluster.owner(part.partition.id) {
                topic.meter.fetched(bytes);
            }
        }
        results
    }

    fn count_fetch(&self, took: Duration, waited: Duration) {
        let stages = &self.inner.meter.stages;
        stages.fetch_read.record(took.saturating_sub(waited));
        if waited > Duration::ZERO {
            stages.fetch_wait.record(waited);
        }
    }

    /// Finds an offset; `None` when no record fits.
    pub async fn list_offset(
        &self,
        partition: &PartitionView,
        query: OffsetQuery,
        current_leader_epoch: i32,
    ) -> Result<Option<FoundOffset>, FetchError> {
        let (host, epoch) = self.inner.leading(partition, current_leader_epoch)?;
        let id = partition.id;
        if !query.looks_into_batches() {
            return partition::find_offset(host, id, query, epoch).await;
        }
        let place = self.inner.opener.place().await;
        // A task of its own: it ends, and holds its place, also when nobody waits for it any more.
        let found = tokio::spawn(async move {
            let found = partition::find_offset(host, id, query, epoch).await;
            drop(place);
            found
        });
        found.await.unwrap_or(Err(FetchError::Unavailable))
    }

    /// The largest epoch up to `epoch` that wrote into the partition, and the offset behind its last record;
    /// (-1, -1) when there is none.
    pub fn end_offset_for_epoch(
        &self,
        partition: &PartitionView,
        current_leader_epoch: i32,
        epoch: i32,
    ) -> Result<(i32, i64), FetchError> {
        let (host, current) = self.inner.leading(partition, current_leader_epoch)?;
        let found = host.partition(partition.id, |p| {
            // What a later leader wrote is not known here.
            if epoch > current { None } else { p.end_offset_for_epoch(epoch) }
        });
        Ok(found.ok_or(FetchError::UnknownPartition)?.unwrap_or((-1, -1)))
    }
}

impl Change {
    /// Drops the records below `before` (-1: all) and returns the new log start.
    pub async fn delete_records(&self, partition: &PartitionView, before: i64) -> Result<i64, FetchError> {
        let (host, _) = self.inner.leading(partition, -1)?;
        let bounds = host.partition(partition.id, |p| (p.log_start(), p.next_offset()));
        let (log_start_offset, high_watermark) = bounds.ok_or(FetchError::UnknownPartition)?;
        let target = if before == -1 { high_watermark } else { before };
        if target < 0 || target > high_watermark {
            return Err(FetchError::OffsetOutOfRange { log_start_offset, high_watermark });
        }
        if target > log_start_offset {
            let shard = self.inner.shards.get(&partition.group).ok_or(FetchError::NotLeader)?;
            let command = commands::encode_set_log_start(&[(partition.id, target)]);
            shard.write(command).await.map_err(|_| FetchError::NotLeader)?;
        }
        host.partition(partition.id, |p| p.log_start()).ok_or(FetchError::UnknownPartition)
    }
}

impl Inner {
    /// The shard's host and the partition's leader epoch, if this node leads and the client's epoch fits.
    fn leading(
        &self,
        partition: &PartitionView,
        client_epoch: i32,
    ) -> Result<(Arc<ShardHost>, i32), FetchError> {
        let (host, term) = self.locate(partition.group)?;
        let epoch = leader_epoch(term, partition.epoch_base);
        partition::check_epoch(client_epoch, epoch)?;
        Ok((host.clone(), epoch))
    }
}

impl Locate for Inner {
    fn locate(&self, group: RaftGroupId) -> Result<(&Arc<ShardHost>, u64), FetchError> {
        let shard = self.shards.get(&group).ok_or(FetchError::UnknownPartition)?;
        Ok((&shard.host, shard.group().led_term().ok_or(FetchError::NotLeader)?))
    }
}
