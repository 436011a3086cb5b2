//! Reading a frame. Every length is checked against the bytes that are left before anything is done with it.

use bytes::Bytes;

use crate::{DecodeError, Records, Str, Uuid};

/// Most elements of one array; Kafka's own limit.
pub const ARRAY_ELEMENTS_MAX: usize = 1_000_000;
/// Most tagged fields of one struct; Kafka's own limit.
pub const TAGGED_FIELDS_MAX: usize = 10_000;
/// Room that is made for an array's elements before any of them was read.
pub const RESERVED_ELEMENTS_MAX: usize = 1_000;
/// Longest string; Kafka's own limit, for compact strings too.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;
/// Arrays of one frame take at most this many times the frame's bytes, and the allowance below.
pub const MEMORY_PER_FRAME_BYTE_MAX: usize = 8;
/// What arrays may take however small the frame is.
pub const MEMORY_ALLOWANCE_BYTES: usize = 1 << 20;

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads values off the front of a frame.
///
/// Invariants: `at <= end <= frame.len()`; no method allocates for more elements than the bytes left can hold, nor in
/// sum more than [`MEMORY_PER_FRAME_BYTE_MAX`] times the frame's bytes and [`MEMORY_ALLOWANCE_BYTES`]; no method panics.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    at: usize,
    end: usize,
    memory_left: usize,
}

