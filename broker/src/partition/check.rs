//! What a batch from a client must be before it is stored. Records are looked at only where the topic needs it.

use std::sync::Arc;

use bytes::Bytes;
use millstream_model::batch::{
    BatchError, BatchHeader, Codec, DecompressedBatch, HEADER_BYTES, TimestampType, check_crc,
    decode_records, recompress,
};

use crate::{config::TopicConfig, service::ProduceError};

/// A batch that passed [`check_batch`].
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    /// The batch as it was sent.
    pub bytes: Bytes,
    /// Its header.
    pub header: BatchHeader,
    /// Time to stamp on its records: `None` keeps the producer's.
    pub log_append_ms: Option<i64>,
}

/// What became of a batch that [`check_batch`] let pass.
#[derive(Clone, Debug)]
pub enum Checked {
    /// It can be stored as it was sent.
    Ready(CheckedBatch),
    /// Its records must be looked at first.
    Closed(ClosedBatch),
}

/// A batch whose records the topic cannot take unseen: it wants their keys, or another codec.
#[derive(Clone, Debug)]
pub struct ClosedBatch {
    batch: CheckedBatch,
    topic: Arc<TopicConfig>,
}

/// Why a closed batch could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It has more bytes of records than the caller allowed.
    TooLarge,
    /// It may not be stored.
    Refused(ProduceError),
}

/// What a batch is checked against.
#[derive(Clone, Copy, Debug)]
pub struct CheckRules<'a> {
    /// The topic's configuration.
    pub topic: &'a Arc<TopicConfig>,
    /// The broker's clock.
    pub now_ms: i64,
}

/// Checks the record set of one partition of a produce request: exactly one batch, whole and true. Takes no longer than
/// a look at each byte.
pub fn check_batch(records: &Bytes, rules: CheckRules<'_>) -> Result<Checked, ProduceError> {
    // Old formats have the magic at the same place and are refused by name.
    let magic =
        *records.get(16).ok_or_else(|| ProduceError::Corrupt("the record set has no batch".into()))?;
    if magic < 2 {
        return Err(ProduceError::UnsupportedFormat);
    }
    let header = BatchHeader::parse(records).map_err(refusal)?;
    if header.total_bytes() > rules.topic.max_message_bytes {
        return Err(ProduceError::MessageTooLarge);
    }
    if records.len() > header.total_bytes() {
        return Err(ProduceError::InvalidRecord("a partition takes exactly one batch in a request".into()));
    }
    check_crc(records).map_err(refusal)?;
    check_header(&header)?;
    check_times(&header, &rules)?;
    let log_append_ms = (rules.topic.timestamp_type == TimestampType::LogAppend).then_some(rules.now_ms);
    let batch = CheckedBatch { bytes: records.clone(), header, log_append_ms };
    if rules.topic.compact || wanted_codec(&header, rules.topic).is_some() {
        return Ok(Checked::Closed(ClosedBatch { batch, topic: rules.topic.clone() }));
    }
    Ok(Checked::Ready(batch))
}

/// The codec that the topic brings the batch to, unless it has that already.
fn wanted_codec(header: &BatchHeader, topic: &TopicConfig) -> Option<Codec> {
    let wanted = topic.compression?.codec;
    (header.attributes.codec() != Ok(wanted)).then_some(wanted)
}

impl ClosedBatch {
    /// Length of the batch as it was sent.
    pub fn sent_bytes(&self) -> usize {
        self.batch.bytes.len()
    }

    /// Looks at every record, and compresses them anew where the topic says so. Never holds more than `bytes_max` of
    /// them, whatever the batch declares.
    pub fn open(&self, bytes_max: usize) -> Result<CheckedBatch, OpenError> {
        let records = decode_records(&self.batch.bytes, bytes_max).map_err(open_error)?;
        if records.payload_bytes() > bytes_max {
            return Err(OpenError::TooLarge);
        }
        check_records(&records, self.topic.compact)?;
        let Some(codec) = wanted_codec(&self.batch.header, &self.topic) else {
            return Ok(self.batch.clone());
        };
        if codec == Codec::None && HEADER_BYTES + records.payload_bytes() > self.topic.max_message_bytes {
            return Err(OpenError::Refused(ProduceError::MessageTooLarge));
        }
        let level = self.topic.compression.and_then(|compression| compression.level);
        // Memory is all that can fail here, and a length that the header has no room for.
        let bytes = recompress(&self.batch.header, &records, codec, level)
            .map_err(|_| OpenError::Refused(ProduceError::MessageTooLarge))?;
        if bytes.len() > self.topic.max_message_bytes {
            return Err(OpenError::Refused(ProduceError::MessageTooLarge));
        }
        let header = BatchHeader::parse(&bytes).map_err(open_error)?;
        Ok(CheckedBatch { bytes, header, ..self.batch })
    }
}

