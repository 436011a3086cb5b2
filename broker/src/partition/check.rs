//! What a batch from a client must be before it is stored. Records are looked at only where the topic needs it.

use bytes::Bytes;
use millstream_model::batch::{
    BatchError, BatchHeader, HEADER_BYTES, TimestampType, check_crc, decode_records,
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

/// What a batch is checked against.
#[derive(Clone, Copy, Debug)]
pub struct CheckRules<'a> {
    /// The topic's configuration.
    pub topic: &'a TopicConfig,
    /// The broker's clock.
    pub now_ms: i64,
    /// Most bytes that a batch may expand to where its records are looked at.
    pub decompressed_bytes_max: usize,
}

/// Checks the record set of one partition of a produce request: exactly one batch, whole and true.
pub fn check_batch(records: &Bytes, rules: CheckRules<'_>) -> Result<CheckedBatch, ProduceError> {
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
    if rules.topic.compact || header.record_count == 0 {
        check_keys(records, &rules)?;
    }
    let log_append_ms = (rules.topic.timestamp_type == TimestampType::LogAppend).then_some(rules.now_ms);
    Ok(CheckedBatch { bytes: records.clone(), header, log_append_ms })
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

fn check_keys(batch: &[u8], rules: &CheckRules<'_>) -> Result<(), ProduceError> {
    let records = decode_records(batch, rules.decompressed_bytes_max).map_err(refusal)?;
    for record in records.iter() {
        let record = record.map_err(refusal)?;
        if record.key.is_none() {
            return Err(ProduceError::InvalidRecord(
                "a compacted topic takes only records with a key".into(),
            ));
        }
    }
    Ok(())
}
