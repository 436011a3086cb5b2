//! One pass over the records of a batch that reads their numbers and lengths, and skips keys and values.

use crate::{BatchError, BatchHeader, RecordHead, decompressor::Chunks, heads::HeadReader};

/// What a pass over all records of a batch found. Every record is well formed, and their offset deltas are 0, 1, 2, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSummary {
    /// Largest timestamp in milliseconds; -1 if no record has one.
    pub max_timestamp: i64,
    /// Smallest timestamp in milliseconds; negative if a record has none.
    pub min_timestamp: i64,
    /// Records without a key.
    pub keyless: usize,
}

/// Totals of the records read so far.
#[derive(Clone, Copy)]
struct Totals {
    records: usize,
    max_delta: i64,
    min_delta: i64,
    keyless: usize,
}

/// The fields of a record that the quick path reads.
struct QuickHead {
    /// Length of the whole record.
    bytes: usize,
    timestamp_delta: i64,
    /// 1 if it has no key.
    keyless: usize,
}

/// Bytes of a record within which everything up to the key's length is read: a word at 4 + 1 + 5 + 4 at most.
const HEAD_BYTES: usize = 32;

/// The 8 bytes at `at`; `None` where there are fewer.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Reads a number of at most `LEN` bytes at the start of a word, and how many bytes it has. `None` if it is longer. The
/// zig-zag is not undone: an even number is twice what it stands for, and 1 is -1.
///
/// The branches are on purpose: most records of a batch have numbers of the same lengths, so they are predicted, and the
/// next number is read before this one is known.
#[inline(always)]
fn short<const LEN: usize>(word: u64) -> Option<(u64, usize)> {
    let mut number = 0;
    for n in 0..LEN {
        number |= word >> n & 0x7f << (7 * n);
        if word & 0x80 << (8 * n) == 0 {
            return Some((number, n + 1));
        }
    }
    None
}

/// Whether a length is below -1.
#[inline(always)]
fn is_impossible(length: u64) -> bool {
    length & 1 != 0 && length != 1
}

/// Reads a record whose numbers are short, which is nearly every record, if it is the `index`th. `None` says nothing
/// about the record: [`HeadReader`] has to look at it.
#[inline(always)]
fn quick(rest: &[u8], index: usize) -> Option<QuickHead> {
    let head: &[u8; HEAD_BYTES] = rest.first_chunk()?;
    let (length, body) = short::<4>(word(head, 0)?)?;
    let at = body + 1;
    let (timestamp, n) = short::<5>(word(head, at)?)?;
    let at = at + n;
    let (offset, n) = short::<4>(word(head, at)?)?;
    if offset != 2 * index as u64 {
        return None;
    }
    let at = at + n;
    let (key, n) = short::<4>(word(head, at)?)?;
    let value_at = at + n + (key >> 1) as usize;
    let (value, n) = short::<4>(word(rest, value_at)?)?;
    if length & 1 != 0 || is_impossible(key) || is_impossible(value) {
        return None;
    }
    let bytes = body + (length >> 1) as usize;
    let headers_at = value_at + n + (value >> 1) as usize;
    let has_headers = *rest.get(headers_at)? != 0;
    if (has_headers || headers_at + 1 != bytes) && headers_end(rest, headers_at)? != bytes {
        return None;
    }
    let timestamp_delta = (timestamp >> 1) as i64 ^ -((timestamp & 1) as i64);
    Some(QuickHead { bytes, timestamp_delta, keyless: (key & 1) as usize })
}

/// Where the headers end whose number is at `at`, if all of that is short.
#[inline(never)]
fn headers_end(rest: &[u8], at: usize) -> Option<usize> {
    let (count, n) = short::<1>(word(rest, at)?)?;
    let mut at = at + n;
    for _ in 0..count / 2 {
        let (key, n) = short::<4>(word(rest, at)?)?;
        at += n + (key >> 1) as usize;
        let (value, n) = short::<4>(word(rest, at)?)?;
        at += n + (value >> 1) as usize;
        if key & 1 != 0 || is_impossible(value) {
            return None;
        }
    }
    (count & 1 == 0 && at <= rest.len()).then_some(at)
}

impl Totals {
    /// Reads records up to `declared` of them, as far as [`quick`] gets; how many bytes they have. The loop has no other
    /// way out, so that all it counts stays in registers.
    fn quick(&mut self, payload: &[u8], declared: usize) -> usize {
        let Totals { mut records, mut max_delta, mut min_delta, mut keyless } = *self;
        let mut rest = payload;
        while records < declared
            && let Some(head) = quick(rest, records)
        {
            records += 1;
            max_delta = max_delta.max(head.timestamp_delta);
            min_delta = min_delta.min(head.timestamp_delta);
            keyless += head.keyless;
            rest = &rest[head.bytes..];
        }
        *self = Totals { records, max_delta, min_delta, keyless };
        payload.len() - rest.len()
    }

