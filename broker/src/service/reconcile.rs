//! Makes the shards and the metadata group agree. At start: after a crash in the middle of a topic operation, or after a
//! repair that truncated the log of one of them. While the broker runs: when a topic operation was interrupted between two
//! of its entries, or when this node became leader of the metadata group, as the previous leader may have left some
//! operation incomplete.
//!
//! Data is never dropped because other data was lost. A repair keeps everything in runs and in the logs of other groups,
//! so partitions that the metadata group has lost get a new topic, and the ends of partitions follow the runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use millstream_model::{PartitionId, RaftGroupId, TopicId};
use millstream_state::{cluster, partition as commands};
use tokio::{sync::watch, task::JoinHandle};

use super::{Change, Service, TopicError, producers::BLOCK_IDS};
use crate::clock;

/// Maximum concurrent adoption proposals.
const ADOPTIONS_AT_ONCE: usize = 1000;
/// Exponential backoff between attempts of a failing repair.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(100);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

/// The task that repairs topics at run time.
pub struct TopicRepair {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl TopicRepair {
    /// Starts the task on a node whose Raft groups are running.
    pub fn start(service: Service) -> TopicRepair {
        let (stop, stopped) = watch::channel(false);
        TopicRepair { stop, task: tokio::spawn(repair_when_interrupted(service, stopped)) }
    }

    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "topic repair task failed");
        }
    }
}

async fn repair_when_interrupted(service: Service, mut stopped: watch::Receiver<bool>) {
    let mut wait = None;
    // The first term was repaired at start.
    let mut term = service.metadata().led_term().unwrap_or_default();
    loop {
        tokio::select! {
            () = service.topic_operation_interrupted(), if wait.is_none() => {}
            led = service.metadata().lead_after(term) => term = led,
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            _ = stopped.changed() => return,
        }
        let repaired = service.change(async move |change| change.repair_topics().await).await;
        wait = match repaired.map_err(TopicError::from).flatten() {
            Ok(()) => None,
            Err(error) => {
                let next = wait.map_or(RETRY_WAIT_MIN, |last| (last * 2).min(RETRY_WAIT_MAX));
                tracing::warn!(%error, retry_ms = next.as_millis() as u64, "topic repair failed; retrying");
                Some(next)
            }
        };
    }
}

impl Change {
    /// Makes the metadata group, the shards and the runs agree; does nothing after a clean shutdown.
    pub async fn reconcile(&self) -> Result<(), TopicError> {
        self.adopt_orphans().await?;
        self.skip_seen_producer_ids().await?;
        self.repair_topics().await?;
        self.extend_to_runs().await
    }

    /// Makes shards and committed offsets agree with the topics of the metadata group, while excluding topic operations.
    /// Only the leader of the metadata group is sure to know every topic: on other nodes this does nothing, and the next
    /// leader does it.
    pub async fn repair_topics(&self) -> Result<(), TopicError> {
        if self.metadata().led_term().is_none() {
            return Ok(());
        }
        let operation = self.all_topic_operations().await;
        let partitions = self.repair_partitions().await;
        let offsets = self.groups().drop_deleted_topics(|topic| self.topic(topic).is_some()).await;
        // The caller retries a failed repair, so this must not trigger another one.
        operation.finished();
        partitions?;
        if offsets { Ok(()) } else { Err(TopicError::Unavailable("offsets were not dropped".into())) }
    }

