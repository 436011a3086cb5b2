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

/// A batch whose records the topic cannot take unseen: it wants their keys, their times, or another codec.
#[derive(Clone, Debug)]
pub struct ClosedBatch {
    batch: CheckedBatch,
    topic: Arc<TopicConfig>,
    now_ms: i64,
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
    if rules.topic.compact
        || wanted_codec(&header, rules.topic).is_some()
        || wants_times(&header, rules.topic)
    {
        let (topic, now_ms) = (rules.topic.clone(), rules.now_ms);
        return Ok(Checked::Closed(ClosedBatch { batch, topic, now_ms }));
    }
    Ok(Checked::Ready(batch))
}

/// The codec that the topic brings the batch to, unless it has that already.
fn wanted_codec(header: &BatchHeader, topic: &TopicConfig) -> Option<Codec> {
    let wanted = topic.compression?.codec;
    (header.attributes.codec() != Ok(wanted)).then_some(wanted)
}

/// Whether the header does not tell that no record is too old: it has the first record's time and the largest.
fn wants_times(header: &BatchHeader, topic: &TopicConfig) -> bool {
    topic.timestamp_type == TimestampType::Create
        && topic.timestamp_before_max_ms < i64::MAX
        && header.record_count > 1
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
        self.check_records(&records)?;
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

    fn check_records(&self, records: &DecompressedBatch<'_>) -> Result<(), OpenError> {
        let refused = |error| Err(OpenError::Refused(error));
        let by_client = self.topic.timestamp_type == TimestampType::Create;
        for (index, record) in records.iter().enumerate() {
            let record = record.map_err(open_error)?;
            if record.offset_delta as i64 != index as i64 {
                let found = record.offset_delta;
                return refused(ProduceError::InvalidRecord(format!(
                    "record {index} has the offset delta {found}"
                )));
            }
            if self.topic.compact && record.key.is_none() {
                let reason = "a compacted topic takes only records with a key";
                return refused(ProduceError::InvalidRecord(reason.into()));
            }
            if by_client {
                let time = self.batch.header.base_timestamp.saturating_add(record.timestamp_delta);
                check_time(time, &self.topic, self.now_ms).map_err(OpenError::Refused)?;
            }
        }
        Ok(())
    }
}

fn open_error(error: BatchError) -> OpenError {
    match error {
        BatchError::TooLarge { .. } => OpenError::TooLarge,
        // The CRC is right, so this is what the client wrote: it would be no better if it were sent again.
        other => OpenError::Refused(ProduceError::InvalidRecord(other.to_string())),
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
    check_time(header.max_timestamp, rules.topic, rules.now_ms)?;
    check_time(header.base_timestamp, rules.topic, rules.now_ms)
}

/// Whether a time is near enough to the broker's; negative ones are none.
fn check_time(time: i64, topic: &TopicConfig, now_ms: i64) -> Result<(), ProduceError> {
    let (ahead, behind) = (time.saturating_sub(now_ms), now_ms.saturating_sub(time));
    if time >= 0 && ahead > topic.timestamp_after_max_ms {
        return Err(ProduceError::InvalidTimestamp(format!(
            "timestamp {time} is {ahead} ms ahead of the broker; message.timestamp.after.max.ms is {}",
            topic.timestamp_after_max_ms
        )));
    }
    if time >= 0 && behind > topic.timestamp_before_max_ms {
        return Err(ProduceError::InvalidTimestamp(format!(
            "timestamp {time} is {behind} ms behind the broker; message.timestamp.before.max.ms is {}",
            topic.timestamp_before_max_ms
        )));
    }
    Ok(())
}
