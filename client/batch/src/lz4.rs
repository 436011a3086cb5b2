//! The frame of LZ4 blocks that every Kafka client can read.
//!
//! A frame: magic, flags, block size, optional content size, a checksum of these; blocks, each with a length prefix and an
//! optional checksum; a block length of 0, and an optional checksum of the content. Kafka's Java client reads only frames
//! of independent blocks, and librdkafka only frames with an end and without trailing bytes.
//! Source: the LZ4 frame format description, version 1.6.

use std::hash::Hasher;

use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
const VERSION: u8 = 0xc0;
const VERSION_1: u8 = 0x40;
const INDEPENDENT: u8 = 0x20;
const BLOCK_CHECKSUM: u8 = 0x10;
const CONTENT_SIZE: u8 = 0x08;
const CONTENT_CHECKSUM: u8 = 0x04;
const RESERVED: u8 = 0x02;
const DICTIONARY: u8 = 0x01;
/// Reserved bits of the block size byte.
const SIZE_RESERVED: u8 = 0x8f;
/// Set in the length of a block that is stored as it is.
const STORED: u32 = 1 << 31;

const CUT: &str = "the frame is cut";

pub(crate) type Malformed = &'static str;

/// A frame, as far as it has been read.
pub(crate) struct Frame<'a> {
    /// The bytes that the header's checksum covers.
    head: &'a [u8],
    head_checksum: u8,
    flags: u8,
    block_size: u8,
    rest: &'a [u8],
}

/// A block of a frame.
pub(crate) struct Block<'a> {
    pub(crate) bytes: &'a [u8],
    /// It is not compressed.
    pub(crate) is_stored: bool,
    checksum: Option<u32>,
}

/// The content's size and checksum as the frame states them.
pub(crate) struct End {
    size: Option<u64>,
    checksum: Option<u32>,
}

impl<'a> Frame<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Result<Frame<'a>, Malformed> {
        let (magic, rest) = input.split_first_chunk::<4>().ok_or(CUT)?;
        if u32::from_le_bytes(*magic) != MAGIC {
            return Err("it does not begin with a frame");
        }
        let &[flags, block_size, ..] = rest else { return Err(CUT) };
        if flags & INDEPENDENT == 0 {
            return Err("its blocks depend on one another, which Kafka's clients do not read");
        }
        if flags & DICTIONARY != 0 {
            return Err("it needs a dictionary");
        }
        let head_bytes = if flags & CONTENT_SIZE == 0 { 2 } else { 10 };
        let (head, rest) = rest.split_at_checked(head_bytes).ok_or(CUT)?;
        let (&head_checksum, rest) = rest.split_first().ok_or(CUT)?;
        Ok(Frame { head, head_checksum, flags, block_size, rest })
    }

    /// Checks the header, and returns the largest block size.
    pub(crate) fn block_bytes_max(&self) -> Result<usize, Malformed> {
        if self.flags & VERSION != VERSION_1 {
            return Err("the frame's version is not supported");
        }
        if self.flags & RESERVED != 0 || self.block_size & SIZE_RESERVED != 0 {
            return Err("a reserved bit is set");
        }
        if (checksum(self.head) >> 8) as u8 != self.head_checksum {
            return Err("the header's checksum is wrong");
        }
        match self.block_size >> 4 {
            size @ 4..=7 => Ok(1 << (8 + 2 * size)),
            _ => Err("the block size does not exist"),
        }
    }

    /// The next block, not decompressed; in place of it the end of the frame, which must be the end of the input.
    pub(crate) fn next_block(&mut self) -> Result<Result<Block<'a>, End>, Malformed> {
        let length = self.number()?;
        if length == 0 {
            let checksum = self.checksum_if(CONTENT_CHECKSUM)?;
            let size = self.head.get(2..).and_then(|size| size.first_chunk()).copied();
            let end = End { size: size.map(u64::from_le_bytes), checksum };
            return if self.rest.is_empty() { Ok(Err(end)) } else { Err("bytes follow the frame") };
        }
        let bytes_len = (length & !STORED) as usize;
        if bytes_len == 0 {
            return Err("it has an empty block, which Kafka's client takes for the end and others do not");
        }
        let (bytes, rest) = self.rest.split_at_checked(bytes_len).ok_or(CUT)?;
        self.rest = rest;
        let checksum = self.checksum_if(BLOCK_CHECKSUM)?;
        Ok(Ok(Block { bytes, is_stored: length & STORED != 0, checksum }))
    }

    /// Whether the content has a checksum.
    pub(crate) fn has_checksum(&self) -> bool {
        self.flags & CONTENT_CHECKSUM != 0
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*number))
    }

    fn checksum_if(&mut self, flag: u8) -> Result<Option<u32>, Malformed> {
        if self.flags & flag == 0 { Ok(None) } else { self.number().map(Some) }
    }
}

impl Block<'_> {
    pub(crate) fn check(&self) -> Result<(), Malformed> {
        match self.checksum {
            Some(stored) if stored != checksum(self.bytes) => Err("a block's checksum is wrong"),
            _ => Ok(()),
        }
    }
}

impl End {
    /// Compares the content with the stated size and checksum.
    pub(crate) fn check(&self, content_bytes: u64, content: Option<&XxHash32>) -> Result<(), Malformed> {
        if self.size.is_some_and(|size| size != content_bytes) {
            return Err("the content has another size than the header says");
        }
        match (self.checksum, content) {
            (Some(stored), Some(content)) if u64::from(stored) != content.finish() => {
                Err("the content's checksum is wrong")
            }
            _ => Ok(()),
        }
    }
}

/// Checks that the frame is complete and that no bytes follow it.
pub(crate) fn check_frame(input: &[u8]) -> Result<(), Malformed> {
    let mut frame = Frame::new(input)?;
    while frame.next_block()?.is_ok() {}
    Ok(())
}

fn checksum(bytes: &[u8]) -> u32 {
    XxHash32::oneshot(0, bytes)
}