    /// Creates a topic for each partition whose id the metadata group has not assigned. As partitions are created there
    /// first, the entries that created its topic are lost. The id is marked as used.
    async fn adopt_orphans(&self) -> Result<(), TopicError> {
        let orphans = self.orphans();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            partitions = orphans.len(),
            "topics lost from the metadata group; adopting their partitions into new topics"
        );
        let orphans: Vec<(PartitionId, RaftGroupId)> = orphans.into_iter().collect();
        for some in orphans.chunks(ADOPTIONS_AT_ONCE) {
            // Proposed in this order: ids of adopted partitions must increase.
            let writes = some.iter().map(|&(id, group)| {
                let (name, topic) = (self.name_for(id), TopicId(clock::random_uuid()));
                tracing::warn!(partition = id.0, topic = name, "partition adopted");
                self.write_metadata(cluster::encode_adopt_partition(
                    &name,
                    topic,
                    (id, group),
                    clock::now_ms(),
                ))
            });
            futures::future::try_join_all(writes).await?;
        }
        Ok(())
    }

    /// Partitions in shards and runs whose ids were never assigned, with the shard that has or gets each.
    fn orphans(&self) -> BTreeMap<PartitionId, RaftGroupId> {
        let (free, shard_count) =
            self.inner.cluster.inspect(|machine| (machine.next_partition(), machine.shard_count().max(1)));
        let in_runs = self.inner.cluster.tables().partitions_in_runs();
        let in_runs = in_runs.into_iter().filter(|id| *id >= free);
        let mut orphans: BTreeMap<PartitionId, RaftGroupId> =
            in_runs.map(|id| (id, RaftGroupId(1 + (id.0 % u64::from(shard_count)) as u32))).collect();
        for (group, shard) in &self.inner.shards {
            shard.host.inspect(|machine| {
                let unknown = machine.partitions().map(|(id, _)| id).filter(|id| *id >= free);
                orphans.extend(unknown.map(|id| (id, *group)));
            });
        }
        orphans
    }

    /// An unused topic name for an adopted partition.
    fn name_for(&self, id: PartitionId) -> String {
        let first = format!("recovered-{}", id.0);
        let others = (2..).map(|n| format!("{first}-{n}"));
        let mut names = std::iter::once(first.clone()).chain(others);
        names.find(|name| self.topic(name).is_none()).unwrap_or(first)
    }

    /// Skips producer ids that shards have seen but that the metadata group does not know as allocated.
    async fn skip_seen_producer_ids(&self) -> Result<(), TopicError> {
        let newest = |machine: &commands::ShardMachine| {
            let producers = machine.partitions().filter_map(|(_, state)| state.producers().last());
            producers.map(|producer| producer.id).max()
        };
        let newest = self.inner.shards.values().filter_map(|shard| shard.host.inspect(newest)).max();
        let free = self.inner.cluster.inspect(|machine| machine.next_producer());
        let Some(missed) = newest.and_then(|newest| newest.checked_sub(free)).filter(|missed| *missed >= 0)
        else {
            return Ok(());
        };
        // The whole block of the newest id was allocated.
        let mut left = missed.saturating_add(i64::from(BLOCK_IDS));
        while left > 0 {
            let count = u32::try_from(left).unwrap_or(u32::MAX);
            self.write_metadata(cluster::encode_allocate_producer_ids(count)).await?;
            left -= i64::from(count);
        }
        Ok(())
    }

    /// Creates and drops partitions in shards so that they match the metadata group.
    async fn repair_partitions(&self) -> Result<(), TopicError> {
        // Read the shards first. Ids are assigned by the metadata group before a shard gets them, and never twice, so a
        // partition that then has no topic was deleted.
        let present: HashMap<RaftGroupId, BTreeSet<PartitionId>> = self
            .inner
            .shards
            .iter()
            .map(|(group, shard)| {
                (*group, shard.host.inspect(|machine| machine.partitions().map(|p| p.0).collect()))
            })
            .collect();
        let wanted: HashMap<PartitionId, RaftGroupId> = self.inner.cluster.inspect(|machine| {
            let partitions = machine.topics().flat_map(|topic| &topic.partitions);
            partitions.flat_map(|p| p.extents.iter().map(|extent| (p.id, extent.shard))).collect()
        });
        let (mut missing, mut left_over) = (Vec::new(), Vec::new());
        for (group, present) in &present {
            missing.extend(
                wanted
                    .iter()
                    .filter(|(id, at)| *at == group && !present.contains(id))
                    .map(|(id, at)| (*id, *at)),
            );
            let unknown = present.iter().filter(|id| wanted.get(id) != Some(group));
            left_over.extend(unknown.map(|id| (*id, *group)));
        }
        if !missing.is_empty() || !left_over.is_empty() {
            tracing::info!(
                missing = missing.len(),
                left_over = left_over.len(),
                "completing interrupted topic operations"
            );
        }
        self.create_in_shards(&missing).await?;
        self.drop_in_shards(&left_over).await
    }

    /// Moves the end of each partition up to the end of its runs: the log entries of those records may be lost, and offsets
    /// that consumers have read must not be assigned again.
    async fn extend_to_runs(&self) -> Result<(), TopicError> {
        let tables = self.inner.cluster.tables();
        let (mut ends, mut short) = (HashMap::new(), Vec::new());
        for (group, shard) in &self.inner.shards {
            shard.host.inspect(|machine| {
                for (id, state) in machine.partitions() {
                    if let Some(end) = tables.end_in_runs(id).filter(|end| *end > state.next_offset()) {
                        ends.insert(id, end);
                        short.push((id, *group));
                    }
                }
            });
        }
        if !short.is_empty() {
            tracing::warn!(
                partitions = short.len(),
                "log truncated; moving partition ends to the ends of their runs"
            );
        }
        self.in_shards(&short, |ids| {
            commands::encode_extend(&ids.iter().map(|(id, _)| (*id, ends[id])).collect::<Vec<_>>())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::test_node;

    /// Longer than an election takes.
    const REPAIR_WAIT_MAX: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_operation_interrupted_by_loss_of_leadership_is_completed_by_the_next_leader() {
        let service = test_node::start(1).await;
        let repair = TopicRepair::start(service.clone());
        let interrupted = service.change(async move |change| {
            let operation = change.begin_topic_operation().await;
            let create =
                cluster::encode_create_topic("t", TopicId(clock::random_uuid()), (3, 3), &BTreeMap::new(), 0);
            change.write_metadata(create).await.expect("created");
            change.metadata().lose_lead().await;
            drop(operation);
        });
        interrupted.await.expect("it ends");
        assert!(!service.shards_agree(), "the shards have no partitions yet");
        // The interruption is detected while there is no leader.
        let repaired = async {
            while !service.shards_agree() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(REPAIR_WAIT_MAX, repaired).await.expect("repaired");
        repair.shutdown().await;
    }
}
