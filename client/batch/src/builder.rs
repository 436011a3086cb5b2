//! Makes batches: of new records, or of some of the records of another batch.

use std::io;

use bytes::Bytes;

use crate::{
    Attributes, BatchHeader, Codec, DecompressedBatch, HEADER_BYTES, Record, TimestampType, compress,
    header::LENGTH_FROM,
};

/// A record to be added.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Keys and values, in order.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// Gathers records of one batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    /// Room for the header, then the records: an uncompressed batch is finished where it lies. Empty before the first record.
    batch: Vec<u8>,
    count: i32,
    base_offset: i64,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: (i64, i16, i32),
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(codec: Codec) -> BatchBuilder {
        BatchBuilder {
            codec,
            batch: Vec::new(),
            count: 0,
            base_offset: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer: (-1, -1, -1),
        }
    }

    /// Reserves memory for this many bytes of records, which then are not moved as they grow.
    pub fn reserve(mut self, payload_bytes: usize) -> BatchBuilder {
        self.batch.reserve(HEADER_BYTES + payload_bytes);
        self
    }

    /// Sets the producer's id, epoch and the sequence of the first record.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// Sets the offset of the first record.
    pub fn base_offset(mut self, offset: i64) -> BatchBuilder {
        self.base_offset = offset;
        self
    }

    /// Adds a record.
    pub fn push(&mut self, record: NewRecord<'_>) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp_ms;
            self.batch.resize(HEADER_BYTES, 0);
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp_ms);
        let timestamp_delta = record.timestamp_ms - self.base_timestamp;
        let offset_delta = i64::from(self.count);
        let headers: usize = record.headers.iter().map(|(k, v)| bytes_len(Some(k)) + bytes_len(*v)).sum();
        let header_count = record.headers.len() as i64;
        let length = 1
            + varlong_len(timestamp_delta)
            + varlong_len(offset_delta)
            + bytes_len(record.key)
            + bytes_len(record.value)
            + varlong_len(header_count)
            + headers;
        let out = &mut self.batch;
        put_varlong(out, length as i64);
        let begin = out.len();
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varlong(out, offset_delta);
        put_bytes(out, record.key);
        put_bytes(out, record.value);
        put_varlong(out, header_count);
        for (key, value) in record.headers {
            put_bytes(out, Some(key));
            put_bytes(out, *value);
        }
        debug_assert_eq!(out.len() - begin, length, "the length that was written in front");
        self.count += 1;
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the records so far, uncompressed.
    pub fn payload_bytes(&self) -> usize {
        self.batch.len().saturating_sub(HEADER_BYTES)
    }

    /// The batch.
    pub fn build(mut self) -> io::Result<Bytes> {
        let mut header = BatchHeader {
            base_offset: self.base_offset,
            batch_length: 0,
            leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: Attributes(self.codec.number()),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer.0,
            producer_epoch: self.producer.1,
            base_sequence: self.producer.2,
            record_count: self.count,
        };
        if self.codec != Codec::None {
            return assemble(header, self.codec, None, self.batch.get(HEADER_BYTES..).unwrap_or_default());
        }
        self.batch.resize(self.batch.len().max(HEADER_BYTES), 0);
        finish(&mut header, &mut self.batch)?;
        Ok(self.batch.into())
    }
}

fn assemble(mut header: BatchHeader, codec: Codec, level: Option<i32>, payload: &[u8]) -> io::Result<Bytes> {
    let mut batch = vec![0; HEADER_BYTES];
    match codec {
        Codec::None => batch.extend_from_slice(payload),
        codec => batch.extend(compress(codec, level, payload)?),
    }
    finish(&mut header, &mut batch)?;
    Ok(batch.into())
}

/// Writes the header in front of what lies behind its room.
fn finish(header: &mut BatchHeader, batch: &mut [u8]) -> io::Result<()> {
    header.batch_length = i32::try_from(batch.len() - LENGTH_FROM).map_err(io::Error::other)?;
    header.write(batch);
    Ok(())
}

