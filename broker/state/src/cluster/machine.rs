//! The metadata group's state machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use millstream_model::{LogId, NodeId, PartitionId, RaftGroupId, TopicId};

use super::{
    Broker, Candidate, ClusterCommand, ClusterError, Extent, Extents, Partition, Topic,
    command::Changes,
    names::{collision_key, is_internal, validate_topic_name},
    narrow, place,
    snapshot::{self, ClusterSnapshot},
};
use crate::DecodeError;

/// Most topics of a cluster.
pub const TOPICS_MAX: usize = 100_000;
/// Most partitions of a cluster.
pub const PARTITIONS_MAX: usize = 100_000;
/// Most shards of a cluster.
pub const SHARDS_MAX: u32 = 1024;

/// The reply of a command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterReply {
    /// The cluster's id, whether this command set it or an earlier one.
    Bootstrapped {
        /// The id.
        cluster_id: String,
    },
    /// New partitions and their shards.
    Created {
        /// By partition number.
        partitions: Vec<(PartitionId, RaftGroupId)>,
    },
    /// Extents to drop: each partition with a shard that has some of it.
    Deleted {
        /// By partition number.
        partitions: Vec<(PartitionId, RaftGroupId)>,
    },
    /// An allocated block of producer ids, of the requested size.
    ProducerIds {
        /// The first one.
        first: i64,
    },
    /// Done.
    Done,
}

/// The result of applying a command.
pub type ClusterResult = Result<ClusterReply, ClusterError>;

/// The cluster's metadata.
///
/// Invariants: 1. Topic names are valid, and no two differ only in `.` and `_`. 2. Topic ids are nonzero and
/// unique. 3. Partition ids are unique, and each is below the next one to allocate. 4. Extents are in shards
/// of this cluster, and their starts increase. 5. Each shard's load is the number of partitions whose last
/// extent it has. 6. A topic has at least one partition. 7. There are no topics before the cluster is
/// bootstrapped.
#[derive(Clone, Debug, Default)]
pub struct ClusterMachine {
    pub(super) cluster_id: String,
    pub(super) shards: u32,
    pub(super) brokers: BTreeMap<NodeId, Broker>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) broker_configs: BTreeMap<Option<NodeId>, BTreeMap<String, String>>,
    pub(super) features: BTreeMap<String, u16>,
    /// The next partition id to allocate.
    pub(super) next_partition: u64,
    pub(super) next_producer: i64,
    // Derived from the topics:
    loads: Vec<u64>,
    ids: BTreeSet<TopicId>,
    by_collision_key: BTreeMap<String, String>,
}

impl ClusterMachine {
    /// A cluster that is not bootstrapped.
    pub fn new() -> ClusterMachine {
        ClusterMachine { next_partition: 1, ..ClusterMachine::default() }
    }

    /// Applies the command of the entry at `id`.
    pub fn apply(&mut self, _id: LogId, command: ClusterCommand) -> ClusterResult {
        let next = (self.next_partition, self.next_producer);
        let result = self.carry_out(command);
        assert!(self.next_partition >= next.0, "partition ids are never reused: {next:?}");
        assert!(self.next_producer >= next.1, "producer ids are never reused: {next:?}");
        if cfg!(debug_assertions) {
            self.validate();
        }
        result
    }

