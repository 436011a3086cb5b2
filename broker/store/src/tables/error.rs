//! Errors, one enum per operation.

use std::{io, path::Path};

use millstream_model::{PartitionId, RaftGroupId};

/// An operation of the operating system failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} cannot be used: {reason}")]
pub struct DiskError {
    /// The file or directory, below the store's directory.
    pub file: String,
    /// The operating system's error.
    pub reason: String,
}

impl DiskError {
    pub(super) fn new(file: &Path, error: &io::Error) -> DiskError {
        DiskError { file: file.display().to_string(), reason: error.to_string() }
    }
}

/// Bytes differ from what was written. Nothing is ever deleted because of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at offset {offset}: {reason}")]
pub struct Damage {
    /// The file, below the store's directory.
    pub file: String,
    /// Bytes from its start.
    pub offset: u64,
    /// What is wrong.
    pub reason: &'static str,
}

impl Damage {
    pub(super) fn new(file: &Path, offset: u64, reason: &'static str) -> Damage {
        Damage { file: file.display().to_string(), offset, reason }
    }
}

/// Why the tables cannot be opened. Nothing was removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be opened or read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A required file is absent.
    #[error("{file} is missing, although other files of the store are there")]
    Missing {
        /// The file.
        file: String,
    },
}

/// Why a part of a partition cannot be read; other partitions can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The read failed.
    #[error("{partition}: {error}")]
    Disk {
        /// The partition.
        partition: PartitionId,
        /// The cause.
        error: DiskError,
    },
    /// The part is damaged.
    #[error("{partition}: {damage}")]
    Damaged {
        /// The partition.
        partition: PartitionId,
        /// Where and what.
        damage: Damage,
    },
}

/// Why a run or a manifest could not be written. The previous one is still present and in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The write failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A batch in memory is invalid and would not read back.
    #[error("{partition}: the batch at offset {offset} is not a record batch")]
    NotABatch {
        /// The partition.
        partition: PartitionId,
        /// The offset of the batch.
        offset: i64,
    },
}

/// Why runs could not be merged. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// An input cannot be read; its run is excluded from merges from now on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The result could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a checkpoint could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The read or write failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is damaged.
    #[error("checkpoint of {group}: {damage}")]
    Damaged {
        /// The group.
        group: RaftGroupId,
        /// Where and what.
        damage: Damage,
    },
    /// The batches that the checkpoint depends on could not be flushed.
    #[error(transparent)]
    Flush(#[from] WriteError),
}
