//! The metadata group's state machine, and the views that readers share.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Read,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millstream_model::{LogId, PartitionId, RaftGroupId, TopicId};
use millstream_replica::{Machine, Reply, RestoreError, Snapshot};
use millstream_state::cluster::{self, ClusterCommand, ClusterMachine, Topic};
use millstream_store::tables::Tables;
use parking_lot::RwLock;

use super::{
    PartitionView, TopicView,
    layers::{Layers, StaticConfigs},
};
use crate::{
    config::{BatchLimit, BrokerConfig, TopicConfig},
    telemetry::{TopicMeter, TopicMeters},
};

/// A topic's view, built when the topic changes and not for each request.
#[derive(Debug)]
pub(super) struct TopicEntry {
    pub(super) view: Arc<TopicView>,
    /// Keys that are set on the topic itself.
    pub(super) own_configs: BTreeMap<String, String>,
}

#[derive(Default)]
struct Index {
    by_name: BTreeMap<String, Arc<TopicEntry>>,
    name_of: HashMap<TopicId, String>,
    /// The topic of each partition, and the partition's index in it.
    owner: HashMap<PartitionId, (Arc<str>, u32)>,
    meters: TopicMeters,
}

/// The metadata group on this node.
pub struct ClusterHost {
    state: RwLock<(ClusterMachine, Index)>,
    static_configs: RwLock<StaticConfigs>,
    /// This broker's effective configuration.
    broker: RwLock<Arc<BrokerConfig>>,
    tables: Arc<Tables>,
    /// The largest batch that this broker can carry, whatever a topic was given on another one.
    batch_limit: BatchLimit,
}

impl ClusterHost {
    /// An empty cluster; [`Machine::restore`] fills it.
    pub fn new(tables: Arc<Tables>, static_configs: StaticConfigs, batch_limit: BatchLimit) -> ClusterHost {
        let broker = RwLock::new(Arc::new(BrokerConfig::from_values(&static_configs.broker)));
        let (state, static_configs) =
            (RwLock::new((ClusterMachine::new(), Index::default())), RwLock::new(static_configs));
        ClusterHost { state, static_configs, broker, tables, batch_limit }
    }

