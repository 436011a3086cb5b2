//! The encoding of commands and snapshots: little endian, length-prefixed, with every read bounds-checked.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use bytes::Bytes;

/// Why bytes cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are truncated.
    #[error("the bytes are truncated: {needed} bytes are needed and {left} are left")]
    Truncated {
        /// Length of the next field.
        needed: usize,
        /// Length of the remaining bytes.
        left: usize,
    },
    /// The version is not supported.
    #[error("version {found} is unknown; this broker reads version {known}")]
    Version {
        /// The version found.
        found: u8,
        /// The newest version that this build supports.
        known: u8,
    },
    /// The kind of command is unknown.
    #[error("commands of kind {0} are unknown")]
    Kind(u8),
    /// Bytes follow the end.
    #[error("{0} bytes follow the end")]
    Trailing(usize),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// The value of a field is invalid.
    #[error("{field} cannot be {value}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// Reading the source failed.
    #[error("the bytes cannot be read: {0}")]
    Source(io::ErrorKind),
    /// A record batch is invalid.
    #[error("a record batch is invalid: {0}")]
    Batch(#[from] millstream_model::batch::BatchError),
}

/// Reads from the front of a slice.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let truncated = DecodeError::Truncated { needed: count, left: self.rest.len() };
        let (front, rest) = self.rest.split_at_checked(count).ok_or(truncated)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Value { field, value: other.into() }),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A u32 count of items of at least `bytes_min` bytes each, so that a forged count cannot allocate more
    /// memory than the remaining bytes justify.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        let needed = count.saturating_mul(bytes_min);
        if needed > self.left() {
            return Err(DecodeError::Truncated { needed, left: self.left() });
        }
        Ok(count)
    }

    pub(crate) fn text(&mut self) -> Result<String, DecodeError> {
        let length = self.u32()? as usize;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::Text)?;
        Ok(text.to_string())
    }

    pub(crate) fn optional_text(&mut self) -> Result<Option<String>, DecodeError> {
        if self.flag("the mark of an optional text")? { self.text().map(Some) } else { Ok(None) }
    }

    pub(crate) fn texts(&mut self) -> Result<BTreeMap<String, String>, DecodeError> {
        let count = self.count(8)?;
        (0..count).map(|_| Ok((self.text()?, self.text()?))).collect()
    }

    /// Ends decoding: no bytes may be left.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

/// Bytes of a snapshot that are read or written at once.
const PIECE_BYTES: usize = 64 << 10;

/// Reads a snapshot item by item. Buffers at most the longest item or one piece.
pub(crate) struct Items<R> {
    source: R,
    /// The buffered part of the source, decoded up to `at`.
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Items<R> {
    pub(crate) fn new(source: R) -> Items<R> {
        Items { source, buffer: Vec::new(), at: 0, ended: false }
    }

    /// Decodes the next item. `read` is called again from the item's first byte when more bytes are
    /// available, so it must have no side effects.
    pub(crate) fn item<T>(
        &mut self,
        read: impl Fn(&mut Input<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        loop {
            let mut input = Input::new(&self.buffer[self.at..]);
            match read(&mut input) {
                Err(DecodeError::Truncated { .. }) if !self.ended => {}
                Err(error) => return Err(error),
                Ok(item) => {
                    self.at = self.buffer.len() - input.left();
                    return Ok(item);
                }
            }
            self.fill()?;
        }
    }

    /// Doubles the bytes of an unfinished item, so that a long one is decoded few times.
    fn fill(&mut self) -> Result<(), DecodeError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let wanted = PIECE_BYTES.max(self.buffer.len());
        let read = (&mut self.source).take(wanted as u64).read_to_end(&mut self.buffer);
        self.ended = read.map_err(|error| DecodeError::Source(error.kind()))? < wanted;
        Ok(())
    }

    /// Decodes a u32 count of items.
    pub(crate) fn count(&mut self) -> Result<u32, DecodeError> {
        self.item(|input| input.u32())
    }

    /// Ends decoding: no bytes may be left.
    pub(crate) fn end(mut self) -> Result<(), DecodeError> {
        if !self.ended {
            self.fill()?;
        }
        match self.buffer.len() - self.at {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// Appends to a buffer.
#[derive(Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
}

impl Output {
    pub(crate) fn with_capacity(bytes: usize) -> Output {
        Output { bytes: Vec::with_capacity(bytes) }
    }

    /// A command's first two bytes.
    pub(crate) fn command(version: u8, kind: u8) -> Output {
        Output { bytes: vec![version, kind] }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.bytes.push(value.into());
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// A count or a length. All counts are bounded by limits far below 2³².
    pub(crate) fn count(&mut self, value: usize) {
        assert!(value <= u32::MAX as usize, "{value} does not fit into a u32");
        self.u32(value as u32);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.raw(text.as_bytes());
    }

    pub(crate) fn optional_text(&mut self, text: Option<&str>) {
        self.flag(text.is_some());
        if let Some(text) = text {
            self.text(text);
        }
    }

    pub(crate) fn texts(&mut self, texts: &BTreeMap<String, String>) {
        self.count(texts.len());
        for (key, value) in texts {
            self.text(key);
            self.text(value);
        }
    }

    /// Flushes the buffer once it holds a piece; called after each item, it bounds the memory.
    pub(crate) fn spill(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.bytes.len() < PIECE_BYTES { Ok(()) } else { self.flush(out) }
    }

    /// Flushes the buffer.
    pub(crate) fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn into_command(self) -> Bytes {
        self.bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that returns one byte at a time.
    struct Slowly<'a>(&'a [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = buf.len().min(1);
            self.0.read(&mut buf[..count])
        }
    }

    #[test]
    fn items_are_read_whole_however_their_bytes_come() {
        let texts = ["a".repeat(10), "b".repeat(3 * PIECE_BYTES), String::new(), "c".repeat(PIECE_BYTES)];
        let mut out = Output::default();
        let mut bytes = Vec::new();
        for text in &texts {
            out.text(text);
            out.spill(&mut bytes).expect("memory");
            assert!(out.bytes.len() < PIECE_BYTES);
        }
        out.flush(&mut bytes).expect("memory");
        let mut items = Items::new(Slowly(&bytes));
        for text in &texts {
            assert_eq!(items.item(|input| input.text()).as_ref(), Ok(text));
            assert!(items.buffer.len() <= 8 * PIECE_BYTES, "{}", items.buffer.len());
        }
        assert_eq!(items.end(), Ok(()));
        for (cut, more) in [(bytes.len() - 1, 0), (bytes.len(), 1)] {
            let bytes = [&bytes[..cut], &vec![0; more]].concat();
            let mut items = Items::new(&bytes[..]);
            let read = texts.iter().try_for_each(|_| items.item(|input| input.text()).map(|_| ()));
            assert!(read.and_then(|()| items.end()).is_err(), "{cut} bytes and {more} more");
        }
    }

    #[test]
    fn a_source_that_fails_is_no_end() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let refused = Err(DecodeError::Source(io::ErrorKind::PermissionDenied));
        assert_eq!(Items::new(Fails).count(), refused);
        assert_eq!(Items::new(Fails).end(), refused.map(|_| ()));
    }
}
