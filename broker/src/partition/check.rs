//! Checks a batch from a client before it is stored.
//!
//! The records of each batch are read once, before it is stored: what a consumer could not read is refused, and the
//! largest timestamp in the header is set to that of the records. All later code relies on both.

use std::sync::Arc;

use bytes::Bytes;
use millstream_model::batch::{
    BatchError, BatchHeader, Codec, DecompressedBatch, HEADER_BYTES, OFFSET_DELTA, Payload, RecordSummary,
    StreamLimits, TimestampType, check_crc, check_portable, decode_records, recompress,
};

use super::error::{ProduceError, RefusedRecords};
use crate::config::TopicConfig;

/// A batch that passed [`check_batch`].
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    /// The batch as it was sent.
    pub bytes: Bytes,
    /// Its header, with the largest timestamp of its records.
    pub header: BatchHeader,
    /// Time to stamp on its records: `None` keeps the producer's.
    pub log_append_ms: Option<i64>,
    /// The largest timestamp, where the header in `bytes` has another.
    pub max_timestamp: Option<i64>,
}

/// The result of [`check_batch`] for a batch that it did not refuse.
#[derive(Clone, Debug)]
pub enum Checked {
    /// It can be stored.
    Ready(CheckedBatch),
    /// It is compressed, or must be recompressed: its records are checked separately, since that can take long.
    Deferred(DeferredCheck),
}

/// The check of a batch that is compressed or must be recompressed.
#[derive(Clone, Debug)]
pub struct DeferredCheck {
    batch: CheckedBatch,
    topic: Arc<TopicConfig>,
    now_ms: i64,
}

/// Why a deferred check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// Its records have more bytes than the caller allowed.
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The batch is refused.
    Refused(ProduceError),
}

/// The rules for a batch.
#[derive(Clone, Copy, Debug)]
pub struct CheckRules<'a> {
    /// The topic's configuration.
    pub topic: &'a Arc<TopicConfig>,
    /// The broker's clock.
    pub now_ms: i64,
}

/// Checks the record set of one partition of a produce request: exactly one batch, complete and correct. Takes about as
/// long as reading each byte once.
pub fn check_batch(records: &Bytes, rules: CheckRules<'_>) -> Result<Checked, ProduceError> {
    // Old formats have the magic at the same offset and are refused by name.
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
    let log_append_ms = (rules.topic.timestamp_type == TimestampType::LogAppend).then_some(rules.now_ms);
    let mut batch = CheckedBatch { bytes: records.clone(), header, log_append_ms, max_timestamp: None };
    if header.attributes.codec() == Ok(Codec::None) && wanted_codec(&header, rules.topic).is_none() {
        let payload = Payload::uncompressed(&records[HEADER_BYTES..]);
        batch.check_records(payload.summarize(&header), payload, rules.topic, rules.now_ms)?;
        return Ok(Checked::Ready(batch));
    }
    Ok(Checked::Deferred(DeferredCheck { batch, topic: rules.topic.clone(), now_ms: rules.now_ms }))
}

/// The codec that the topic requires, unless the batch has it already.
fn wanted_codec(header: &BatchHeader, topic: &TopicConfig) -> Option<Codec> {
    let wanted = topic.compression?.codec;
    (header.attributes.codec() != Ok(wanted)).then_some(wanted)
}

impl DeferredCheck {
    /// Length of the batch as it was sent.
    pub fn sent_bytes(&self) -> usize {
        self.batch.bytes.len()
    }

    /// Checks every record, and recompresses them if the topic requires another codec.
    ///
    /// Records that keep their codec are decompressed piece by piece. For another codec they are decompressed completely,
    /// and may then have no more bytes than `limits` allows in memory; so may those of a compacted topic, since compaction
    /// decompresses them completely.
    pub fn run(&self, mut limits: StreamLimits) -> Result<CheckedBatch, CheckError> {
        if self.topic.compact {
            limits.payload_bytes_max = limits.payload_bytes_max.min(limits.memory_bytes_max);
        }
        match wanted_codec(&self.batch.header, &self.topic) {
            Some(codec) => self.recompress(codec, limits.memory_bytes_max.min(limits.payload_bytes_max)),
            None => {
                let codec = self.batch.header.attributes.codec().map_err(check_error)?;
                self.check(Payload::new(codec, &self.batch.bytes[HEADER_BYTES..], limits))
            }
        }
    }