fn open_error(error: BatchError) -> OpenError {
    match error {
        BatchError::TooLarge { .. } => OpenError::TooLarge,
        // The CRC is right, so this is what the client wrote.
        BatchError::Record { .. } | BatchError::RecordCount { .. } => {
            OpenError::Refused(ProduceError::InvalidRecord(error.to_string()))
        }
        other => OpenError::Refused(refusal(other)),
    }
}

fn refusal(error: BatchError) -> ProduceError {
    match error {
        BatchError::Magic(_) => ProduceError::UnsupportedFormat,
        other => ProduceError::Corrupt(other.to_string()),
    }
}

fn check_header(header: &BatchHeader) -> Result<(), ProduceError> {
    let invalid = |what: String| Err(ProduceError::InvalidRecord(what));
    if header.attributes.is_control() {
        return invalid("clients may not write control batches".into());
    }
    if header.record_count <= 0 {
        return invalid(format!("a batch has at least one record, not {}", header.record_count));
    }
    if header.last_offset_delta != header.record_count - 1 {
        return invalid(format!(
            "{} records cannot end at offset delta {}",
            header.record_count, header.last_offset_delta
        ));
    }
    // Each record takes at least 7 bytes uncompressed; a compressed one may take less than a byte.
    let payload = header.total_bytes().saturating_sub(HEADER_BYTES);
    let uncompressed =
        header.attributes.codec().is_ok_and(|codec| codec == millstream_model::batch::Codec::None);
    if payload == 0 || (uncompressed && payload / 7 < header.record_count as usize) {
        return invalid(format!("{} records do not fit into {payload} bytes", header.record_count));
    }
    if header.attributes.codec().is_err() {
        return invalid("the batch names a compression codec that does not exist".into());
    }
    if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return invalid("an idempotent batch needs a producer epoch and a sequence".into());
    }
    Ok(())
}

fn check_times(header: &BatchHeader, rules: &CheckRules<'_>) -> Result<(), ProduceError> {
    if rules.topic.timestamp_type == TimestampType::LogAppend {
        return Ok(());
    }
    let newest = header.max_timestamp.saturating_sub(rules.now_ms);
    let oldest = rules.now_ms.saturating_sub(header.base_timestamp.min(header.max_timestamp));
    if header.max_timestamp >= 0 && newest > rules.topic.timestamp_after_max_ms {
        return Err(ProduceError::InvalidTimestamp(format!(
            "timestamp {} is {newest} ms ahead of the broker; message.timestamp.after.max.ms is {}",
            header.max_timestamp, rules.topic.timestamp_after_max_ms
        )));
    }
    if header.base_timestamp >= 0 && oldest > rules.topic.timestamp_before_max_ms {
        return Err(ProduceError::InvalidTimestamp(format!(
            "timestamp {} is {oldest} ms behind the broker; message.timestamp.before.max.ms is {}",
            header.base_timestamp, rules.topic.timestamp_before_max_ms
        )));
    }
    Ok(())
}

fn check_records(records: &DecompressedBatch<'_>, keyed: bool) -> Result<(), OpenError> {
    let invalid = |what: String| Err(OpenError::Refused(ProduceError::InvalidRecord(what)));
    for (index, record) in records.iter().enumerate() {
        let record = record.map_err(open_error)?;
        if record.offset_delta as i64 != index as i64 {
            return invalid(format!(
                "record {index} of the batch has the offset delta {}",
                record.offset_delta
            ));
        }
        if keyed && record.key.is_none() {
            return invalid("a compacted topic takes only records with a key".into());
        }
    }
    Ok(())
}
