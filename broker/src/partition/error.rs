//! Why a batch was not appended, and with that what its producer may do.

/// Maximum refused records that are listed per batch; more are only counted. librdkafka puts at most 10,000 records into a
/// batch.
const REFUSED_RECORDS_MAX: usize = 10_000;
/// Only the first of them have a reason of their own.
const REASONS_MAX: usize = 100;

/// Why a batch was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    #[error("the partition does not exist")]
    UnknownPartition,
    /// Refresh the metadata and retry.
    #[error("this node does not lead the partition")]
    NotLeader,
    #[error("the topic belongs to the broker; clients cannot write to it")]
    InternalTopic,
    #[error("the batch is larger than the topic's max.message.bytes")]
    MessageTooLarge,
    /// The bytes are not a batch.
    #[error("{0}")]
    Corrupt(String),
    /// The batch as a whole is invalid.
    #[error("{0}")]
    InvalidRecord(String),
    /// The batch is refused because of some of its records.
    #[error("{0}")]
    RefusedRecords(Box<RefusedRecords>),
    /// Magic 0 or 1.
    #[error("message formats 0 and 1 are not supported; use a client that writes format 2")]
    UnsupportedFormat,
    /// The timestamp is too old or too far in the future.
    #[error("{0}")]
    InvalidTimestamp(String),
    /// A batch is missing before this one.
    #[error("the batch's sequence does not follow the producer's last one")]
    OutOfOrderSequence,
    /// A newer incarnation of the producer has written.
    #[error("the producer's epoch is older than the newest")]
    InvalidProducerEpoch,
    /// An older batch than the last five.
    #[error("the batch was appended before, too long ago to know its offset")]
    DuplicateSequence,
    /// Retry later: the disk is full.
    #[error("the disk is full; produce again when there is room")]
    StorageFull,
    /// Retry later: the log waits for space or for an inode.
    #[error("the volume has no space or no inode for the log's next file; produce again when it has")]
    LogWaits,
    #[error("acks is -1, 0 or 1")]
    InvalidAcks,
    /// Transactions are refused.
    #[error("{0}")]
    TransactionalUnsupported(String),
    /// The outcome is unknown.
    #[error("the request took too long; the batch may yet be appended")]
    Timeout,
    /// Retry later.
    #[error("the partition cannot take the batch now")]
    Unavailable,
}

/// The records because of which a batch is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedRecords {
    /// The first of them, by index.
    pub listed: Vec<RefusedRecord>,
    /// Number of all of them.
    pub total: usize,
    /// Number of those refused for their timestamp.
    pub timestamps: usize,
}

/// A record because of which a batch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Index in the batch.
    pub index: i32,
    /// `None` for records after the first [`REASONS_MAX`].
    pub reason: Option<String>,
}

impl RefusedRecords {
    /// Adds a record. The reason is formatted only where it is kept: a batch may have millions of bad records.
    pub(crate) fn add(&mut self, index: i32, reason: &dyn std::fmt::Display) {
        self.total += 1;
        if self.listed.len() < REFUSED_RECORDS_MAX {
            let reason = (self.listed.len() < REASONS_MAX).then(|| reason.to_string());
            self.listed.push(RefusedRecord { index, reason });
        }
    }
}

impl std::fmt::Display for RefusedRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.total {
            1 => write!(f, "a record is refused, and with it its batch")?,
            total => write!(f, "{total} records are refused, and with them their batch")?,
        }
        match self.listed.first() {
            Some(RefusedRecord { index, reason: Some(reason) }) => write!(f, "; record {index}: {reason}"),
            _ => Ok(()),
        }
    }
}