impl Reader {
    /// A reader at the beginning of `frame`.
    pub fn new(frame: Bytes) -> Reader {
        let memory_left =
            frame.len().saturating_mul(MEMORY_PER_FRAME_BYTE_MAX).saturating_add(MEMORY_ALLOWANCE_BYTES);
        Reader { at: 0, end: frame.len(), frame, memory_left }
    }
    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }
    /// Bytes that were read.
    pub fn position(&self) -> usize {
        self.at
    }
    /// What is left, as a slice of the frame.
    pub fn rest(&mut self) -> Bytes {
        let rest = self.frame.slice(self.at..self.end);
        self.at = self.end;
        rest
    }
    /// The next two bytes, left where they are.
    pub fn peek_i16(&self) -> Option<i16> {
        self.frame[self.at..self.end].first_chunk().map(|bytes| i16::from_be_bytes(*bytes))
    }
    /// Refuses bytes behind what was read.
    pub fn finish(&self) -> Result<()> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { at: self.at, bytes }),
        }
    }

    #[inline]
    fn advance(&mut self, bytes: usize) -> Result<usize> {
        let (at, have) = (self.at, self.end - self.at);
        if bytes > have {
            return Err(DecodeError::Truncated { at, need: bytes, have });
        }
        self.at = at + bytes;
        Ok(at)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.advance(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.frame[at..at + N]);
        Ok(out)
    }

    fn slice(&mut self, bytes: usize) -> Result<Bytes> {
        let at = self.advance(bytes)?;
        Ok(self.frame.slice(at..at + bytes))
    }

    /// A byte that is true unless it is zero.
    #[inline]
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.fixed::<1>()?[0] != 0)
    }
    /// A signed byte.
    #[inline]
    pub fn i8(&mut self) -> Result<i8> {
        Ok(i8::from_be_bytes(self.fixed()?))
    }
    /// Two bytes, signed.
    #[inline]
    pub fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }
    /// Two bytes, unsigned.
    #[inline]
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.fixed()?))
    }
    /// Four bytes, signed.
    #[inline]
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }
    /// Eight bytes, signed.
    #[inline]
    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }
    /// Eight bytes, a float.
    #[inline]
    pub fn f64(&mut self) -> Result<f64> {
        Ok(f64::from_be_bytes(self.fixed()?))
    }
    /// Sixteen bytes, an id.
    #[inline]
    pub fn uuid(&mut self) -> Result<Uuid> {
        Ok(Uuid(self.fixed()?))
    }

    /// An unsigned varint of at most 32 bits.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32> {
        let at = self.at;
        // Nearly all lengths and counts take one byte.
        if let Some(byte) = self.frame[at..self.end].first().filter(|byte| **byte < 0x80) {
            self.at = at + 1;
            return Ok(u32::from(*byte));
        }
        let value = self.uvarint_bits(5)?;
        u32::try_from(value).map_err(|_| DecodeError::Varint { at })
    }
    /// An unsigned varint of at most 64 bits.
    pub fn uvarlong(&mut self) -> Result<u64> {
        self.uvarint_bits(10)
    }
    /// A zig-zag varint of at most 32 bits.
    pub fn varint(&mut self) -> Result<i32> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }
    /// A zig-zag varint of at most 64 bits.
    pub fn varlong(&mut self) -> Result<i64> {
        let raw = self.uvarlong()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn uvarint_bits(&mut self, bytes_max: u32) -> Result<u64> {
        let begin = self.at;
        let mut value = 0u64;
        for group in 0..bytes_max {
            let byte = u64::from(self.fixed::<1>()?[0]);
            // The tenth byte has room for one bit only.
            if group == 9 && byte > 1 {
                break;
            }
            value |= (byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at: begin })
    }

    /// A length or count: a varint less one when `flex`, else four bytes; `None` is null.
    #[inline]
    fn length(&mut self, flex: bool) -> Result<Option<usize>> {
        if flex {
            return Ok(self.uvarint()?.checked_sub(1).map(|length| length as usize));
        }
        let length = self.i32()?;
        self.checked_length(length.into())
    }

    #[inline]
    fn checked_length(&self, length: i64) -> Result<Option<usize>> {
        match length {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => Ok(Some(length)),
                Err(_) => Err(DecodeError::Length { at: self.at, length }),
            },
        }
    }

    fn not_null<T>(&self, value: Option<T>) -> Result<T> {
        value.ok_or(DecodeError::Null { at: self.at })
    }

    /// Text, compact when `flex`.
    pub fn string(&mut self, flex: bool) -> Result<Str> {
        let value = self.nullable_string(flex)?;
        self.not_null(value)
    }
    /// Text or null, compact when `flex`.
    pub fn nullable_string(&mut self, flex: bool) -> Result<Option<Str>> {
        let length = if flex {
            self.length(true)?
        } else {
            let length = self.i16()?;
            self.checked_length(length.into())?
        };
        let Some(length) = length else { return Ok(None) };
        if length > STRING_BYTES_MAX {
            return Err(DecodeError::Length { at: self.at, length: length as i64 });
        }
        let at = self.at;
        let bytes = self.slice(length)?;
        Str::from_utf8(bytes).map(Some).map_err(|_| DecodeError::Utf8 { at })
    }
    /// Bytes, a slice of the frame.
    pub fn bytes(&mut self, flex: bool) -> Result<Bytes> {
        let value = self.nullable_bytes(flex)?;
        self.not_null(value)
    }
    /// Bytes or null, a slice of the frame.
    pub fn nullable_bytes(&mut self, flex: bool) -> Result<Option<Bytes>> {
        match self.length(flex)? {
            Some(length) => self.slice(length).map(Some),
            None => Ok(None),
        }
    }
    /// A record set that is not null.
    pub fn records(&mut self, flex: bool) -> Result<Records> {
        self.bytes(flex).map(Records::One)
    }
    /// A record set.
    pub fn nullable_records(&mut self, flex: bool) -> Result<Records> {
        Ok(self.nullable_bytes(flex)?.map_or(Records::None, Records::One))
    }

    /// An array whose elements take `element_bytes_min` bytes or more each.
    pub fn array<T>(
        &mut self,
        flex: bool,
        element_bytes_min: usize,
        read: impl FnMut(&mut Reader) -> Result<T>,
    ) -> Result<Vec<T>> {
        let value = self.nullable_array(flex, element_bytes_min, read)?;
        self.not_null(value)
    }
    /// An array or null; see [`Reader::array`].
    pub fn nullable_array<T>(
        &mut self,
        flex: bool,
        element_bytes_min: usize,
        mut read: impl FnMut(&mut Reader) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(count) = self.length(flex)? else { return Ok(None) };
        let count_max = (self.remaining() / element_bytes_min.max(1)).min(ARRAY_ELEMENTS_MAX);
        if count > count_max {
            return Err(DecodeError::Elements { at: self.at, count, count_max });
        }
        let mut items = Vec::new();
        for _ in 0..count {
            if items.len() == items.capacity() {
                self.grow(&mut items, count)?;
            }
            items.push(read(self)?);
        }
        Ok(Some(items))
    }

    /// Makes room for more of `count` elements: at first a bounded number, then as many again.
    fn grow<T>(&mut self, items: &mut Vec<T>, count: usize) -> Result<()> {
        let more = (count - items.len()).min(items.len().max(RESERVED_ELEMENTS_MAX));
        let bytes = more.saturating_mul(size_of::<T>());
        self.memory_left = self.memory_left.checked_sub(bytes).ok_or(DecodeError::Memory { at: self.at })?;
        items.reserve_exact(more);
        Ok(())
    }

    /// Passes over the tagged fields of a struct that knows none.
    pub fn skip_tagged_fields(&mut self) -> Result<()> {
        self.tagged_fields(|_, _| Ok(false))
    }
    /// Reads a struct's tagged fields: `read` gets each tag with a reader that ends where the field does, and says
    /// whether it knows it. What it does not know is passed over.
    pub fn tagged_fields(&mut self, mut read: impl FnMut(&mut Reader, u32) -> Result<bool>) -> Result<()> {
        let count = self.uvarint()? as usize;
        if count > TAGGED_FIELDS_MAX {
            return Err(DecodeError::TaggedFields { at: self.at, count, count_max: TAGGED_FIELDS_MAX });
        }
        for _ in 0..count {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let begin = self.advance(size)?;
            let (field_end, struct_end) = (self.at, self.end);
            (self.at, self.end) = (begin, field_end);
            let known = read(self, tag);
            let left = self.remaining();
            (self.at, self.end) = (field_end, struct_end);
            if known? && left > 0 {
                return Err(DecodeError::TaggedField { at: field_end, tag, left });
            }
        }
        Ok(())
    }
}
