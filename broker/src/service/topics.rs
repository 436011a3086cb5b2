//! Topics: created and deleted in the metadata group first, then in the shards that hold their partitions.
//!
//! An operation that is interrupted between the two leaves partitions that only one side knows.
//! [`Change::repair_topics`] makes the shards agree with the metadata group, at start and after each interruption.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::{PartitionId, RaftGroupId, TopicId};
use millstream_replica::{Command, ProposeError, Reply};
use millstream_state::{
    cluster::{self, ClusterError, ClusterReply},
    partition as commands,
};

use super::{
    Change, ChangeError, ConfigTurn, NewTopic, Service, TopicError, TopicView, changes::TopicOperation,
};
use crate::{
    clock,
    config::{ConfigError, TopicConfig},
};

/// Maximum partitions of a topic, and of the cluster.
pub(crate) const PARTITIONS_MAX: i32 = cluster::PARTITIONS_MAX as i32;

/// Cores that one shard can keep busy.
const CORES_PER_SHARD: u32 = 4;
/// Partitions of a topic per shard before the topic is spread over more shards.
const PARTITIONS_PER_SHARD: u32 = 8;

impl Change {
    /// Creates a topic, or with `validate_only` only checks whether it could be created.
    pub async fn create_topic(
        &self,
        new: NewTopic,
        validate_only: bool,
    ) -> Result<Arc<TopicView>, TopicError> {
        let (partitions, configs) = self.check_new(&new)?;
        if validate_only {
            return Ok(Arc::new(self.preview(&new, partitions, &configs)));
        }
        let topic_id = TopicId(clock::random_uuid());
        let command = cluster::encode_create_topic(
            &new.name,
            topic_id,
            (partitions, self.shards_of_topic(partitions)),
            &configs,
            clock::now_ms(),
        );
        self.create_partitions_by(command).await?;
        self.topic(&new.name).ok_or_else(|| TopicError::Unavailable("the topic was deleted meanwhile".into()))
    }

    /// Writes a metadata command that creates partitions, then creates them in the shards.
    async fn create_partitions_by(&self, command: Bytes) -> Result<(), TopicError> {
        let operation = self.begin_topic_operation().await;
        let (operation, reply) = self.begin_in_metadata(operation, command).await?;
        let ClusterReply::Created { partitions } = reply else { return Err(unexpected(&reply)) };
        self.create_in_shards(&partitions).await?;
        operation.finished();
        Ok(())
    }

    /// Writes the first entry of an operation. If the entry is certainly not applied, the operation is finished.
    async fn begin_in_metadata(
        &self,
        operation: TopicOperation,
        command: Bytes,
    ) -> Result<(TopicOperation, ClusterReply), TopicError> {
        match self.propose_metadata(command).await {
            Ok(Ok(reply)) => Ok((operation, reply)),
            Ok(Err(error)) => {
                operation.finished();
                Err(topic_error(error))
            }
            Err(error) => {
                if matches!(error, ProposeError::NotLeader) {
                    operation.finished();
                }
                Err(unavailable(error))
            }
        }
    }
}

impl Service {
    /// The number of shards that a topic is spread over. All batches of a request for one shard form one proposal, whose
    /// cost is independent of their number. So a topic uses only as many shards as it takes to load every node and a fair
    /// share of its cores, or as many as leave several batches of a request per shard.
    fn shards_of_topic(&self, partitions: u32) -> u32 {
        let nodes = self.brokers().len() as u32;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let for_nodes = nodes * (cores / CORES_PER_SHARD).max(1);
        for_nodes.max(partitions / PARTITIONS_PER_SHARD)
    }

    pub fn check_topic_name(&self, name: &str) -> Result<(), TopicError> {
        cluster::validate_topic_name(name).map_err(|e| TopicError::InvalidName(e.to_string()))
    }

    fn check_new(&self, new: &NewTopic) -> Result<(u32, BTreeMap<String, String>), TopicError> {
        self.check_topic_name(&new.name)?;
        if self.topic(&new.name).is_some() {
            return Err(TopicError::AlreadyExists(new.name.clone()));
        }
        let partitions = self.check_partitions(new)?;
        let mut configs = BTreeMap::new();
        for (key, value) in &new.configs {
            let Some(value) = value else { continue };
            self.check_topic_config(key, value)?;
            configs.insert(key.clone(), value.clone());
        }
        self.check_together(&configs)?;
        Ok((partitions, configs))
    }