/// The batch of `header` and its `records` with another codec: the records and everything else that the header says
/// stay as they are.
pub fn recompress(
    header: &BatchHeader,
    records: &DecompressedBatch<'_>,
    codec: Codec,
    level: Option<i32>,
) -> io::Result<Bytes> {
    let header = BatchHeader { attributes: header.attributes.with_codec(codec), ..*header };
    assemble(header, codec, level, records.payload())
}

/// A batch without records that covers the offsets from `base_offset` up to `next_offset`, or as many of them as one
/// header can. A reader of it goes on behind its last offset.
pub fn empty_batch(base_offset: i64, next_offset: i64, leader_epoch: i32) -> Bytes {
    let last_offset_delta = next_offset.saturating_sub(base_offset).saturating_sub(1);
    let header = BatchHeader {
        base_offset,
        batch_length: (HEADER_BYTES - LENGTH_FROM) as i32,
        leader_epoch,
        magic: 2,
        crc: 0,
        attributes: Attributes(Codec::None.number()),
        last_offset_delta: last_offset_delta.clamp(0, i64::from(i32::MAX)) as i32,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 0,
    };
    let mut batch = vec![0; HEADER_BYTES];
    header.write(&mut batch);
    batch.into()
}

/// The batch of `header` with only these of its records: offsets, timestamps, producer and codec stay. A batch
/// of which nothing is left keeps its header, uncompressed.
pub fn rebuild<'a>(header: &BatchHeader, kept: impl IntoIterator<Item = Record<'a>>) -> io::Result<Bytes> {
    let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp);
    rebuild_with_horizon(header, kept, horizon)
}

/// The same, and from `horizon_ms` on the tombstones among the records may be dropped. `None` if there are none.
///
/// The horizon takes the place of the base timestamp; the records' deltas change so that their timestamps stay.
/// Source: KIP-534.
pub fn rebuild_with_horizon<'a>(
    header: &BatchHeader,
    kept: impl IntoIterator<Item = Record<'a>>,
    horizon_ms: Option<i64>,
) -> io::Result<Bytes> {
    let base_timestamp = horizon_ms.unwrap_or(header.base_timestamp);
    let (mut payload, mut count, mut max_timestamp) = (Vec::new(), 0, None);
    for record in kept {
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        max_timestamp = max_timestamp.max(Some(timestamp));
        if base_timestamp == header.base_timestamp {
            payload.extend_from_slice(record.encoded);
        } else {
            put_moved(&mut payload, &record, timestamp.wrapping_sub(base_timestamp));
        }
        count += 1;
    }
    let codec = if count == 0 { Codec::None } else { header.attributes.codec().map_err(io::Error::other)? };
    let whole = header.attributes.timestamp_type() == TimestampType::LogAppend;
    let header = BatchHeader {
        attributes: header.attributes.with_codec(codec).with_delete_horizon(horizon_ms.is_some()),
        base_timestamp,
        // The broker's time is that of all records, whichever are left.
        max_timestamp: max_timestamp.filter(|_| !whole).unwrap_or(header.max_timestamp),
        record_count: count,
        ..*header
    };
    assemble(header, codec, None, &payload)
}

/// A record with another timestamp delta.
fn put_moved(out: &mut Vec<u8>, record: &Record<'_>, timestamp_delta: i64) {
    let mut delta = Vec::with_capacity(10);
    put_varlong(&mut delta, timestamp_delta);
    put_varlong(out, (1 + delta.len() + record.behind_timestamp.len()) as i64);
    out.push(record.attributes);
    out.extend_from_slice(&delta);
    out.extend_from_slice(record.behind_timestamp);
}

fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn varlong_len(value: i64) -> usize {
    let bits = 64 - (((value << 1) ^ (value >> 63)) as u64).leading_zeros();
    (bits.max(1) as usize).div_ceil(7)
}

fn bytes_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varlong_len(bytes.len() as i64) + bytes.len())
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varlong(out, -1),
    }
}
