//! Fetch, offset lookup and record deletion.

use std::{sync::Arc, time::Duration};

use millstream_model::RaftGroupId;
use millstream_state::partition as commands;

use super::{
    Change, FetchError, FetchPart, Fetched, FoundOffset, Inner, OffsetQuery, PartitionView, Service,
};
use crate::{
    clock,
    partition::{self, FetchBounds, Locate, ShardHost, leader_epoch},
};

impl Service {
    /// Reads the partitions; waits for `min_bytes`, an error or the end of `max_wait`.
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

    /// Finds an offset; `None` when no record matches.
    pub async fn list_offset(
        &self,
        partition: &PartitionView,
        query: OffsetQuery,
        current_leader_epoch: i32,
    ) -> Result<Option<FoundOffset>, FetchError> {
        let (host, epoch) = self.inner.leading(partition, current_leader_epoch)?;
        let id = partition.id;
        if !query.reads_records() {
            return partition::find_offset(host, id, query, epoch).await;
        }
        let permit = self.inner.decompression.permit().await;
        // In a task of its own, so that it ends and keeps its permit also when the caller goes away.
        let found = tokio::spawn(async move {
            let found = partition::find_offset(host, id, query, epoch).await;
            drop(permit);
            found
        });
        found.await.unwrap_or(Err(FetchError::Unavailable))
    }

    /// The largest epoch up to `epoch` that wrote to the partition, and the offset after its last record; (-1, -1) when
    /// there is none.
    pub fn end_offset_for_epoch(
        &self,
        partition: &PartitionView,
        current_leader_epoch: i32,
        epoch: i32,
    ) -> Result<(i32, i64), FetchError> {
        let (host, current) = self.inner.leading(partition, current_leader_epoch)?;
        let found = host.partition(partition.id, |p| {
            // This node does not know the writes of a later leader.
            if epoch > current { None } else { p.end_offset_for_epoch(epoch) }
        });
        Ok(found.ok_or(FetchError::UnknownPartition)?.unwrap_or((-1, -1)))
    }
}

impl Change {
    /// Deletes the records below `before` (-1: all) and returns the new log start offset.
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
    /// The shard's host and the partition's leader epoch, if this node leads and the client's epoch matches.
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
