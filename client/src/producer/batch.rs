//! A batch from its first record to its answer.

use std::{io, sync::Arc, time::Instant};

use bytes::Bytes;
use millstream_batch::{BatchBuilder, BatchHeader, Codec, NewRecord, decode_records, stamp_producer};

use super::{
    Record,
    result::{Delivery, Promise},
};

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// Sequences go from `i32::MAX` on to 0.
pub(crate) fn plus(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) % (1 << 31)) as i32
}

/// Whose batch it is, and the number of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) first: i32,
}

enum Body {
    /// Not encoded yet: that is done without holding up those who append.
    Records(Box<BatchBuilder>),
    /// Encoded for this sequence.
    Encoded(Bytes, Option<Sequence>),
}

/// Records of one partition that travel together.
pub(crate) struct Batch {
    pub(crate) place: Place,
    /// Receives the result.
    pub(crate) promise: Promise,
    pub(crate) count: usize,
    /// What the records take of the producer's memory.
    pub(crate) memory_bytes: usize,
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

impl Batch {
    /// An empty batch with a capacity of about this many bytes.
    pub(crate) fn new(place: Place, codec: Codec, room_bytes: usize, now: Instant) -> Batch {
        let builder = BatchBuilder::new(codec).reserve(room_bytes);
        Batch {
            promise: Promise::new(place.clone()),
            place,
            count: 0,
            memory_bytes: 0,
            created: now,
            sequence: None,
            failures: 0,
            doubtful: false,
            not_before: now,
            body: Some(Body::Records(Box::new(builder))),
            payload_bytes: 0,
        }
    }

    /// Adds a record; only before the batch is encoded.
    pub(crate) fn push(&mut self, record: &Record, timestamp_ms: i64) -> Delivery {
        let delivery = self.promise.delivery(self.count, timestamp_ms);
        if let Some(Body::Records(builder)) = &mut self.body {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let headers: Vec<(&[u8], Option<&[u8]>)> =
                record.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref())).collect();
            builder.push(NewRecord { timestamp_ms, key, value, headers: &headers });
            self.payload_bytes = builder.payload_bytes();
            self.memory_bytes += record_bytes(record);
            self.count += 1;
        }
        delivery
    }

    /// The batch in two, for a broker that takes none of its size; as it is when it cannot be made smaller. The pieces keep
    /// the sequences that its records have.
    pub(crate) fn split(self, codec: Codec) -> Vec<Batch> {
        if self.count < 2 {
            return vec![self];
        }
        let first = self.count / 2;
        let Some(bodies) = self.encoded_halves(codec, first) else { return vec![self] };
        let counts = [first, self.count - first];
        let mut promises = self.promise.split(&counts).into_iter();
        let [one, two] = bodies;
        let mut piece = |n: usize, (bytes, payload_bytes): (Bytes, usize), memory_bytes: usize| {
            let before = counts[..n].iter().sum::<usize>();
            let sequence = self.sequence.map(|s| Sequence { first: plus(s.first, before as i32), ..s });
            Batch {
                place: self.place.clone(),
                // As many promises as counts.
                promise: promises.next().unwrap_or_else(|| Promise::new(self.place.clone())),
                count: counts[n],
                memory_bytes,
                created: self.created,
                sequence,
                failures: self.failures,
                doubtful: self.doubtful,
                not_before: self.not_before,
                body: Some(Body::Encoded(bytes, None)),
                payload_bytes,
            }
        };
        let half = self.memory_bytes / 2;
        vec![piece(0, one, half), piece(1, two, self.memory_bytes - half)]
    }

    /// The records before and from the `first` one on, each a batch.
    fn encoded_halves(&self, codec: Codec, first: usize) -> Option<[(Bytes, usize); 2]> {
        let Some(Body::Encoded(bytes, _)) = &self.body else { return None };
        let header = BatchHeader::parse(bytes).ok()?;
        // What this producer has written, it may expand again.
        let records = decode_records(bytes, usize::MAX - 1).ok()?;
        let mut halves = [BatchBuilder::new(codec), BatchBuilder::new(codec)];
        for (at, record) in records.iter().enumerate() {
            let record = record.ok()?;
            let headers: Vec<(&[u8], Option<&[u8]>)> = record.headers().collect();
            halves[usize::from(at >= first)].push(NewRecord {
                timestamp_ms: header.base_timestamp + record.timestamp_delta,
                key: record.key,
                value: record.value,
                headers: &headers,
            });
        }
        let [one, two] = halves.map(|half| {
            let payload_bytes = half.payload_bytes();
            half.build().ok().map(|bytes| (bytes, payload_bytes))
        });
        Some([one?, two?])
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
    use millstream_batch::check_crc;

    #[test]
    fn a_batch_that_changes_its_sequence_keeps_its_records() {
        let place = Place { topic: "a".into(), partition: 0 };
        let mut batch = Batch::new(place, Codec::Lz4, 0, crate::clock::now());
        let record = Record {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"v")),
            headers: vec![("h".to_string(), None)],
            ..Record::default()
        };
        batch.push(&record, 5);
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
    #[test]
    fn the_pieces_of_a_batch_have_its_records_and_sequences() {
        let place = Place { topic: "a".into(), partition: 0 };
        let mut batch = Batch::new(place, Codec::Zstd, 0, crate::clock::now());
        let values: Vec<Bytes> = (0..5u8).map(|n| Bytes::from(vec![n; 10])).collect();
        for (n, value) in (0..).zip(&values) {
            batch.push(&Record { value: Some(value.clone()), ..Record::default() }, 100 + n);
        }
        batch.sequence = Some(Sequence { producer_id: 1, epoch: 0, first: i32::MAX });
        batch.encode().expect("encoded");
        let memory_bytes = batch.memory_bytes;
        let mut pieces = batch.split(Codec::Zstd);
        assert_eq!(pieces.iter().map(|piece| piece.memory_bytes).sum::<usize>(), memory_bytes);
        assert_eq!(pieces.iter().map(|p| p.sequence.expect("one").first).collect::<Vec<_>>(), [i32::MAX, 1]);
        let mut found = Vec::new();
        for piece in &mut pieces {
            let bytes = piece.encode().expect("encoded");
            let header = BatchHeader::parse(&bytes).expect("a header");
            assert_eq!(header.base_sequence, piece.sequence.expect("one").first);
            for record in decode_records(&bytes, 1 << 20).expect("records").iter() {
                let record = record.expect("whole");
                found
                    .push((header.base_timestamp + record.timestamp_delta, record.value.map(<[u8]>::to_vec)));
            }
        }
        let expected: Vec<_> = (100..).zip(values.iter().map(|value| Some(value.to_vec()))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_single_record_cannot_be_split() {
        let place = Place { topic: "a".into(), partition: 0 };
        let mut batch = Batch::new(place, Codec::None, 0, crate::clock::now());
        batch.push(&Record::default(), 1);
        batch.encode().expect("encoded");
        assert_eq!(batch.split(Codec::None).len(), 1);
    }
}
