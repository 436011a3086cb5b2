//! Merges.

use std::sync::atomic::Ordering::Relaxed;

use millstream_model::PartitionId;

use super::{MergeError, Tables};

/// How a compacted topic is compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactPolicy {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Milliseconds for which a tombstone stays after it was first cleaned.
    pub delete_retention_ms: i64,
    /// Milliseconds for which a record stays as it is.
    pub min_lag_ms: i64,
    /// Share of uncompacted bytes that starts a compaction.
    pub min_dirty_ratio: f64,
}

/// What is to be done with a partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartitionPolicy {
    /// Whether it exists; only what certainly never comes back may be called dead.
    pub live: bool,
    /// Nobody asks for offsets below.
    pub log_start: i64,
    /// How to compact it; `None` if it is not to be.
    pub compact: Option<CompactPolicy>,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeOutcome {
    /// Runs that were read.
    pub merged_runs: usize,
    /// Runs that were dropped whole.
    pub dropped_runs: usize,
}

impl Tables {
    /// Does one bounded merge, if one is due. Blocks.
    pub fn merge_once(
        &self,
        policy: &dyn Fn(PartitionId) -> PartitionPolicy,
    ) -> Result<MergeOutcome, MergeError> {
        let _one_at_a_time = self.merging.lock();
        for partition in self.directory.partitions() {
            let policy = policy(partition);
            if policy.live {
                self.directory.set_log_start(partition, policy.log_start);
            } else {
                self.directory.drop_partition(partition);
            }
        }
        let dropped_runs = self.drop_dead_runs()?;
        Ok(MergeOutcome { dropped_runs, ..MergeOutcome::default() })
    }

    fn drop_dead_runs(&self) -> Result<usize, MergeError> {
        let dead: Vec<u64> = {
            let runs = self.runs.read();
            runs.values().filter(|run| run.live_parts.load(Relaxed) == 0).map(|run| run.id).collect()
        };
        if dead.is_empty() {
            return Ok(0);
        }
        self.commit(|manifest| manifest.runs.retain(|id, _| !dead.contains(id)), &[])?;
        let mut runs = self.runs.write();
        self.retired.lock().extend(dead.iter().filter_map(|id| runs.remove(id)));
        Ok(dead.len())
    }
}