    fn check(&self, payload: Payload<'_>) -> Result<CheckedBatch, CheckError> {
        let found = match payload.summarize(&self.batch.header) {
            Err(error @ (BatchError::TooLarge { .. } | BatchError::Decompress { .. })) => {
                return Err(check_error(error));
            }
            found => found,
        };
        let mut checked = self.batch.clone();
        let done = checked.check_records(found, payload, &self.topic, self.now_ms);
        done.map_err(CheckError::Refused).map(|()| checked)
    }

    fn recompress(&self, codec: Codec, bytes_max: usize) -> Result<CheckedBatch, CheckError> {
        let sent_codec = self.batch.header.attributes.codec().map_err(check_error)?;
        check_portable(sent_codec, &self.batch.bytes[HEADER_BYTES..]).map_err(check_error)?;
        let records = decode_records(&self.batch.bytes, bytes_max).map_err(check_error)?;
        if records.payload_bytes() > bytes_max {
            return Err(CheckError::TooLarge { bytes_max });
        }
        let checked = self.check(Payload::uncompressed(records.payload()))?;
        self.compress(checked, &records, codec).map_err(CheckError::Refused)
    }

    fn compress(
        &self,
        batch: CheckedBatch,
        records: &DecompressedBatch<'_>,
        codec: Codec,
    ) -> Result<CheckedBatch, ProduceError> {
        if codec == Codec::None && HEADER_BYTES + records.payload_bytes() > self.topic.max_message_bytes {
            return Err(ProduceError::MessageTooLarge);
        }
        let level = self.topic.compression.and_then(|compression| compression.level);
        // This can fail only for lack of memory or because the length does not fit into the header.
        let bytes = recompress(&batch.header, records, codec, level);
        let bytes = bytes.map_err(|_| ProduceError::MessageTooLarge)?;
        if bytes.len() > self.topic.max_message_bytes {
            return Err(ProduceError::MessageTooLarge);
        }
        let header = BatchHeader::parse(&bytes).map_err(refusal)?;
        // The new batch has the largest timestamp of `batch.header`.
        Ok(CheckedBatch { bytes, header, max_timestamp: None, ..batch })
    }
}

impl CheckedBatch {
    /// Checks the summary of the records, and sets the header's largest timestamp to theirs. Reads the payload again to
    /// list the records for which the batch is refused.
    fn check_records(
        &mut self,
        found: Result<RecordSummary, BatchError>,
        payload: Payload<'_>,
        topic: &TopicConfig,
        now_ms: i64,
    ) -> Result<(), ProduceError> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                return Err(refused(payload, &self.header, topic, now_ms).unwrap_or_else(|| invalid(&error)));
            }
        };
        let is_wrong = |time| check_time(time, topic, now_ms).is_err();
        // If a record has no timestamp, the minimum hides those that are too old.
        let may_hide = found.min_timestamp < 0 && topic.timestamp_before_max_ms < i64::MAX;
        let suspicious = (topic.compact && found.keyless > 0)
            || may_hide
            || is_wrong(found.min_timestamp)
            || is_wrong(found.max_timestamp);
        if suspicious && let Some(error) = refused(payload, &self.header, topic, now_ms) {
            return Err(error);
        }
        if self.log_append_ms.is_none() && found.max_timestamp != self.header.max_timestamp {
            self.header.max_timestamp = found.max_timestamp;
            self.max_timestamp = Some(found.max_timestamp);
        }
        Ok(())
    }
}

