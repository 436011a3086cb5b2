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
        HeaderIter { left: self.header_count, input: Input { rest: self.headers } }
    }
}

/// Iterates over a record's headers, which were checked with the record.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    left: usize,
    input: Input<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let key = self.input.bytes().ok()??;
        Some((key, self.input.bytes().ok()?))
    }
}

#[derive(Clone, Debug)]
struct Input<'a> {
    rest: &'a [u8],
}

type Malformed = &'static str;

impl<'a> Input<'a> {
    fn varlong(&mut self) -> Result<i64, Malformed> {
        let mut value = 0u64;
        for (n, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[n + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a varint does not end")
    }

    fn varint(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.varlong()?).map_err(|_| "a number is out of range")
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        if n > self.rest.len() {
            return Err("a length goes beyond the end");
        }
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(taken)
    }

    fn bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.varint()? {
            -1 => Ok(None),
            n => self.take(usize::try_from(n).map_err(|_| "a length is negative")?).map(Some),
        }
    }

    /// One record's bytes: all of them, and those behind its length.
    fn frame(&mut self) -> Result<(&'a [u8], Input<'a>), Malformed> {
        let whole = self.rest;
        let length = usize::try_from(self.varint()?).map_err(|_| "a length is negative")?;
        let body = Input { rest: self.take(length)? };
        Ok((&whole[..whole.len() - self.rest.len()], body))
    }

    /// The record that fills these bytes.
    fn body(mut self, encoded: &'a [u8]) -> Result<Record<'a>, Malformed> {
        let body = &mut self;
        let attributes = body.take(1)?[0];
        let timestamp_delta = body.varlong()?;
        let behind_timestamp = body.rest;
        let offset_delta = body.varint()?;
        let key = body.bytes()?;
        let value = body.bytes()?;
        let header_count = usize::try_from(body.varint()?).map_err(|_| "a header count is negative")?;
        let headers = body.rest;
        for _ in 0..header_count {
            body.bytes()?.ok_or("a header has no key")?;
            body.bytes()?;
        }
        if !body.rest.is_empty() {
            return Err("bytes follow the headers");
        }
        Ok(Record {
            timestamp_delta,
            offset_delta,
            key,
            value,
            encoded,
            attributes,
            behind_timestamp,
            header_count,
            headers,
        })
    }
}

/// Iterates over records; ends after the first error, or when the header's count is reached.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    input: Input<'a>,
    declared: i32,
    found: usize,
    ended: bool,
    skips_malformed: bool,
}

impl<'a> RecordIter<'a> {
    /// The records of an uncompressed payload of which the header says that it has `declared`.
    pub fn new(payload: &'a [u8], declared: i32) -> RecordIter<'a> {
        RecordIter {
            input: Input { rest: payload },
            declared,
            found: 0,
            ended: false,
            skips_malformed: false,
        }
    }

    /// Goes on behind a malformed record, as long as its length is possible: to find every one of them.
    pub fn skip_malformed(self) -> RecordIter<'a> {
        RecordIter { skips_malformed: true, ..self }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let counted = self.found as i64 == i64::from(self.declared);
        if counted && self.input.rest.is_empty() {
            self.ended = true;
            return None;
        }
        if counted || self.input.rest.is_empty() {
            self.ended = true;
            let found = self.found + usize::from(counted);
            return Some(Err(BatchError::RecordCount { declared: self.declared, found }));
        }
        let index = self.found;
        self.found += 1;
        let frame = self.input.frame();
        self.ended = frame.is_err();
        let record = frame.and_then(|(encoded, body)| body.body(encoded));
        self.ended |= record.is_err() && !self.skips_malformed;
        Some(record.map_err(|what| BatchError::Record { index, what }))
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
