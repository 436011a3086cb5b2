//! One pass over the records of a batch that reads only their length prefixes and skips keys, values and headers.

use crate::{BatchError, BatchHeader, RecordIter};

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

/// What is read of one record.
struct Prefix {
    /// Length of the whole record.
    bytes: usize,
    timestamp_delta: i64,
    offset_delta: i64,
    has_key: bool,
}

/// Bytes in front of a record within which everything up to the key's length is read: at most 4 + 1 + 5 + 4 + 4.
const PREFIX_BYTES: usize = 32;
/// A value's length has at most 4 bytes; 8 make one load of them.
const LENGTH_BYTES: usize = 8;

/// Reads a zig-zag number of at most `LEN` bytes at `at`; the place behind it comes too. `None` if it is longer.
#[inline(always)]
fn short<const N: usize, const LEN: usize>(bytes: &[u8; N], at: usize) -> Option<(i64, usize)> {
    let mut value = 0u64;
    for n in 0..LEN {
        // The mask keeps the compiler from checking bounds; `N` is a power of two that no place reaches.
        let byte = bytes[(at + n) & (N - 1)];
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte < 0x80 {
            return Some(((value >> 1) as i64 ^ -((value & 1) as i64), at + n + 1));
        }
    }
    None
}

/// Reads a record without headers whose numbers are short, which is nearly every record. `None` says nothing about the
/// record: [`RecordIter`] has to look at it.
#[inline(always)]
fn quick(rest: &[u8]) -> Option<Prefix> {
    let head: &[u8; PREFIX_BYTES] = rest.first_chunk()?;
    let (length, body) = short::<PREFIX_BYTES, 4>(head, 0)?;
    let (timestamp_delta, at) = short::<PREFIX_BYTES, 5>(head, body + 1)?;
    let (offset_delta, at) = short::<PREFIX_BYTES, 4>(head, at)?;
    let (key, at) = short::<PREFIX_BYTES, 4>(head, at)?;
    if length < 0 || key < -1 {
        return None;
    }
    let bytes = body + length as usize;
    let key_end = at + key.max(0) as usize;
    let value_head: &[u8; LENGTH_BYTES] = rest.get(key_end..)?.first_chunk()?;
    let (value, value_at) = short::<LENGTH_BYTES, 4>(value_head, 0)?;
    if value < -1 {
        return None;
    }
    let header_count_at = key_end + value_at + value.max(0) as usize;
    // The count of headers is the last byte, and 0.
    (header_count_at + 1 == bytes && rest.get(header_count_at) == Some(&0)).then_some(Prefix {
        bytes,
        timestamp_delta,
        offset_delta,
        has_key: key >= 0,
    })
}

/// Reads any record.
#[cold]
fn thorough(rest: &[u8], index: usize) -> Result<Prefix, BatchError> {
    // One record more than this one is declared, so that what follows it is no concern here.
    let record = RecordIter::new(rest, i32::MAX).next();
    let missing = BatchError::Record { index, what: "it is missing" };
    let record = record.ok_or(missing)?.map_err(|error| match error {
        BatchError::Record { what, .. } => BatchError::Record { index, what },
        other => other,
    })?;
    Ok(Prefix {
        bytes: record.encoded.len(),
        timestamp_delta: record.timestamp_delta,
        offset_delta: i64::from(record.offset_delta),
        has_key: record.key.is_some(),
    })
}

/// Checks every record of an uncompressed payload and says what they have in common. Reads each record once, copies
/// nothing and allocates nothing. The first fault is the error.
pub fn summarize_records(payload: &[u8], header: &BatchHeader) -> Result<RecordSummary, BatchError> {
    let declared = header.record_count;
    let (mut max_delta, mut min_delta, mut keyless) = (i64::MIN, i64::MAX, 0);
    let mut rest = payload;
    for index in 0..usize::try_from(declared).unwrap_or(0) {
        if rest.is_empty() {
            return Err(BatchError::RecordCount { declared, found: index });
        }
        let record = match quick(rest) {
            Some(record) => record,
            None => thorough(rest, index)?,
        };
        if record.offset_delta != index as i64 {
            return Err(BatchError::Record { index, what: OFFSET_DELTA });
        }
        max_delta = max_delta.max(record.timestamp_delta);
        min_delta = min_delta.min(record.timestamp_delta);
        keyless += usize::from(!record.has_key);
        rest = &rest[record.bytes..];
    }
    if !rest.is_empty() || declared <= 0 {
        return Err(BatchError::RecordCount { declared, found: declared.max(0) as usize + 1 });
    }
    let time = |delta| header.base_timestamp.checked_add(delta);
    match (time(max_delta), time(min_delta)) {
        (Some(max), Some(min)) => {
            Ok(RecordSummary { max_timestamp: max.max(-1), min_timestamp: min, keyless })
        }
        _ => Err(BatchError::TimestampRange),
    }
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
