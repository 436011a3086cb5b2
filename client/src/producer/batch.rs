//! A batch from its first record to its answer.

use std::{io, sync::Arc, time::Instant};

use bytes::Bytes;
use millstream_batch::{BatchBuilder, Codec, NewRecord, stamp_producer};

use super::Record;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// Whose batch it is, and the number of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) first: i32,
}

/// What is to be told of one record. `T` is how; the machine never looks at it.
#[derive(Debug)]
pub(crate) struct Receipt<T> {
    pub(crate) tell: T,
    /// What the record takes of the producer's memory.
    pub(crate) bytes: usize,
    /// The record's timestamp.
    pub(crate) timestamp_ms: i64,
}

enum Body {
    /// Not encoded yet: that is done without holding up those who append.
    Records(Box<BatchBuilder>),
    /// Encoded for this sequence.
    Encoded(Bytes, Option<Sequence>),
}

/// Records of one partition that travel together.
pub(crate) struct Batch<T> {
    pub(crate) place: Place,
    pub(crate) receipts: Vec<Receipt<T>>,
    pub(crate) created: Instant,
    pub(crate) sequence: Option<Sequence>,
    /// Tries that have failed.
    pub(crate) failures: u32,
    /// A try ended without an answer that says whether the batch was appended.
    pub(crate) doubtful: bool,
    /// Not to be sent again before.
    pub(crate) not_before: Instant,
    body: Option<Body>,
    payload_bytes: usize,
}

/// Bytes that a record's lengths and numbers take at most, without headers.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// What a record takes in a batch, at most.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(key, value)| key.len() + part(value) + 10).sum();
    RECORD_OVERHEAD_BYTES + part(&record.key) + part(&record.value) + headers
}

impl<T> Batch<T> {
    pub(crate) fn new(place: Place, codec: Codec, now: Instant) -> Batch<T> {
        Batch {
            place,
            receipts: Vec::new(),
            created: now,
            sequence: None,
            failures: 0,
            doubtful: false,
            not_before: now,
            body: Some(Body::Records(Box::new(BatchBuilder::new(codec)))),
            payload_bytes: 0,
        }
    }

    /// Adds a record; only before the batch is encoded.
    pub(crate) fn push(&mut self, record: &Record, timestamp_ms: i64, receipt: Receipt<T>) {
        let Some(Body::Records(builder)) = &mut self.body else { return };
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref())).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.push(NewRecord { timestamp_ms, key, value, headers: &headers });
        self.payload_bytes = builder.payload_bytes();
        self.receipts.push(receipt);
    }

    /// Bytes of the records, uncompressed.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The batch as it is sent: encoded and compressed the first time, and given its sequence.
    pub(crate) fn encode(&mut self) -> io::Result<Bytes> {
        let sequence = self.sequence;
        let bytes = match self.body.take() {
            Some(Body::Records(builder)) => match sequence {
                Some(s) => builder.producer(s.producer_id, s.epoch, s.first).build()?,
                None => builder.build()?,
            },
            Some(Body::Encoded(bytes, of)) if of == sequence => bytes,
            Some(Body::Encoded(bytes, _)) => {
                let mut bytes = Vec::from(bytes);
                let s = sequence.unwrap_or(Sequence { producer_id: -1, epoch: -1, first: -1 });
                stamp_producer(&mut bytes, s.producer_id, s.epoch, s.first);
                Bytes::from(bytes)
            }
            None => return Err(io::Error::other("the batch could not be encoded before")),
        };
        self.body = Some(Body::Encoded(bytes.clone(), sequence));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_batch::{BatchHeader, check_crc, decode_records};

    #[test]
    fn a_batch_that_changes_its_sequence_keeps_its_records() {
        let place = Place { topic: "a".into(), partition: 0 };
        let mut batch = Batch::new(place, Codec::Lz4, crate::clock::now());
        let record = Record {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"v")),
            headers: vec![("h".to_string(), None)],
            ..Record::default()
        };
        batch.push(&record, 5, Receipt { tell: (), bytes: 1, timestamp_ms: 5 });
        assert!(batch.payload_bytes() <= record_bytes(&record));
        batch.sequence = Some(Sequence { producer_id: 1, epoch: 0, first: 7 });
        let first = batch.encode().expect("encoded");
        batch.sequence = Some(Sequence { producer_id: 2, epoch: 3, first: 0 });
        let second = batch.encode().expect("encoded again");
        check_crc(&second).expect("true again");
        let header = BatchHeader::parse(&second).expect("a header");
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (2, 3, 0));
        assert_eq!(first.len(), second.len());
        let records = decode_records(&second, 1 << 20).expect("records");
        let only = records.iter().next().expect("one").expect("whole");
        assert_eq!((only.key, only.value, only.headers().count()), (Some(&b"k"[..]), Some(&b"v"[..]), 1));
    }
}
