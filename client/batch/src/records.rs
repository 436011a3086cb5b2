//! The records of a batch.
//!
//! A record: length varint (of what follows), attributes i8, timestamp delta varlong, offset delta varint, key
//! length varint (-1: none) and key, value length and value, header count varint, and for each header key length
//! and key, value length (-1: none) and value. Varints are zig-zag.

use std::borrow::Cow;

use crate::{BatchError, BatchHeader, Codec, HEADER_BYTES, decompress, summarize_records};

/// One record, as a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Added to the batch's base timestamp it is the record's, in milliseconds.
    pub timestamp_delta: i64,
    /// Added to the batch's base offset it is the record's.
    pub offset_delta: i32,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; a record without one is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The record as it is encoded, its length in front.
    pub encoded: &'a [u8],
    pub(crate) attributes: u8,
    /// What follows the timestamp delta.
    pub(crate) behind_timestamp: &'a [u8],
    header_count: usize,
    headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers, in order; a key may come more than once.
    pub fn headers(&self) -> HeaderIter<'a> {
        HeaderIter { left: self.header_count, input: Whole { rest: self.headers } }
    }
}

/// Iterates over a record's headers, which were checked with the record.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    left: usize,
    input: Whole<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let key = self.input.bytes().ok()??;
        Some((key, self.input.bytes().ok()?))
    }
}

/// What is wrong with a record.
pub(crate) type Malformed = &'static str;

pub(crate) const TOO_LONG: Malformed = "a length goes beyond the end";

/// Where the parts of a record are read from: the record in one piece, or a payload that comes in pieces.
pub(crate) trait Input {
    /// What is kept of bytes that were read.
    type Bytes;

    /// The next byte, unless this is the end.
    fn byte(&mut self) -> Option<u8>;
    /// The next `n` bytes.
    fn take(&mut self, n: usize) -> Result<Self::Bytes, Malformed>;
    /// All bytes up to the end, which stay to be read.
    fn rest(&self) -> Self::Bytes;
    /// Whether this is the end.
    fn is_empty(&self) -> bool;

    fn varlong(&mut self) -> Result<i64, Malformed> {
        let mut value = 0u64;
        for n in 0..10 {
            let byte = self.byte().ok_or(ENDLESS)?;
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(ENDLESS)
    }

    fn varint(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.varlong()?).map_err(|_| "a number is out of range")
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.varint()?).map_err(|_| "a length is negative")
    }

    fn bytes(&mut self) -> Result<Option<Self::Bytes>, Malformed> {
        match self.varint()? {
            -1 => Ok(None),
            n => self.take(usize::try_from(n).map_err(|_| "a length is negative")?).map(Some),
        }
    }

    /// The record whose length was read and which ends where the input does.
    fn body(&mut self) -> Result<Body<Self::Bytes>, Malformed> {
        let attributes = self.byte().ok_or(TOO_LONG)?;
        let timestamp_delta = self.varlong()?;
        let behind_timestamp = self.rest();
        let offset_delta = self.varint()?;
        let key = self.bytes()?;
        let value = self.bytes()?;
        let header_count = usize::try_from(self.varint()?).map_err(|_| "a header count is negative")?;
        let headers = self.rest();
        for _ in 0..header_count {
            self.bytes()?.ok_or("a header has no key")?;
            self.bytes()?;
        }
        if !self.is_empty() {
            return Err("bytes follow the headers");
        }
        Ok(Body {
            timestamp_delta,
            offset_delta,
            key,
            value,
            attributes,
            behind_timestamp,
            header_count,
            headers,
        })
    }
}

const ENDLESS: Malformed = "a varint does not end";

/// A record without its length.
pub(crate) struct Body<B> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<B>,
    value: Option<B>,
    attributes: u8,
    behind_timestamp: B,
    header_count: usize,
    headers: B,
}

/// Bytes in one piece.
#[derive(Clone, Debug)]
struct Whole<'a> {
    rest: &'a [u8],
}

impl<'a> Input for Whole<'a> {
    type Bytes = &'a [u8];

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(TOO_LONG)?;
        self.rest = rest;
        Ok(taken)
    }

    fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Whole<'a> {
    /// One record's bytes: all of them, and those behind its length.
    fn frame(&mut self) -> Result<(&'a [u8], Whole<'a>), Malformed> {
        let whole = self.rest;
        let length = self.length()?;
        let body = Whole { rest: self.take(length)? };
        Ok((&whole[..whole.len() - self.rest.len()], body))
    }
}

impl<'a> Record<'a> {
    fn new(encoded: &'a [u8], body: Body<&'a [u8]>) -> Record<'a> {
        Record {
            timestamp_delta: body.timestamp_delta,
            offset_delta: body.offset_delta,
            key: body.key,
            value: body.value,
            encoded,
            attributes: body.attributes,
            behind_timestamp: body.behind_timestamp,
            header_count: body.header_count,
            headers: body.headers,
        }
    }
}

/// Whether another record follows `found` of them. An error if that is not what the header says.
pub(crate) fn has_more(declared: i32, found: usize, is_at_end: bool) -> Result<bool, BatchError> {
    let counted = found as i64 == i64::from(declared);
    match counted == is_at_end {
        true => Ok(!counted),
        false => Err(BatchError::RecordCount { declared, found: found + usize::from(counted) }),
    }
}

/// Iterates over records; ends after the first error, or when the header's count is reached.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    input: Whole<'a>,
    declared: i32,
    found: usize,
    ended: bool,
}

impl<'a> RecordIter<'a> {
    /// The records of an uncompressed payload of which the header says that it has `declared`.
    pub fn new(payload: &'a [u8], declared: i32) -> RecordIter<'a> {
        RecordIter { input: Whole { rest: payload }, declared, found: 0, ended: false }
    }

    fn read(&mut self) -> Result<Option<Record<'a>>, BatchError> {
        if !has_more(self.declared, self.found, self.input.is_empty())? {
            return Ok(None);
        }
        let index = self.found;
        self.found += 1;
        let record =
            self.input.frame().and_then(|(encoded, mut body)| Ok(Record::new(encoded, body.body()?)));
        record.map(Some).map_err(|what| BatchError::Record { index, what })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.read().transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}

/// The payload of a batch, decompressed.
#[derive(Clone, Debug)]
pub struct DecompressedBatch<'a> {
    payload: Cow<'a, [u8]>,
    declared: i32,
}

impl DecompressedBatch<'_> {
    /// Its records.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::new(&self.payload, self.declared)
    }
    /// Their bytes, one record behind the other.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
    /// Length of all records in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }
}

/// Decompresses the records of one whole batch, up to a bound.
pub fn decode_records(batch: &[u8], bytes_max: usize) -> Result<DecompressedBatch<'_>, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let payload = &batch[HEADER_BYTES..header.total_bytes()];
    let payload = match header.attributes.codec()? {
        Codec::None => Cow::Borrowed(payload),
        codec => Cow::Owned(decompress(codec, payload, bytes_max)?),
    };
    Ok(DecompressedBatch { payload, declared: header.record_count })
}

/// Checks that the records are as many as the header says and numbered from 0 on without a gap.
pub fn validate_records(batch: &[u8], bytes_max: usize) -> Result<(), BatchError> {
    let header = BatchHeader::parse(batch)?;
    summarize_records(decode_records(batch, bytes_max)?.payload(), &header).map(|_| ())
}
