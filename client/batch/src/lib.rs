//! Kafka's record batch (magic 2): header view, stamping, records, compression.
//!
//! The broker keeps batches as they were sent and changes only what lies outside of their CRC; so most of this
//! crate looks, checks and stamps in place. Records are decoded only where someone must see them.

mod builder;
mod compression;
mod decompressor;
mod error;
mod header;
mod heads;
mod lz4;
mod payload;
mod records;
mod summary;

pub use builder::{BatchBuilder, NewRecord, empty_batch, rebuild, rebuild_with_horizon, recompress};
pub use compression::{Codec, check_portable, compress, decompress};
pub use decompressor::StreamLimits;
pub use error::BatchError;
pub use header::{
    Attributes, BatchHeader, BatchIter, HEADER_BYTES, TimestampType, check_crc, split, stamp,
    stamp_log_append_time, stamp_max_timestamp, stamp_producer,
};
pub use heads::RecordHead;
pub use payload::Payload;
pub use records::{DecompressedBatch, HeaderIter, Record, RecordIter, decode_records, validate_records};
pub use summary::{OFFSET_DELTA, RecordSummary, summarize_records};