    fn check_topic_config(&self, key: &str, value: &str) -> Result<(), TopicError> {
        TopicConfig::check(key, value).map_err(invalid)?;
        self.inner.cluster.batch_limit().check(key, value).map_err(invalid)
    }

    fn check_together(&self, own: &BTreeMap<String, String>) -> Result<(), TopicError> {
        self.inner.cluster.effective(own).check_together().map_err(TopicError::InvalidConfig)
    }

    fn check_partitions(&self, new: &NewTopic) -> Result<u32, TopicError> {
        if !new.assignments.is_empty() {
            return self.check_assignments(&new.assignments);
        }
        match new.replication_factor {
            -1 | 1 => {}
            other => {
                return Err(TopicError::InvalidReplicationFactor(format!(
                    "replication factor {other} is not possible: the cluster has 1 node"
                )));
            }
        }
        match new.partitions {
            -1 => Ok(self.broker_config().num_partitions),
            n if (1..=PARTITIONS_MAX).contains(&n) => Ok(n as u32),
            n => Err(TopicError::InvalidPartitions(format!(
                "{n} partitions: allowed are 1 to {PARTITIONS_MAX}"
            ))),
        }
    }

    fn check_assignments(&self, assignments: &[(i32, Vec<i32>)]) -> Result<u32, TopicError> {
        let invalid = |what: String| Err(TopicError::InvalidReplicaAssignment(what));
        let indexes: BTreeSet<i32> = assignments.iter().map(|(index, _)| *index).collect();
        if indexes.len() != assignments.len() || indexes.iter().copied().ne(0..assignments.len() as i32) {
            return invalid("the partitions of an assignment are 0, 1, 2 and so on, each once".into());
        }
        let node = self.node_id();
        match assignments.iter().find(|(_, replicas)| *replicas != [node]) {
            Some((index, replicas)) => {
                invalid(format!("partition {index} is assigned to {replicas:?}; the only node is {node}"))
            }
            None => Ok(assignments.len() as u32),
        }
    }

    fn preview(&self, new: &NewTopic, partitions: u32, configs: &BTreeMap<String, String>) -> TopicView {
        let partition = |index| super::PartitionView {
            index: index as i32,
            id: PartitionId(0),
            group: RaftGroupId::METADATA,
            epoch_base: 0,
        };
        TopicView {
            name: new.name.clone(),
            id: TopicId::default(),
            partitions: (0..partitions).map(partition).collect(),
            internal: false,
            config: Arc::new(self.inner.cluster.effective(configs)),
            meter: Arc::default(),
        }
    }
}

impl Change {
    /// Deletes a topic with its records and its committed offsets.
    pub async fn delete_topic(&self, name: &str) -> Result<(), TopicError> {
        self.check_not_internal(name)?;
        let operation = self.begin_topic_operation().await;
        let (operation, reply) =
            self.begin_in_metadata(operation, cluster::encode_delete_topic(name)).await?;
        let ClusterReply::Deleted { partitions } = reply else { return Err(unexpected(&reply)) };
        let offsets = self.groups().drop_topic(name);
        self.drop_in_shards(&partitions).await?;
        if offsets.await {
            operation.finished();
        }
        Ok(())
    }

    /// Increases a topic's partitions to `total`.
    pub async fn create_partitions(
        &self,
        name: &str,
        total: i32,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        self.check_not_internal(name)?;
        let now = self.topic(name).ok_or(TopicError::Unknown)?.partitions.len() as i32;
        if total <= now || total > PARTITIONS_MAX {
            return Err(TopicError::InvalidPartitions(format!(
                "the number of partitions is {now}; a new total is from {} to {PARTITIONS_MAX}, not {total}",
                now + 1
            )));
        }
        if validate_only {
            return Ok(());
        }
        let shards = self.shards_of_topic(total as u32);
        self.create_partitions_by(cluster::encode_create_partitions(name, total as u32, shards)).await
    }

