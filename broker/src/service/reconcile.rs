//! Brings shards and metadata group together at a start: after a crash in the middle of a topic operation, and after a
//! repair that has cut the log of one of them.
//!
//! Nothing is dropped because something else is lost. A repair never takes away what is in runs or in another group's
//! log, so what the metadata group does not know any more gets a topic again, and ends of partitions follow the runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millstream_model::{GroupId, PartitionId, TopicId};
use millstream_state::{cluster, partition as commands};

use super::{Service, TopicError, producers::BLOCK_IDS};
use crate::clock;

/// Adoptions that are proposed at once.
const ADOPTIONS_AT_ONCE: usize = 1000;

impl Service {
    /// Does whatever it takes for metadata group, shards and runs to agree; nothing after an ordinary stop.
    pub async fn reconcile(&self) -> Result<(), TopicError> {
        self.adopt_orphans().await?;
        self.pass_over_producers().await?;
        self.finish_topic_operations().await?;
        self.extend_to_runs().await
    }

    /// Gives a topic to each partition that the metadata group has never heard of: the entries that made its own are lost,
    /// for a partition is made there first. Its id is never given again.
    async fn adopt_orphans(&self) -> Result<(), TopicError> {
        let orphans = self.orphans();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            partitions = orphans.len(),
            "the metadata group has lost topics: their partitions get new ones"
        );
        let orphans: Vec<(PartitionId, GroupId)> = orphans.into_iter().collect();
        for some in orphans.chunks(ADOPTIONS_AT_ONCE) {
            // They are proposed in this order: ids of orphans must grow.
            let writes = some.iter().map(|&(id, group)| {
                let (name, topic) = (self.name_for(id), TopicId(clock::random_uuid()));
                tracing::warn!(partition = id.0, topic = name, "adopted");
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

    /// Partitions of shards and runs whose ids were never given, and the shard that each is in, or is to be in.
    fn orphans(&self) -> BTreeMap<PartitionId, GroupId> {
        let (free, shard_count) =
            self.inner.cluster.inspect(|machine| (machine.next_partition(), machine.shard_count().max(1)));
        let in_runs = self.inner.cluster.tables().partitions_in_runs();
        let in_runs = in_runs.into_iter().filter(|id| *id >= free);
        let mut orphans: BTreeMap<PartitionId, GroupId> =
            in_runs.map(|id| (id, GroupId(1 + (id.0 % u64::from(shard_count)) as u32))).collect();
        for (group, shard) in &self.inner.shards {
            shard.host.inspect(|machine| {
                let unknown = machine.partitions().map(|(id, _)| id).filter(|id| *id >= free);
                orphans.extend(unknown.map(|id| (id, *group)));
            });
        }
        orphans
    }

    /// A name that no topic has.
    fn name_for(&self, id: PartitionId) -> String {
        let first = format!("recovered-{}", id.0);
        let others = (2..).map(|n| format!("{first}-{n}"));
        let mut names = std::iter::once(first.clone()).chain(others);
        names.find(|name| self.topic(name).is_none()).unwrap_or(first)
    }

    /// Leaves out the producer ids that shards have seen and that the metadata group does not know to be given.
    async fn pass_over_producers(&self) -> Result<(), TopicError> {
        let newest = |machine: &commands::ShardMachine| {
            let producers = machine.partitions().filter_map(|(_, state)| state.producers().last());
            producers.map(|producer| producer.id).max()
        };
        let newest = self.inner.shards.values().filter_map(|shard| shard.host.inspect(newest)).max();
        let free = self.inner.cluster.inspect(|machine| machine.next_producer());
        let Some(behind) = newest.and_then(|newest| newest.checked_sub(free)).filter(|behind| *behind >= 0)
        else {
            return Ok(());
        };
        // The block that it is of was given to somebody as a whole.
        let mut left = behind.saturating_add(i64::from(BLOCK_IDS));
        while left > 0 {
            let count = u32::try_from(left).unwrap_or(u32::MAX);
            self.write_metadata(cluster::encode_allocate_producer_ids(count)).await?;
            left -= i64::from(count);
        }
        Ok(())
    }

    /// Makes and drops partitions in shards as the metadata group says.
    async fn finish_topic_operations(&self) -> Result<(), TopicError> {
        let wanted: HashMap<PartitionId, GroupId> = self.inner.cluster.inspect(|machine| {
            let partitions = machine.topics().flat_map(|topic| &topic.partitions);
            partitions.flat_map(|p| p.extents.iter().map(|extent| (p.id, extent.shard))).collect()
        });
        let (mut missing, mut left_over) = (Vec::new(), Vec::new());
        for (group, shard) in &self.inner.shards {
            let has: BTreeSet<PartitionId> =
                shard.host.inspect(|machine| machine.partitions().map(|p| p.0).collect());
            missing.extend(
                wanted.iter().filter(|(id, at)| *at == group && !has.contains(id)).map(|(id, at)| (*id, *at)),
            );
            // Ids are never given twice, so a partition that no topic has belonged to one that was deleted.
            left_over
                .extend(has.into_iter().filter(|id| wanted.get(id) != Some(group)).map(|id| (id, *group)));
        }
        if !missing.is_empty() || !left_over.is_empty() {
            tracing::info!(
                missing = missing.len(),
                left_over = left_over.len(),
                "finishing topic operations"
            );
        }
        self.create_in_shards(&missing).await?;
        self.in_shards(&left_over, |ids| {
            commands::encode_drop_partitions(&ids.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        })
        .await
    }

    /// Moves the end of each partition to where the runs have records up to: what brought these may be lost from the log,
    /// and offsets that somebody has read are not given again.
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
            tracing::warn!(partitions = short.len(), "partitions end where their runs do: their log was cut");
        }
        self.in_shards(&short, |ids| {
            commands::encode_extend(&ids.iter().map(|(id, _)| (*id, ends[id])).collect::<Vec<_>>())
        })
        .await
    }
}
