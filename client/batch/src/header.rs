//! The 61 bytes in front of a batch's records.
//!
//! Big endian: base offset i64, batch length i32 (of what follows it), partition leader epoch i32, magic i8,
//! CRC-32C u32 (of what follows it), attributes i16, last offset delta i32, base timestamp i64, max timestamp
//! i64, producer id i64, producer epoch i16, base sequence i32, record count i32.
//! Source: Kafka's documentation, "Message format".

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use crate::{BatchError, Codec};

/// Length of the header.
pub const HEADER_BYTES: usize = 61;
/// The batch length counts from here.
pub(crate) const LENGTH_FROM: usize = 12;
/// The CRC covers everything from here.
const CRC_FROM: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// Whose clock a record's timestamp is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    Create,
    /// The broker's.
    LogAppend,
}

/// The batch's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    /// How the records are compressed.
    pub fn codec(self) -> Result<Codec, BatchError> {
        Codec::from_number(self.0 & CODEC_MASK)
    }
    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL != 0
    }
    /// Whether the batch holds markers, not records of a client.
    pub fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }
    /// Whose clock the timestamps are.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & LOG_APPEND != 0 { TimestampType::LogAppend } else { TimestampType::Create }
    }
    /// Whether the base timestamp is the time from which tombstones may be dropped.
    pub fn has_delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON != 0
    }
    pub(crate) fn with_codec(self, codec: Codec) -> Attributes {
        Attributes(self.0 & !CODEC_MASK | codec.number())
    }
    pub(crate) fn with_delete_horizon(self, set: bool) -> Attributes {
        Attributes(if set { self.0 | DELETE_HORIZON } else { self.0 & !DELETE_HORIZON })
    }
}

/// A batch's header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record, at the time of writing.
    pub base_offset: i64,
    /// Bytes behind the length field.
    pub batch_length: i32,
    /// Epoch of the leader that took the batch.
    pub leader_epoch: i32,
    /// Message format: 2.
    pub magic: i8,
    /// CRC-32C of everything behind it.
    pub crc: u32,
    /// Flags.
    pub attributes: Attributes,
    /// Offset of the last record, less the base offset.
    pub last_offset_delta: i32,
    /// Timestamp that the records' deltas count from, in milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// Producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Reads the header of the batch that `bytes` begin with; the batch must be whole.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Truncated { have: bytes.len(), need: HEADER_BYTES });
        }
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(array(bytes, 0)),
            batch_length: i32::from_be_bytes(array(bytes, 8)),
            leader_epoch: i32::from_be_bytes(array(bytes, 12)),
            magic: bytes[16] as i8,
            crc: u32::from_be_bytes(array(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(array(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp: i64::from_be_bytes(array(bytes, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(array(bytes, 43)),
            producer_epoch: i16::from_be_bytes(array(bytes, 51)),
            base_sequence: i32::from_be_bytes(array(bytes, 53)),
            record_count: i32::from_be_bytes(array(bytes, 57)),
        };
        if header.magic != 2 {
            return Err(BatchError::Magic(header.magic));
        }
        if header.batch_length < (HEADER_BYTES - LENGTH_FROM) as i32 {
            return Err(BatchError::Length(header.batch_length));
        }
        if bytes.len() < header.total_bytes() {
            return Err(BatchError::Truncated { have: bytes.len(), need: header.total_bytes() });
        }
        Ok(header)
    }

    pub(crate) fn write(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.to_be_bytes());
        out[16] = self.magic as u8;
        out[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        write_crc(out);
    }

    /// Length of the whole batch in bytes.
    pub fn total_bytes(&self) -> usize {
        LENGTH_FROM + self.batch_length.max(0) as usize
    }
    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }
    /// Offset behind the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }
    /// Sequence of the last record; sequences go from `i32::MAX` on to 0.
    pub fn last_sequence(&self) -> i32 {
        let sum = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        if sum > i64::from(i32::MAX) { (sum - i64::from(i32::MAX) - 1) as i32 } else { sum as i32 }
    }
    /// Whether the batch comes from an idempotent producer.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }
}

fn crc_of(batch: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, &batch[CRC_FROM..]) as u32
}

fn write_crc(batch: &mut [u8]) {
    let crc = crc_of(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Checks the CRC of one whole batch.
pub fn check_crc(batch: &[u8]) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Truncated { have: batch.len(), need: HEADER_BYTES });
    }
    let (stored, computed) = (u32::from_be_bytes(array(batch, 17)), crc_of(batch));
    if stored == computed { Ok(()) } else { Err(BatchError::Crc { stored, computed }) }
}

/// Writes what the leader decides, outside of the CRC. `batch` is one whole batch that was parsed before.
pub fn stamp(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Writes whose batch it is and the sequence of its first record, and makes the CRC right again. `batch` is one
/// whole batch.
pub fn stamp_producer(batch: &mut [u8], id: i64, epoch: i16, base_sequence: i32) {
    batch[43..51].copy_from_slice(&id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.to_be_bytes());
    write_crc(batch);
}

/// Makes the broker's time that of every record, and the CRC right again.
pub fn stamp_log_append_time(batch: &mut [u8], timestamp_ms: i64) {
    let attributes = i16::from_be_bytes(array(batch, 21)) | LOG_APPEND;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
    write_crc(batch);
}

/// Writes the largest timestamp of the batch's records, and makes the CRC right again. `batch` is one whole batch.
pub fn stamp_max_timestamp(batch: &mut [u8], timestamp_ms: i64) {
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
    write_crc(batch);
}

/// The batches of a record set, without a copy. The CRC is not checked.
pub fn split(records: &Bytes) -> BatchIter {
    BatchIter { rest: records.clone() }
}

/// Iterates over the batches of a record set; ends after the first error.
#[derive(Clone, Debug)]
pub struct BatchIter {
    rest: Bytes,
}

impl Iterator for BatchIter {
    type Item = Result<Bytes, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match BatchHeader::parse(&self.rest) {
            Ok(header) => Some(Ok(self.rest.split_to(header.total_bytes()))),
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}