    /// Counts the next record.
    fn add(&mut self, head: RecordHead) -> Result<(), BatchError> {
        let index = self.records;
        if usize::try_from(head.offset_delta) != Ok(index) {
            return Err(BatchError::Record { index, what: OFFSET_DELTA });
        }
        self.records += 1;
        self.max_delta = self.max_delta.max(head.timestamp_delta);
        self.min_delta = self.min_delta.min(head.timestamp_delta);
        self.keyless += usize::from(!head.has_key);
        Ok(())
    }

    fn read(reader: &mut HeadReader<impl Chunks>) -> Result<Totals, BatchError> {
        let mut totals = Totals { records: 0, max_delta: i64::MIN, min_delta: i64::MAX, keyless: 0 };
        let declared = reader.declared();
        loop {
            reader.skip_read(|chunk| {
                let bytes = totals.quick(chunk, declared);
                (totals.records, bytes)
            })?;
            match reader.next() {
                Some(head) => totals.add(head?)?,
                None => return Ok(totals),
            }
        }
    }

    fn summary(&self, header: &BatchHeader) -> Result<RecordSummary, BatchError> {
        let time = |delta| header.base_timestamp.checked_add(delta).ok_or(BatchError::TimestampRange);
        Ok(RecordSummary {
            max_timestamp: time(self.max_delta)?.max(-1),
            min_timestamp: time(self.min_delta)?,
            keyless: self.keyless,
        })
    }
}

/// Checks every record of an uncompressed payload and says what they have in common. Reads each record once, copies
/// nothing and allocates nothing. The first fault is the error.
pub fn summarize_records(payload: &[u8], header: &BatchHeader) -> Result<RecordSummary, BatchError> {
    summarize(payload, header)
}

pub(crate) fn summarize(payload: impl Chunks, header: &BatchHeader) -> Result<RecordSummary, BatchError> {
    let declared = header.record_count;
    let mut reader = HeadReader::new(payload, declared);
    let found = match declared {
        1.. => Totals::read(&mut reader).and_then(|totals| totals.summary(header)),
        _ => Err(BatchError::RecordCount { declared, found: 1 }),
    };
    // A payload that cannot be decompressed to its end has no records that are worth an error.
    if let Err(BatchError::Record { .. } | BatchError::RecordCount { .. }) = found {
        reader.drain()?;
    }
    found
}

