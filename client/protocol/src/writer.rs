//! Writing a frame: small values into one buffer, record sets as references between its pieces.

use bytes::Bytes;

use crate::reader::STRING_BYTES_MAX;
use crate::{EncodeError, Records, Uuid};

/// Pieces of a record set below this are copied: a reference costs a system call's vector entry and an atomic count,
/// which is about what it costs to copy this much.
pub const COPIED_BYTES_MAX: usize = 1024;
/// Room that a new writer has.
const INITIAL_BYTES: usize = 256;
const FRAME_LENGTH_BYTES: usize = 4;
const LENGTH_MAX: usize = i32::MAX as usize;

type Result = std::result::Result<(), EncodeError>;

/// Writes values one behind the other; the result is a chain of `Bytes`.
///
/// Invariant: `shared` is ordered by its positions, each within `buffer`.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    /// Bytes that belong in front of the buffer's byte at that position.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

impl Writer {
    /// A writer without bytes.
    pub fn new() -> Writer {
        Writer { buffer: Vec::with_capacity(INITIAL_BYTES), shared: Vec::new(), shared_bytes: 0 }
    }
    /// A writer that begins with room for a frame's length; ends with [`Writer::finish_frame`].
    pub fn frame() -> Writer {
        let mut writer = Writer::new();
        writer.i32(0);
        writer
    }
    /// Bytes that were written.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.shared_bytes
    }
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written, as few pieces as there can be without a copy.
    pub fn finish(self) -> Vec<Bytes> {
        let buffer = Bytes::from(self.buffer);
        if self.shared.is_empty() {
            return vec![buffer];
        }
        let mut chain = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut from = 0;
        for (at, piece) in self.shared {
            if at > from {
                chain.push(buffer.slice(from..at));
            }
            chain.push(piece);
            from = at;
        }
        if from < buffer.len() {
            chain.push(buffer.slice(from..));
        }
        chain
    }
    /// What was written in one piece; copies when there are several.
    pub fn finish_contiguous(self) -> Bytes {
        let mut chain = self.finish();
        match chain.pop() {
            Some(only) if chain.is_empty() => only,
            Some(last) => {
                chain.push(last);
                Bytes::from(chain.concat())
            }
            None => Bytes::new(),
        }
    }
    /// The frame that [`Writer::frame`] began, with its length filled in.
    pub fn finish_frame(mut self) -> std::result::Result<Vec<Bytes>, EncodeError> {
        let bytes = self.len().saturating_sub(FRAME_LENGTH_BYTES);
        let length = i32::try_from(bytes).map_err(|_| EncodeError::Frame { bytes, bytes_max: LENGTH_MAX })?;
        if let Some(place) = self.buffer.get_mut(..FRAME_LENGTH_BYTES) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(self.finish())
    }

    /// One byte, 1 or 0.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.buffer.push(u8::from(value));
    }
    /// A signed byte.
    #[inline]
    pub fn i8(&mut self, value: i8) {
        self.buffer.push(value as u8);
    }
    /// Two bytes, signed.
    #[inline]
    pub fn i16(&mut self, value: i16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }
    /// Two bytes, unsigned.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }
    /// Four bytes, signed.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }
    /// Eight bytes, signed.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }
    /// Eight bytes, a float.
    #[inline]
    pub fn f64(&mut self, value: f64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }
    /// Sixteen bytes, an id.
    #[inline]
    pub fn uuid(&mut self, value: Uuid) {
        self.buffer.extend_from_slice(&value.0);
    }
    /// An unsigned varint of at most 32 bits.
    #[inline]
    pub fn uvarint(&mut self, value: u32) {
        self.uvarlong(value.into());
    }
    /// An unsigned varint of at most 64 bits.
    #[inline]
    pub fn uvarlong(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }
    /// A zig-zag varint of at most 32 bits.
    pub fn varint(&mut self, value: i32) {
        self.uvarint(((value << 1) ^ (value >> 31)) as u32);
    }
    /// A zig-zag varint of at most 64 bits.
    pub fn varlong(&mut self, value: i64) {
        self.uvarlong(((value << 1) ^ (value >> 63)) as u64);
    }
    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// A length of bytes or elements: a varint of one more when `flex`, else four bytes.
    #[inline]
    pub fn array_length(&mut self, length: usize, flex: bool, field: &'static str) -> Result {
        if length > LENGTH_MAX {
            return Err(EncodeError::TooLong { field, length, length_max: LENGTH_MAX });
        }
        if flex {
            self.uvarint(length as u32 + 1);
        } else {
            self.i32(length as i32);
        }
        Ok(())
    }
    /// Text, compact when `flex`.
    #[inline]
    pub fn string(&mut self, text: &str, flex: bool, field: &'static str) -> Result {
        let length = text.len();
        if length > STRING_BYTES_MAX {
            return Err(EncodeError::TooLong { field, length, length_max: STRING_BYTES_MAX });
        }
        if flex {
            self.uvarint(length as u32 + 1);
        } else {
            self.i16(length as i16);
        }
        self.buffer.extend_from_slice(text.as_bytes());
        Ok(())
    }
    /// The null of strings.
    pub fn null_string(&mut self, flex: bool) {
        if flex { self.uvarint(0) } else { self.i16(-1) }
    }
    /// The null of bytes, record sets and arrays.
    pub fn null_bytes(&mut self, flex: bool) {
        if flex { self.uvarint(0) } else { self.i32(-1) }
    }
    /// Bytes with their length, compact when `flex`; large ones are shared, not copied.
    pub fn bytes(&mut self, bytes: &Bytes, flex: bool, field: &'static str) -> Result {
        self.array_length(bytes.len(), flex, field)?;
        self.piece(bytes);
        Ok(())
    }
    /// A record set; null is written as an empty one.
    pub fn records(&mut self, records: &Records, flex: bool, field: &'static str) -> Result {
        self.array_length(records.len(), flex, field)?;
        records.pieces().iter().for_each(|piece| self.piece(piece));
        Ok(())
    }
    /// A record set or null.
    pub fn nullable_records(&mut self, records: &Records, flex: bool, field: &'static str) -> Result {
        if records.is_none() {
            self.null_bytes(flex);
            return Ok(());
        }
        self.records(records, flex, field)
    }

    fn piece(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPIED_BYTES_MAX {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.shared.push((self.buffer.len(), bytes.clone()));
            self.shared_bytes += bytes.len();
        }
    }

    /// A tagged field: its tag, the size of what `write` writes, and that.
    pub fn tagged(&mut self, tag: u32, write: impl FnOnce(&mut Writer) -> Result) -> Result {
        self.uvarint(tag);
        let (begin, before, pieces) = (self.buffer.len(), self.len(), self.shared.len());
        write(self)?;
        let size = self.len() - before;
        let size =
            u32::try_from(size).map_err(|_| EncodeError::Frame { bytes: size, bytes_max: LENGTH_MAX })?;
        // The size is known only now: it is written behind the content, and moved in front of it.
        let end = self.buffer.len();
        self.uvarint(size);
        let moved = self.buffer.len() - end;
        self.buffer[begin..].rotate_right(moved);
        self.shared[pieces..].iter_mut().for_each(|(at, _)| *at += moved);
        Ok(())
    }
}
