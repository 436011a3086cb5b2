//! Inspection of partitions and of the volume: sizes, offsets, producers, free space.

use std::{io, path::Path};

use super::{FetchError, PartitionView, Service};

/// Space of the volume that the data directory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    /// Bytes available to this process.
    pub free_bytes: u64,
    /// Files that can still be created; `None` where the file system has no limit.
    pub free_inodes: Option<u64>,
}

impl DiskSpace {
    /// Whether no further file can be created; the system then reports a full disk.
    pub(crate) fn lacks_inodes(&self) -> bool {
        self.free_inodes == Some(0)
    }
}

/// An idempotent producer that a partition remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub id: i64,
    pub epoch: i16,
    /// Sequence number of its last record.
    pub last_sequence: i32,
    /// Time of its last write, in milliseconds.
    pub last_write_ms: i64,
}

impl Service {
    pub fn data_dir(&self) -> &Path {
        &self.inner.serve.data_dir
    }

    /// Space of the volume that the data directory is on; `None` when the system does not report it.
    pub fn disk_space(&self) -> Option<DiskSpace> {
        space_of(self.data_dir())
            .inspect_err(|error| tracing::warn!(%error, "cannot read the disk space"))
            .ok()
    }

    /// Bytes of a partition's batches on this node, in memory and in runs.
    pub fn partition_bytes(&self, partition: &PartitionView) -> u64 {
        self.inner.shards.get(&partition.group).map_or(0, |shard| shard.host.partition_bytes(partition.id))
    }

    /// The log start offset and the offset after the last record; `None` when the partition is not on this node.
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
    fn free_space_is_at_most_the_size_of_the_volume() {
        let space = space_of(Path::new("/")).expect("the root exists");
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert!(space_of(Path::new("/no/such/directory")).is_err());
    }
}