    fn carry_out(&mut self, command: ClusterCommand) -> ClusterResult {
        match command {
            ClusterCommand::Bootstrap { cluster_id, shards } => self.bootstrap(cluster_id, shards),
            ClusterCommand::RegisterBroker { node, broker } => {
                self.brokers.insert(node, broker);
                Ok(ClusterReply::Done)
            }
            ClusterCommand::UnregisterBroker { node } => {
                self.brokers.remove(&node).ok_or(ClusterError::UnknownBroker { node })?;
                self.broker_configs.remove(&Some(node));
                Ok(ClusterReply::Done)
            }
            ClusterCommand::CreateTopic { name, id, partitions, shards_max, configs, now_ms } => {
                self.create_topic(name, id, (partitions, shards_max), configs, now_ms)
            }
            ClusterCommand::DeleteTopic { name } => self.delete_topic(&name),
            ClusterCommand::CreatePartitions { name, total, shards_max } => {
                self.create_partitions(&name, total, shards_max)
            }
            ClusterCommand::AlterTopicConfigs { name, changes } => {
                let topic = self.topics.get_mut(&name).ok_or(ClusterError::UnknownTopic { name })?;
                alter(&mut topic.configs, changes);
                Ok(ClusterReply::Done)
            }
            ClusterCommand::AlterBrokerConfigs { node, changes } => {
                self.alter_broker_configs(node, changes);
                Ok(ClusterReply::Done)
            }
            ClusterCommand::AdoptPartition { name, id, partition, shard, now_ms } => {
                self.adopt_partition(name, id, (partition, shard), now_ms)
            }
            ClusterCommand::AllocateProducerIds { count } => self.allocate_producer_ids(count),
            ClusterCommand::UpdateFeatures { levels } => {
                levels.into_iter().for_each(|(name, level)| self.set_feature(name, level));
                Ok(ClusterReply::Done)
            }
        }
    }

