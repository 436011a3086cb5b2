//! Looking at what partitions hold: sizes, producers, the disk below.

use std::{io, path::Path};

use super::{FetchError, PartitionView, Service};

/// Space of the volume that the data directory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total_bytes: u64,
    /// What is free for this process.
    pub free_bytes: u64,
    /// Files that can still be made; `None` where the file system has no bound.
    pub free_inodes: Option<u64>,
}

impl DiskSpace {
    /// Whether no further file can be made, which the system reports as a full disk.
    pub(crate) fn lacks_inodes(&self) -> bool {
        self.free_inodes == Some(0)
    }
}

/// An idempotent producer that a partition remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// When it last wrote, in milliseconds.
    pub last_write_ms: i64,
}

impl Service {
    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.inner.serve.data_dir
    }

    /// Space of the volume that the data directory is on; `None` when the system does not tell.
    pub fn disk_space(&self) -> Option<DiskSpace> {
        space_of(self.data_dir())
            .inspect_err(|error| tracing::warn!(%error, "the disk's space cannot be told"))
            .ok()
    }

    /// Bytes of a partition's batches on this node, in memory and in runs.
    pub fn partition_bytes(&self, partition: &PartitionView) -> u64 {
        self.inner.shards.get(&partition.group).map_or(0, |shard| shard.host.partition_bytes(partition.id))
    }

    /// First offset and the offset behind the last record; `None` when the partition is not on this node.
    pub fn partition_offsets(&self, partition: &PartitionView) -> Option<(i64, i64)> {
        let shard = self.inner.shards.get(&partition.group)?;
        shard.host.partition(partition.id, |state| (state.log_start(), state.next_offset()))
    }

    /// The idempotent producers that a partition remembers, sorted by id.
    pub fn active_producers(&self, partition: &PartitionView) -> Result<Vec<ActiveProducer>, FetchError> {
        let shard = self.inner.shards.get(&partition.group).ok_or(FetchError::NotLeader)?;
        shard.group().led_term().ok_or(FetchError::NotLeader)?;
        let producers = shard.host.partition(partition.id, |state| {
            let active = state.producers().map(|producer| ActiveProducer {
                id: producer.id,
                epoch: producer.epoch,
                last_sequence: producer.last_sequence,
                last_write_ms: producer.last_write_ms,
            });
            active.collect()
        });
        producers.ok_or(FetchError::UnknownPartition)
    }
}

/// Space of the volume that a directory is on.
pub(crate) fn space_of(dir: &Path) -> io::Result<DiskSpace> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(DiskSpace {
        total_bytes: stat.f_blocks * stat.f_frsize,
        free_bytes: stat.f_bavail * stat.f_frsize,
        free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_no_more_free_than_it_has() {
        let space = space_of(Path::new("/")).expect("the root is there");
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert!(space_of(Path::new("/no/such/directory")).is_err());
    }
}
