//! From a batch as it was fetched to its records.

use bytes::Bytes;
use millstream_batch::{BatchHeader, TimestampType, decode_records};

use super::{TopicPartition, fetcher::Fetched};
use crate::ClientError;

/// Most bytes that a batch may expand to.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Records of one partition, in order.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: TopicPartition,
    /// The records; there may be none where compaction left a gap.
    pub records: Vec<ConsumedRecord>,
    /// The offset to go on with.
    pub next_offset: i64,
}

/// The records of one batch; marks of transactions and what is below the position are left out.
pub(super) fn chunk(fetched: &Fetched, batch: &Bytes) -> Result<Chunk, ClientError> {
    let damaged = |source| ClientError::Records {
        topic: fetched.partition.topic.to_string(),
        partition: fetched.partition.partition,
        offset: fetched.from,
        source,
    };
    let header = BatchHeader::parse(batch).map_err(damaged)?;
    let mut records = Vec::new();
    if !header.attributes.is_control() {
        let log_append = header.attributes.timestamp_type() == TimestampType::LogAppend;
        let decoded = decode_records(batch, DECOMPRESSED_BYTES_MAX).map_err(damaged)?;
        for record in decoded.iter() {
            let record = record.map_err(damaged)?;
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset < fetched.from {
                continue;
            }
            let timestamp = header.base_timestamp.saturating_add(record.timestamp_delta);
            records.push(ConsumedRecord {
                offset,
                timestamp_ms: if log_append { header.max_timestamp } else { timestamp },
                key: record.key.map(Bytes::copy_from_slice),
                value: record.value.map(Bytes::copy_from_slice),
                headers: record
                    .headers()
                    .map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v.map(Bytes::copy_from_slice)))
                    .collect(),
            });
        }
    }
    Ok(Chunk { partition: fetched.partition.clone(), records, next_offset: header.next_offset() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::memory::Memory;
    use std::sync::Arc;

    use millstream_batch::{BatchBuilder, Codec, NewRecord};

    #[test]
    fn records_below_the_position_are_left_out() {
        let mut builder = BatchBuilder::new(Codec::Gzip).base_offset(10);
        for n in 0..3 {
            let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"x"))];
            builder.push(NewRecord {
                timestamp_ms: 100 + n,
                key: None,
                value: Some(b"v"),
                headers: &headers,
            });
        }
        let batch = builder.build().expect("a batch");
        let partition = TopicPartition { topic: "a".into(), partition: 0 };
        let bytes = batch.len();
        let _hold = Arc::new(Memory::new(1000, Arc::default()).hold(bytes));
        let fetched =
            Fetched { partition, batches: Vec::new(), from: 11, next: 13, bytes, reading: 1, _hold };
        let chunk = chunk(&fetched, &batch).expect("records");
        assert_eq!(
            chunk.records.iter().map(|r| (r.offset, r.timestamp_ms)).collect::<Vec<_>>(),
            [(11, 101), (12, 102)]
        );
        assert_eq!(chunk.next_offset, 13);
        assert_eq!(chunk.records[0].headers, [("h".to_string(), Some(Bytes::from_static(b"x")))]);
    }
}