    fn bootstrap(&mut self, cluster_id: String, shards: u32) -> ClusterResult {
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(ClusterError::InvalidShards { shards, shards_max: SHARDS_MAX });
        }
        if !self.is_bootstrapped() {
            self.cluster_id = cluster_id;
            self.shards = shards;
            self.loads = vec![0; shards as usize];
        }
        Ok(ClusterReply::Bootstrapped { cluster_id: self.cluster_id.clone() })
    }

    fn create_topic(
        &mut self,
        name: String,
        id: TopicId,
        (partitions, shards_max): (u32, u32),
        configs: BTreeMap<String, String>,
        now_ms: i64,
    ) -> ClusterResult {
        self.check_new_topic(&name, id, partitions)?;
        let internal = is_internal(&name);
        let topic = Topic { name, id, partitions: Vec::new(), configs, internal, created_ms: now_ms };
        Ok(self.place_partitions(topic, partitions, shards_max))
    }

    fn check_new_topic(&self, name: &str, id: TopicId, partitions: u32) -> Result<(), ClusterError> {
        if !self.is_bootstrapped() {
            return Err(ClusterError::NotBootstrapped);
        }
        validate_topic_name(name)?;
        if self.topics.contains_key(name) {
            return Err(ClusterError::TopicExists { name: name.to_string() });
        }
        if let Some(existing) = self.collides_with(name) {
            let (name, existing) = (name.to_string(), existing.to_string());
            return Err(ClusterError::TopicNameCollides { name, existing });
        }
        if id.is_zero() || self.ids.contains(&id) {
            return Err(ClusterError::TopicIdTaken { id });
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(ClusterError::TooManyTopics { topics_max: TOPICS_MAX });
        }
        self.check_growth(0, partitions as usize)
    }

    fn check_growth(&self, have: usize, wanted: usize) -> Result<(), ClusterError> {
        if wanted <= have {
            return Err(ClusterError::InvalidPartitions { have, wanted });
        }
        let (more, have) = (wanted - have, self.partition_count());
        if have + more > PARTITIONS_MAX {
            return Err(ClusterError::TooManyPartitions { have, more, partitions_max: PARTITIONS_MAX });
        }
        Ok(())
    }

    /// Grows a topic to `total` partitions and inserts it.
    fn place_partitions(&mut self, mut topic: Topic, total: u32, shards_max: u32) -> ClusterReply {
        let first = topic.partitions.len() as u32;
        let mut candidates = self.candidates(&topic);
        let chosen = narrow(topic.id, &mut candidates, shards_max as usize);
        let shards = place(topic.id, first..total, chosen);
        candidates.iter().for_each(|candidate| self.loads[shard_index(candidate.shard)] = candidate.load);
        let ids = (self.next_partition..).map(PartitionId);
        let placed: Vec<(PartitionId, RaftGroupId)> = ids.zip(shards).collect();
        self.next_partition += placed.len() as u64;
        topic.partitions.reserve_exact(placed.len());
        topic.partitions.extend(placed.iter().map(|&(id, shard)| Partition {
            id,
            extents: Extents::new(Extent { start: 0, shard, epoch: 0 }),
        }));
        self.index(&topic);
        self.topics.insert(topic.name.clone(), topic);
        ClusterReply::Created { partitions: placed }
    }

    fn candidates(&self, topic: &Topic) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = (1..=self.shards)
            .zip(&self.loads)
            .map(|(shard, &load)| Candidate { shard: RaftGroupId(shard), weight: 1, load, topic_load: 0 })
            .collect();
        for partition in &topic.partitions {
            candidates[shard_index(partition.extents.last().shard)].topic_load += 1;
        }
        candidates
    }

    fn create_partitions(&mut self, name: &str, total: u32, shards_max: u32) -> ClusterResult {
        let unknown = || ClusterError::UnknownTopic { name: name.to_string() };
        let have = self.topics.get(name).ok_or_else(unknown)?.partitions.len();
        self.check_growth(have, total as usize)?;
        let topic = self.topics.remove(name).ok_or_else(unknown)?;
        Ok(self.place_partitions(topic, total, shards_max))
    }

    fn delete_topic(&mut self, name: &str) -> ClusterResult {
        let topic = self.topics.remove(name);
        let topic = topic.ok_or_else(|| ClusterError::UnknownTopic { name: name.to_string() })?;
        self.ids.remove(&topic.id);
        collision_key(name).map(|key| self.by_collision_key.remove(&key));
        for partition in &topic.partitions {
            self.loads[shard_index(partition.extents.last().shard)] -= 1;
        }
        let extents =
            topic.partitions.iter().flat_map(|p| p.extents.iter().map(|extent| (p.id, extent.shard)));
        Ok(ClusterReply::Deleted { partitions: extents.collect() })
    }

    /// Marks this id and all below it as allocated.
    fn adopt_partition(
        &mut self,
        name: String,
        id: TopicId,
        (partition, shard): (PartitionId, RaftGroupId),
        now_ms: i64,
    ) -> ClusterResult {
        self.check_new_topic(&name, id, 1)?;
        if partition.0 < self.next_partition || !(1..=self.shards).contains(&shard.0) {
            return Err(ClusterError::NotAnOrphan { partition, shard });
        }
        let next = partition.0.checked_add(1).ok_or(ClusterError::NotAnOrphan { partition, shard })?;
        self.next_partition = next;
        self.loads[shard_index(shard)] += 1;
        let extents = Extents::new(Extent { start: 0, shard, epoch: 0 });
        let partitions = vec![Partition { id: partition, extents }];
        let internal = is_internal(&name);
        let topic = Topic { name, id, partitions, configs: BTreeMap::new(), internal, created_ms: now_ms };
        self.index(&topic);
        self.topics.insert(topic.name.clone(), topic);
        Ok(ClusterReply::Created { partitions: vec![(partition, shard)] })
    }

    fn alter_broker_configs(&mut self, node: Option<NodeId>, changes: Changes) {
        let configs = self.broker_configs.entry(node).or_default();
        alter(configs, changes);
        if configs.is_empty() {
            self.broker_configs.remove(&node);
        }
    }

    fn allocate_producer_ids(&mut self, count: u32) -> ClusterResult {
        let first = self.next_producer;
        self.next_producer = first.checked_add(count.into()).ok_or(ClusterError::NoProducerIds)?;
        Ok(ClusterReply::ProducerIds { first })
    }

    fn set_feature(&mut self, name: String, level: u16) {
        if level == 0 {
            self.features.remove(&name);
        } else {
            self.features.insert(name, level);
        }
    }

    fn index(&mut self, topic: &Topic) {
        self.ids.insert(topic.id);
        collision_key(&topic.name).map(|key| self.by_collision_key.insert(key, topic.name.clone()));
    }

    /// Recomputes the derived fields after a restore.
    pub(super) fn index_all(&mut self) {
        self.loads = vec![0; self.shards as usize];
        let topics = std::mem::take(&mut self.topics);
        for topic in topics.values() {
            self.index(topic);
            for partition in &topic.partitions {
                self.loads[shard_index(partition.extents.last().shard)] += 1;
            }
        }
        self.topics = topics;
    }

    /// Whether the cluster has its id and its shards.
    pub fn is_bootstrapped(&self) -> bool {
        self.shards > 0
    }

    /// The cluster's id in Kafka's text form; empty before the bootstrap.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Number of shards; 0 before the bootstrap.
    pub fn shard_count(&self) -> u32 {
        self.shards
    }

    /// The next partition id to allocate.
    pub fn next_partition(&self) -> PartitionId {
        PartitionId(self.next_partition)
    }

    /// The next producer id to allocate.
    pub fn next_producer(&self) -> i64 {
        self.next_producer
    }

    /// Every broker, sorted by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = (NodeId, &Broker)> {
        self.brokers.iter().map(|(node, broker)| (*node, broker))
    }

    /// One topic.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// Every topic, sorted by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.topics.values()
    }

    /// The existing topic whose name differs from this one only in `.` and `_`.
    pub fn collides_with(&self, name: &str) -> Option<&str> {
        let existing = self.by_collision_key.get(&collision_key(name)?)?;
        (existing != name).then_some(existing)
    }

    /// Number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.loads.iter().sum::<u64>() as usize
    }

    /// Configuration overrides of one broker, or with `None` of all.
    pub fn broker_configs(&self, node: Option<NodeId>) -> Option<&BTreeMap<String, String>> {
        self.broker_configs.get(&node)
    }

    /// Features with their levels, sorted by name.
    pub fn features(&self) -> impl ExactSizeIterator<Item = (&str, u16)> {
        self.features.iter().map(|(name, level)| (name.as_str(), *level))
    }

    /// A snapshot of the whole replicated state; the same commands give the same bytes.
    pub fn snapshot(&self) -> ClusterSnapshot {
        snapshot::capture(self)
    }

    /// Restores the state from a [`snapshot`](ClusterMachine::snapshot).
    pub fn restore(source: impl Read) -> Result<ClusterMachine, DecodeError> {
        snapshot::read(source)
    }

    /// Checks the invariants.
    pub fn validate(&self) {
        let (mut ids, mut topic_ids, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut loads = vec![0; self.shards as usize];
        for (name, topic) in &self.topics {
            assert!(name == &topic.name && validate_topic_name(name).is_ok(), "topic {name:?} (1)");
            let key = collision_key(name).unwrap_or_else(|| name.clone());
            assert!(keys.insert(key), "topic {name} collides with another one (1)");
            assert!(
                !topic.id.is_zero() && topic_ids.insert(topic.id),
                "topic {name} has the id {:?} (2)",
                topic.id
            );
            assert!(!topic.partitions.is_empty(), "topic {name} has no partition (6)");
            for partition in &topic.partitions {
                let free = partition.id.0 < self.next_partition && ids.insert(partition.id);
                assert!(free, "{} of {name}; {} is next (3)", partition.id, self.next_partition);
                self.validate_extents(name, partition);
                loads[shard_index(partition.extents.last().shard)] += 1;
            }
        }
        assert_eq!(self.loads, loads, "loads of the shards (5)");
        assert_eq!(self.ids, topic_ids, "topic ids (2)");
        assert!(
            self.is_bootstrapped() || self.topics.is_empty(),
            "{} topics, not bootstrapped (7)",
            self.topics.len()
        );
    }

    fn validate_extents(&self, name: &str, partition: &Partition) {
        let mut starts = partition.extents.iter().map(|extent| extent.start);
        assert!(starts.clone().zip(starts.clone().skip(1)).all(|(a, b)| a < b), "extents of {name} (4)");
        assert!(starts.next().is_some_and(|start| start >= 0), "extents of {name} (4)");
        for extent in partition.extents.iter() {
            assert!(
                (1..=self.shards).contains(&extent.shard.0),
                "{} of {name} is in {} (4)",
                partition.id,
                extent.shard
            );
        }
    }
}

fn shard_index(shard: RaftGroupId) -> usize {
    shard.0 as usize - 1
}

fn alter(configs: &mut BTreeMap<String, String>, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(configs.insert(key, value)),
            None => drop(configs.remove(&key)),
        }
    }
}