/// What is said of a record whose offset delta is not its number.
pub const OFFSET_DELTA: &str = "the offset delta is not the record's number in the batch";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, Codec, HEADER_BYTES, NewRecord};

    fn varint(out: &mut Vec<u8>, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }

    /// A record with this body behind its length.
    fn framed(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint(&mut out, body.len() as i64);
        out.extend_from_slice(body);
        out
    }

    /// A record of these numbers: timestamp delta, offset delta, then length and bytes of key and value, then headers.
    fn record(numbers: [i64; 2], key: (i64, &[u8]), value: (i64, &[u8]), headers: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        numbers.iter().for_each(|&n| varint(&mut body, n));
        for (length, bytes) in [key, value] {
            varint(&mut body, length);
            body.extend_from_slice(bytes);
        }
        body.extend_from_slice(headers);
        framed(&body)
    }

    fn good(offset: i64) -> Vec<u8> {
        record([0, offset], (1, b"k"), (40, &[7; 40]), &[0])
    }

    fn summary(payload: &[u8], record_count: i32) -> Result<RecordSummary, BatchError> {
        let batch = BatchBuilder::new(Codec::None).build().expect("a batch");
        let header = BatchHeader::parse(&batch).expect("a header");
        summarize_records(payload, &BatchHeader { record_count, base_timestamp: 1000, ..header })
    }

    #[test]
    fn times_and_keys_are_those_of_the_records() {
        let records = [(5, Some(&b"k"[..])), (-7, None), (3, Some(&b""[..]))];
        let mut builder = BatchBuilder::new(Codec::None);
        for (time, key) in records {
            let timestamp_ms = 1000 + time;
            builder.push(NewRecord { timestamp_ms, key, value: Some(&[1; 300]), headers: &[] });
        }
        let batch = builder.build().expect("a batch");
        let header = BatchHeader::parse(&batch).expect("a header");
        let found = summarize_records(&batch[HEADER_BYTES..], &header);
        assert_eq!(found, Ok(RecordSummary { max_timestamp: 1005, min_timestamp: 993, keyless: 1 }));
    }

    #[test]
    fn records_without_timestamps_have_none() {
        let mut builder = BatchBuilder::new(Codec::None);
        (0..3).for_each(|_| builder.push(NewRecord { timestamp_ms: -1, ..NewRecord::default() }));
        let batch = builder.build().expect("a batch");
        let header = BatchHeader::parse(&batch).expect("a header");
        let found = summarize_records(&batch[HEADER_BYTES..], &header).expect("good");
        assert_eq!((found.max_timestamp, found.min_timestamp, found.keyless), (-1, -1, 3));
    }

    #[test]
    fn each_malformed_kind_is_refused_wherever_it_is() {
        let at = |offset: i64| -> Vec<(&str, Vec<u8>)> {
            let plain = |key, value, headers: &[u8]| record([0, offset], key, value, headers);
            let mut minus = Vec::new();
            varint(&mut minus, -597);
            let mut cut = good(offset);
            cut.pop();
            let mut long = Vec::new();
            varint(&mut long, 5000);
            long.extend(good(offset));
            let mut negative = Vec::new();
            varint(&mut negative, -5);
            negative.extend(good(offset));
            vec![
                ("a negative header count", plain((1, b"k"), (1, b"v"), &minus)),
                ("more headers than there are", plain((1, b"k"), (1, b"v"), &[4, 2, b'h', 2, b'v'])),
                ("a header without a key", plain((1, b"k"), (1, b"v"), &[2, 1, 2, b'v'])),
                ("a header value that is too long", plain((1, b"k"), (1, b"v"), &[2, 2, b'h', 20, b'v'])),
                (
                    "a header value that goes on behind the batch",
                    plain((1, b"k"), (1, b"v"), &[2, 2, b'h', 126]),
                ),
                ("bytes behind the headers", plain((1, b"k"), (1, b"v"), &[0, 0])),
                ("no header count", plain((1, b"k"), (1, b"v"), &[])),
                ("a key that is too long", plain((90, b"k"), (1, b"v"), &[0])),
                ("a key length below -1", plain((-2, b"k"), (1, b"v"), &[0])),
                ("a value that is too long", plain((1, b"k"), (60, &[7; 40]), &[0])),
                ("a value length below -1", plain((1, b"k"), (-2, b""), &[0])),
                ("a wrong offset delta", record([0, offset + 1], (1, b"k"), (40, &[7; 40]), &[0])),
                ("a cut record", cut),
                ("a record longer than the batch", long),
                ("a negative record length", negative),
                ("an empty record", framed(&[])),
                ("a number that does not end", vec![0xff; 40]),
                ("a timestamp that does not end", framed(&[&[0][..], &[0xff; 40]].concat())),
            ]
        };
        for offset in [0, 1, 200] {
            for (what, bad) in at(offset) {
                for behind in [0, 1, 5] {
                    let mut payload: Vec<u8> = (0..offset).flat_map(good).collect();
                    payload.extend(&bad);
                    payload.extend((offset + 1..=offset + behind).flat_map(good));
                    let found = summary(&payload, (offset + behind) as i32 + 1);
                    assert!(found.is_err(), "{what} as record {offset}, {behind} behind: {found:?}");
                }
            }
        }
    }

    #[test]
    fn the_count_is_that_of_the_records() {
        let payload: Vec<u8> = (0..3).flat_map(good).collect();
        assert!(summary(&payload, 3).is_ok());
        assert_eq!(summary(&payload, 4), Err(BatchError::RecordCount { declared: 4, found: 3 }));
        assert_eq!(summary(&payload, 2), Err(BatchError::RecordCount { declared: 2, found: 3 }));
        assert!(summary(&payload, 0).is_err() && summary(&payload, -1).is_err());
        assert!(summary(&[], 0).is_err() && summary(&[], 1).is_err());
        let zeros = [&payload[..], &[0; 20]].concat();
        assert!(summary(&zeros, 3).is_err() && summary(&zeros, 4).is_err(), "zeros are no record");
    }

    #[test]
    fn a_timestamp_that_no_number_holds_is_refused() {
        let record = record([i64::MAX, 0], (1, b"k"), (1, b"v"), &[0]);
        assert_eq!(summary(&record, 1), Err(BatchError::TimestampRange));
    }

    #[test]
    fn long_numbers_are_read_like_short_ones() {
        let key = vec![b'k'; 3_000_000];
        let far = 400 * 24 * 3_600_000;
        let payload: Vec<u8> = [
            record([far, 0], (3_000_000, &key), (40, &[7; 40]), &[0]),
            record([-far, 1], (-1, b""), (3_000_000, &key), &[2, 2, b'h', 1]),
        ]
        .concat();
        let found = summary(&payload, 2).expect("good");
        assert_eq!((found.max_timestamp, found.min_timestamp, found.keyless), (1000 + far, 1000 - far, 1));
    }
}