    /// Reads the applied state.
    pub fn inspect<R>(&self, read: impl FnOnce(&ClusterMachine) -> R) -> R {
        read(&self.state.read().0)
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<TopicEntry>> {
        self.state.read().1.by_name.get(name).cloned()
    }

    pub(super) fn topic_by_id(&self, id: TopicId) -> Option<Arc<TopicEntry>> {
        let state = self.state.read();
        state.1.by_name.get(state.1.name_of.get(&id)?).cloned()
    }

    /// The sum over all topics that have no metric series of their own.
    pub(super) fn other_topics_meter(&self) -> Arc<TopicMeter> {
        self.state.read().1.meters.other()
    }

    pub(super) fn topics(&self) -> Vec<Arc<TopicEntry>> {
        self.state.read().1.by_name.values().cloned().collect()
    }

    /// The compacted topics that set `max.compaction.lag.ms`: that lag, and their partitions.
    pub(super) fn compaction_lags(&self) -> Vec<(Duration, Vec<PartitionId>)> {
        let state = self.state.read();
        let views = state.1.by_name.values().map(|entry| &entry.view);
        let bounded =
            views.filter(|view| view.config.compact && view.config.max_compaction_lag_ms < i64::MAX);
        let lag = |view: &TopicView| Duration::from_millis(view.config.max_compaction_lag_ms.max(0) as u64);
        bounded.map(|view| (lag(view), view.partitions.iter().map(|p| p.id).collect())).collect()
    }

    /// The topic that a partition belongs to, and the partition's view; `None` when the topic was deleted.
    pub(super) fn owner(&self, partition: PartitionId) -> Option<(Arc<TopicView>, PartitionView)> {
        let state = self.state.read();
        let (name, place) = state.1.owner.get(&partition)?;
        let view = &state.1.by_name.get(&**name)?.view;
        Some((view.clone(), *view.partitions.get(*place as usize)?))
    }

    /// The effective configuration of a topic with these values of its own.
    pub(super) fn effective(&self, own: &BTreeMap<String, String>) -> TopicConfig {
        self.with_layers(|layers| self.topic_config(&layers.topic_values(own)))
    }

    fn topic_config(&self, values: &BTreeMap<String, String>) -> TopicConfig {
        let config = TopicConfig::from_values(values);
        TopicConfig { max_message_bytes: config.max_message_bytes.min(self.batch_limit.bytes), ..config }
    }

    /// The largest batch that this broker can carry.
    pub(super) fn batch_limit(&self) -> BatchLimit {
        self.batch_limit
    }

    /// Reads the configuration layers below topics.
    pub(super) fn with_layers<R>(&self, read: impl FnOnce(Layers<'_>) -> R) -> R {
        let (state, static_configs) = (self.state.read(), self.static_configs.read());
        read(Layers::new(&state.0, &static_configs))
    }

    /// This broker's current configuration.
    pub(super) fn broker_config(&self) -> Arc<BrokerConfig> {
        self.broker.read().clone()
    }

    /// Replaces the static configuration.
    pub(super) fn set_static_configs(&self, static_configs: StaticConfigs) {
        let mut state = self.state.write();
        *self.static_configs.write() = static_configs;
        let (machine, index) = &mut *state;
        self.reconfigure(machine, index);
    }

    /// Rebuilds everything that depends on the broker configuration.
    fn reconfigure(&self, machine: &ClusterMachine, index: &mut Index) {
        let values = Layers::new(machine, &self.static_configs.read()).broker_values();
        *self.broker.write() = Arc::new(BrokerConfig::from_values(&values));
        let names: Vec<String> = machine.topics().map(|topic| topic.name.clone()).collect();
        names.iter().for_each(|name| self.reindex(machine, index, name));
    }

    fn reindex(&self, machine: &ClusterMachine, index: &mut Index, name: &str) {
        let old = index.by_name.remove(name);
        if let Some(old) = &old {
            index.name_of.remove(&old.view.id);
            old.view.partitions.iter().for_each(|p| drop(index.owner.remove(&p.id)));
        }
        let topic = machine.topic(name);
        if let Some(old) = old.filter(|old| topic.is_none_or(|topic| topic.id != old.view.id)) {
            index.meters.release(old.view.id);
        }
        let Some(topic) = topic else { return };
        let view = Arc::new(self.view(machine, topic, index.meters.of(topic.id)));
        index.name_of.insert(topic.id, name.to_string());
        let shared: Arc<str> = name.into();
        let places = view.partitions.iter().zip(0..);
        index.owner.extend(places.map(|(p, place)| (p.id, (shared.clone(), place))));
        index
            .by_name
            .insert(name.to_string(), Arc::new(TopicEntry { view, own_configs: topic.configs.clone() }));
    }

    fn view(&self, machine: &ClusterMachine, topic: &Topic, meter: Arc<TopicMeter>) -> TopicView {
        let values = Layers::new(machine, &self.static_configs.read()).topic_values(&topic.configs);
        let partitions = topic.partitions.iter().enumerate().map(|(index, partition)| {
            let extent = partition.extents.last();
            PartitionView {
                index: index as i32,
                id: partition.id,
                group: extent.shard,
                epoch_base: extent.epoch,
            }
        });
        TopicView {
            name: topic.name.clone(),
            id: topic.id,
            partitions: partitions.collect(),
            internal: topic.internal,
            config: Arc::new(self.topic_config(&values)),
            meter,
        }
    }
}

impl Machine for ClusterHost {
    fn apply(&self, id: LogId, command: Bytes) -> Reply {
        let command = match cluster::decode(&command) {
            Ok(command) => command,
            // As in a shard: a command of an unknown version must not be skipped.
            Err(error) => panic!("{} cannot apply entry {id}: {error}", RaftGroupId::METADATA),
        };
        let mut state = self.state.write();
        let (machine, index) = &mut *state;
        let before = command.topic_name(machine);
        let of_brokers = matches!(command, ClusterCommand::AlterBrokerConfigs { .. });
        let reply = machine.apply(id, command);
        if of_brokers {
            self.reconfigure(machine, index);
        }
        if let Some(name) = before {
            self.reindex(machine, index, &name);
        }
        Reply::Cluster(reply)
    }

    fn applied(&self, id: LogId) {
        self.tables.applied(RaftGroupId::METADATA, id);
    }

    fn snapshot(&self) -> Snapshot {
        let snapshot = self.state.read().0.snapshot();
        Box::new(|out| snapshot.write_to(out))
    }

    fn restore(&self, state: &mut dyn Read) -> Result<(), RestoreError> {
        let machine = ClusterMachine::restore(state).map_err(|e| RestoreError(Box::new(e)))?;
        // The checkpoint's checksum is right, so a violation is a defect, not damage.
        machine.validate();
        let mut state = self.state.write();
        // Counters must not go back to zero.
        let mut meters = std::mem::take(&mut state.1.meters);
        let ids: HashSet<TopicId> = machine.topics().map(|topic| topic.id).collect();
        meters.retain(|id| ids.contains(&id));
        let mut index = Index { meters, ..Index::default() };
        self.reconfigure(&machine, &mut index);
        *state = (machine, index);
        Ok(())
    }
}