/// Why one record is refused.
#[derive(Debug, thiserror::Error)]
enum RecordFault {
    #[error(transparent)]
    Malformed(#[from] BatchError),
    #[error("a compacted topic takes only records with a key")]
    NoKey,
    #[error(transparent)]
    Timestamp(#[from] TimestampFault),
}

/// A producer's time that is too far from the broker's.
#[derive(Debug, thiserror::Error)]
enum TimestampFault {
    #[error("timestamp {time} is {by} ms ahead of the broker; message.timestamp.after.max.ms is {max}")]
    Ahead { time: i64, by: i64, max: i64 },
    #[error("timestamp {time} is {by} ms behind the broker; message.timestamp.before.max.ms is {max}")]
    Behind { time: i64, by: i64, max: i64 },
}

/// The records for which a batch is refused, if there are any.
fn refused(
    payload: Payload<'_>,
    header: &BatchHeader,
    topic: &TopicConfig,
    now_ms: i64,
) -> Option<ProduceError> {
    let mut refused = RefusedRecords::default();
    for (index, record) in (0..).zip(payload.heads(header.record_count)) {
        let checked = match record {
            Err(error @ BatchError::Record { .. }) => Err(error.into()),
            // The batch as a whole is wrong, not one record.
            Err(error) => return Some(invalid(&error)),
            Ok(record) if record.offset_delta != index => {
                Err(BatchError::Record { index: index as usize, what: OFFSET_DELTA }.into())
            }
            Ok(record) if topic.compact && !record.has_key => Err(RecordFault::NoKey),
            Ok(record) => {
                let time = header.base_timestamp.saturating_add(record.timestamp_delta);
                check_time(time, topic, now_ms).map_err(RecordFault::from)
            }
        };
        if let Err(fault) = checked {
            refused.timestamps += usize::from(matches!(fault, RecordFault::Timestamp(_)));
            refused.add(index, &fault);
        }
    }
    (refused.total > 0).then(|| ProduceError::RefusedRecords(Box::new(refused)))
}

/// Checks that a producer's timestamp is close enough to the broker's clock; a negative one means that there is none.
fn check_time(time: i64, topic: &TopicConfig, now_ms: i64) -> Result<(), TimestampFault> {
    if topic.timestamp_type == TimestampType::LogAppend || time < 0 {
        return Ok(());
    }
    let (ahead, behind) = (time.saturating_sub(now_ms), now_ms.saturating_sub(time));
    if ahead > topic.timestamp_after_max_ms {
        return Err(TimestampFault::Ahead { time, by: ahead, max: topic.timestamp_after_max_ms });
    }
    if behind > topic.timestamp_before_max_ms {
        return Err(TimestampFault::Behind { time, by: behind, max: topic.timestamp_before_max_ms });
    }
    Ok(())
}

fn invalid(error: &BatchError) -> ProduceError {
    ProduceError::InvalidRecord(error.to_string())
}

fn check_error(error: BatchError) -> CheckError {
    match error {
        BatchError::TooLarge { bytes_max } => CheckError::TooLarge { bytes_max },
        // The CRC is right, so this is what the client wrote, and sending it again makes it no better: not the code of
        // corrupt bytes, after which clients do that.
        other => CheckError::Refused(invalid(&other)),
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
    if header.attributes.timestamp_type() == TimestampType::LogAppend {
        return Err(ProduceError::InvalidTimestamp(
            "the batch's timestamp type is LogAppendTime, which only brokers may set".into(),
        ));
    }
    if header.base_offset != 0 {
        return invalid(format!(
            "a batch's base offset is 0 before it is stored, not {}",
            header.base_offset
        ));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_model::batch::{BatchBuilder, NewRecord, stamp_max_timestamp};
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    const NOW_MS: i64 = 1_000_000_000;
    const LIMITS: StreamLimits = StreamLimits { memory_bytes_max: 1 << 20, payload_bytes_max: 1 << 22 };

    fn topic(set: &[(&str, &str)]) -> Arc<TopicConfig> {
        let set: BTreeMap<_, _> =
            set.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Arc::new(TopicConfig::from_values(&set))
    }

    fn check(batch: &Bytes, topic: &Arc<TopicConfig>) -> Result<CheckedBatch, ProduceError> {
        match check_batch(batch, CheckRules { topic, now_ms: NOW_MS })? {
            Checked::Ready(batch) => Ok(batch),
            Checked::Deferred(batch) => batch.run(LIMITS).map_err(|error| match error {
                CheckError::Refused(error) => error,
                CheckError::TooLarge { .. } => ProduceError::MessageTooLarge,
            }),
        }
    }

    fn batch(codec: Codec, times: &[i64]) -> Vec<u8> {
        let mut batch = BatchBuilder::new(codec);
        for &timestamp_ms in times {
            let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"1"))];
            let headers = if timestamp_ms % 2 == 0 { &headers[..] } else { &[] };
            batch.push(NewRecord { timestamp_ms, key: Some(b"k"), value: Some(b"some value"), headers });
        }
        batch.build().expect("a batch").to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Consumers rely on this: an accepted batch can be decoded to its end, and its header is correct.
        #[test]
        fn what_is_accepted_can_be_read_and_its_header_is_true(
            times in prop::collection::vec(-1..NOW_MS, 1..20),
            max in prop::option::of(any::<i64>()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in 0..4usize,
        ) {
            let topic = topic(&[]);
            for codec in CODECS {
                let mut sent = batch(codec, &times);
                for (at, byte) in &changes {
                    let at = 21 + at.index(sent.len() - 21);
                    sent[at] = *byte;
                }
                if changes.len() == 2 {
                    sent.truncate(sent.len() - cut);
                    let length = sent.len() as i32 - 12;
                    sent[8..12].copy_from_slice(&length.to_be_bytes());
                }
                // Writes the CRC too.
                let header_max = i64::from_be_bytes(sent[35..43].try_into().expect("8 bytes"));
                stamp_max_timestamp(&mut sent, max.unwrap_or(header_max));
                let Ok(accepted) = check(&sent.clone().into(), &topic) else {
                    prop_assert!(!changes.is_empty(), "{codec:?}: a good batch is refused");
                    continue;
                };
                let records = decode_records(&sent, 1 << 20).expect("accepted");
                let mut largest = -1;
                for (index, record) in (0..).zip(records.iter()) {
                    let record = record.expect("accepted");
                    prop_assert_eq!(record.offset_delta, index);
                    record.headers().for_each(drop);
                    largest = largest.max(accepted.header.base_timestamp + record.timestamp_delta);
                }
                prop_assert_eq!(records.iter().count() as i32, accepted.header.record_count);
                prop_assert_eq!(accepted.header.max_timestamp, largest);
                let stored = accepted.max_timestamp.unwrap_or(BatchHeader::parse(&sent).expect("a header").max_timestamp);
                prop_assert_eq!(stored, largest);
            }
        }
    }

    #[test]
    fn a_record_that_is_too_old_is_found_behind_one_without_a_time() {
        let topic = topic(&[("message.timestamp.before.max.ms", "1000")]);
        for codec in CODECS {
            let refused = check(&batch(codec, &[-1, NOW_MS - 5000, NOW_MS]).into(), &topic);
            let Err(ProduceError::RefusedRecords(refused)) = refused else {
                panic!("{codec:?}: {refused:?}")
            };
            let indexes: Vec<_> = refused.listed.iter().map(|record| record.index).collect();
            assert_eq!((indexes, refused.timestamps), (vec![1], 1), "{codec:?}");
            assert!(check(&batch(codec, &[-1, NOW_MS]).into(), &topic).is_ok(), "{codec:?}");
        }
    }

    #[test]
    fn the_list_of_refused_records_is_bounded_and_their_number_is_not() {
        let topic = topic(&[("cleanup.policy", "compact")]);
        let mut many = BatchBuilder::new(Codec::None);
        (0..12_000).for_each(|_| many.push(NewRecord { timestamp_ms: 1, ..NewRecord::default() }));
        let refused = check(&many.build().expect("a batch"), &topic);
        let Err(ProduceError::RefusedRecords(refused)) = refused else { panic!("{refused:?}") };
        assert_eq!((refused.listed.len(), refused.total), (10_000, 12_000));
        assert_eq!(refused.listed.iter().filter(|record| record.reason.is_some()).count(), 100);
    }
}