    /// Sets keys of a topic, or with `None` resets them. Keys are checked against the current values of others, which is
    /// why this needs exclusive access.
    pub async fn alter_topic_config(
        &self,
        _turn: &ConfigTurn<'_>,
        name: &str,
        changes: Vec<(String, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let mut own = self.inner.cluster.topic(name).ok_or(TopicError::Unknown)?.own_configs.clone();
        for (key, value) in &changes {
            match value {
                Some(value) => {
                    self.check_topic_config(key, value)?;
                    own.insert(key.clone(), value.clone())
                }
                None => {
                    let default = TopicConfig::default_of(key).unwrap_or_default();
                    TopicConfig::check(key, default).map_err(invalid)?;
                    own.remove(key)
                }
            };
        }
        self.check_together(&own)?;
        if validate_only {
            return Ok(());
        }
        self.write_metadata(cluster::encode_alter_topic_configs(name, &changes)).await.map(|_| ())
    }

    pub(super) async fn create_in_shards(
        &self,
        partitions: &[(PartitionId, RaftGroupId)],
    ) -> Result<(), TopicError> {
        self.in_shards(partitions, |ids| {
            commands::encode_create_partitions(&ids.iter().map(|(id, _)| (*id).into()).collect::<Vec<_>>())
        })
        .await
    }

    pub(super) async fn drop_in_shards(
        &self,
        partitions: &[(PartitionId, RaftGroupId)],
    ) -> Result<(), TopicError> {
        self.in_shards(partitions, |ids| {
            commands::encode_drop_partitions(&ids.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        })
        .await
    }

    /// Writes one command to each shard that holds some of the partitions, concurrently.
    pub(super) async fn in_shards(
        &self,
        partitions: &[(PartitionId, RaftGroupId)],
        command: impl Fn(&[(PartitionId, RaftGroupId)]) -> Bytes,
    ) -> Result<(), TopicError> {
        let mut by_shard: HashMap<RaftGroupId, Vec<(PartitionId, RaftGroupId)>> = HashMap::new();
        partitions.iter().for_each(|p| by_shard.entry(p.1).or_default().push(*p));
        let writes = by_shard.into_iter().map(|(group, ids)| {
            let command = command(&ids);
            async move {
                let shard = self.inner.shards.get(&group);
                let shard =
                    shard.ok_or_else(|| TopicError::Unavailable(format!("{group} is not on this node")))?;
                shard.write(command).await.map(|_| ()).map_err(unavailable)
            }
        });
        futures::future::join_all(writes).await.into_iter().collect()
    }

    pub(super) async fn write_metadata(&self, command: Bytes) -> Result<ClusterReply, TopicError> {
        self.propose_metadata(command).await.map_err(unavailable)?.map_err(topic_error)
    }

    async fn propose_metadata(
        &self,
        command: Bytes,
    ) -> Result<Result<ClusterReply, ClusterError>, ProposeError> {
        let metadata = &self.inner.metadata;
        let term = metadata.led_term().ok_or(ProposeError::NotLeader)?;
        match metadata.write(term, Command::encoded(command)).await?.1 {
            Reply::Cluster(reply) => Ok(reply),
            // Cluster commands get cluster replies; anything else is a bug.
            _ => Err(ProposeError::Unknown),
        }
    }
}

fn unexpected(reply: &ClusterReply) -> TopicError {
    TopicError::Unavailable(format!("unexpected reply {reply:?}"))
}

impl From<ChangeError> for TopicError {
    fn from(error: ChangeError) -> TopicError {
        TopicError::Unavailable(error.to_string())
    }
}

fn unavailable(error: ProposeError) -> TopicError {
    TopicError::Unavailable(error.to_string())
}

fn topic_error(error: ClusterError) -> TopicError {
    match error {
        ClusterError::TopicExists { name } => TopicError::AlreadyExists(name),
        ClusterError::TopicNameCollides { .. } => TopicError::InvalidName(error.to_string()),
        ClusterError::InvalidTopicName(_) => TopicError::InvalidName(error.to_string()),
        ClusterError::UnknownTopic { .. } => TopicError::Unknown,
        ClusterError::InvalidPartitions { .. } => TopicError::InvalidPartitions(error.to_string()),
        ClusterError::TooManyTopics { .. } | ClusterError::TooManyPartitions { .. } => {
            TopicError::TooMany(error.to_string())
        }
        other => TopicError::Unavailable(other.to_string()),
    }
}

fn invalid(error: ConfigError) -> TopicError {
    TopicError::InvalidConfig(error.to_string())
}
