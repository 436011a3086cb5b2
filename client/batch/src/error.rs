//! What can be wrong with a batch.

/// Why bytes are not a batch, or not one that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch says.
    #[error("the batch ends after {have} of {need} bytes")]
    Truncated {
        /// Bytes that there are.
        have: usize,
        /// Bytes that there should be.
        need: usize,
    },
    /// Another message format.
    #[error("message format {0} is not supported, only 2")]
    Magic(i8),
    /// A length that cannot be.
    #[error("the batch's length {0} is impossible")]
    Length(i32),
    /// The bytes are not those that the CRC was computed of.
    #[error("the batch's CRC is {stored:08x}, its bytes have {computed:08x}")]
    Crc {
        /// CRC in the header.
        stored: u32,
        /// CRC of the bytes.
        computed: u32,
    },
    /// A record is not what it says.
    #[error("record {index} is malformed: {what}")]
    Record {
        /// Number of the record in the batch.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The batch has another number of records than its header says.
    #[error("the header counts {declared} records, the batch has {found}")]
    RecordCount {
        /// Number in the header.
        declared: i32,
        /// Number that was found.
        found: usize,
    },
    /// A record's timestamp delta leads beyond every time.
    #[error("a timestamp delta is too large for the batch's base timestamp")]
    TimestampRange,
    /// No such compression.
    #[error("compression codec {0} does not exist")]
    Codec(i16),
    /// The compressed bytes cannot be read.
    #[error("the batch cannot be decompressed with {codec}: {reason}")]
    Decompress {
        /// The codec.
        codec: &'static str,
        /// What it says.
        reason: String,
    },
    /// More than the caller takes.
    #[error("the batch is larger than {bytes_max} bytes when decompressed")]
    TooLarge {
        /// Most bytes that are taken.
        bytes_max: usize,
    },
}
