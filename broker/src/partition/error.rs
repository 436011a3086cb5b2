//! Why a batch was not appended, and with that what its producer may do.

/// Refused records of one batch that are listed; further ones are only counted. librdkafka puts at most 10,000 records
/// into a batch.
const REFUSED_RECORDS_MAX: usize = 10_000;
/// The first of these have a reason of their own.
const REASONS_MAX: usize = 100;

/// Why a batch was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// No such partition.
    #[error("the partition does not exist")]
    UnknownPartition,
    /// Ask for the metadata again and retry.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// The topic is one of the broker's own.
    #[error("the topic belongs to the broker; clients cannot write to it")]
    InternalTopic,
    /// Larger than `max.message.bytes`.
    #[error("the batch is larger than the topic's max.message.bytes")]
    MessageTooLarge,
    /// The bytes are not a batch.
    #[error("{0}")]
    Corrupt(String),
    /// A whole batch that is not allowed.
    #[error("{0}")]
    InvalidRecord(String),
    /// A whole batch, for some of its records.
    #[error("{0}")]
    RefusedRecords(Box<RefusedRecords>),
    /// Magic 0 or 1.
    #[error("message formats 0 and 1 are not supported; use a client that writes format 2")]
    UnsupportedFormat,
    /// Too old or too new.
    #[error("{0}")]
    InvalidTimestamp(String),
    /// A batch is missing before this one.
    #[error("the batch's sequence does not follow the producer's last one")]
    OutOfOrderSequence,
    /// A newer incarnation of the producer has written.
    #[error("the producer's epoch is older than the newest")]
    InvalidProducerEpoch,
    /// An older batch than the last five.
    #[error("the batch was appended before and is too old to tell where")]
    DuplicateSequence,
    /// Retry later: the disk is full.
    #[error("the disk is full; produce again when there is room")]
    StorageFull,
    /// Not an acknowledgement that there is.
    #[error("acks is -1, 0 or 1")]
    InvalidAcks,
    /// Transactions are refused.
    #[error("{0}")]
    TransactionalUnsupported(String),
    /// It may yet be appended.
    #[error("the request took too long; the batch may yet be appended")]
    Timeout,
    /// Retry.
    #[error("the partition cannot take the batch now")]
    Unavailable,
}

/// Records for which a whole batch is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedRecords {
    /// The first of them, in order.
    pub listed: Vec<RefusedRecord>,
    /// All of them.
    pub total: usize,
    /// Those of them whose timestamp is the reason.
    pub timestamps: usize,
}

/// A record for which a whole batch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its number in the batch.
    pub index: i32,
    /// What is wrong with it, if it is one of the first.
    pub reason: Option<String>,
}

impl RefusedRecords {
    /// Adds a record. The reason is put into words only where it is kept: a batch may have millions of bad records.
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
