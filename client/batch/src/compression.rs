//! The four compressions, with a bound on what comes out that holds while it comes.

use std::io::{self, Read, Write};

use crate::{BatchError, lz4};

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy, in the framing of xerial's Java library, or raw.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// First bytes of xerial's Snappy framing; two version numbers follow.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEAD_BYTES: usize = 16;
/// Uncompressed bytes of one xerial block, as the Java library writes them.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// Memory for what comes out grows with it up to this size; then it is taken at once up to the caller's bound, so that
/// nothing that was outgrown is left behind. What is never written takes no memory.
const GROWN_BYTES_MAX: usize = 1 << 20;
/// Log 2 of the largest Zstandard window that is taken: 128 MiB.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Codec {
    pub(crate) fn from_number(number: i16) -> Result<Codec, BatchError> {
        match number {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            other => Err(BatchError::Codec(other)),
        }
    }

    pub(crate) fn number(self) -> i16 {
        self as i16
    }

    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    pub(crate) fn failed(self, reason: impl std::fmt::Display) -> BatchError {
        BatchError::Decompress { codec: self.name(), reason: reason.to_string() }
    }
}

/// Compresses records.
pub fn compress(codec: Codec, level: Option<i32>, input: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => {
            let level = level
                .map_or(flate2::Compression::default(), |n| flate2::Compression::new(n.clamp(0, 9) as u32));
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(input)?;
            encoder.finish()
        }
        Codec::Snappy => compress_xerial(input),
        Codec::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(input)?;
            encoder.finish().map_err(io::Error::other)
        }
        Codec::Zstd => zstd::bulk::compress(input, level.unwrap_or(3)),
    }
}

fn compress_xerial(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = XERIAL_MAGIC.to_vec();
    out.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(block).map_err(io::Error::other)?;
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    Ok(out)
}

/// Checks what decompressing does not: whether other readers can decompress it too. Kafka's Java client reads LZ4 frames
/// of independent blocks only, and librdkafka none without an end or with something behind it.
pub fn check_portable(codec: Codec, input: &[u8]) -> Result<(), BatchError> {
    if codec == Codec::Lz4 { lz4::check_frame(input).map_err(|what| codec.failed(what)) } else { Ok(()) }
}

/// Decompresses records; never holds more than `bytes_max` of them, whatever the input declares.
pub fn decompress(codec: Codec, input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    match codec {
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => read_all(codec, flate2::read::MultiGzDecoder::new(input), input.len(), bytes_max),
        Codec::Snappy => decompress_snappy(input, bytes_max),
        Codec::Lz4 => read_all(codec, lz4_flex::frame::FrameDecoder::new(input), input.len(), bytes_max),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(input).map_err(|e| codec.failed(e))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|e| codec.failed(e))?;
            read_all(codec, decoder, input.len(), bytes_max)
        }
    }
}

fn read_all(codec: Codec, reader: impl Read, from: usize, bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    // Records usually expand to a few times of what they were.
    let mut out = Vec::with_capacity(from.saturating_mul(4).min(bytes_max).min(GROWN_BYTES_MAX));
    let mut reader = reader.take(bytes_max as u64 + 1);
    let mut read = |bytes, out: &mut Vec<u8>| reader.by_ref().take(bytes).read_to_end(out);
    if read(GROWN_BYTES_MAX as u64, &mut out).map_err(|e| codec.failed(e))? == GROWN_BYTES_MAX {
        out.reserve_exact((bytes_max + 1).saturating_sub(GROWN_BYTES_MAX));
        read(u64::MAX, &mut out).map_err(|e| codec.failed(e))?;
    }
    if out.len() > bytes_max { Err(BatchError::TooLarge { bytes_max }) } else { Ok(out) }
}

fn decompress_snappy(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    let mut snappy = Snappy::new(input);
    while let Some(block) = snappy.next_block()? {
        let (start, bytes) = (out.len(), snappy_block_bytes(block)?);
        if bytes > bytes_max - start {
            return Err(BatchError::TooLarge { bytes_max });
        }
        out.resize(start + bytes, 0);
        snap::raw::Decoder::new()
            .decompress(block, &mut out[start..])
            .map_err(|e| Codec::Snappy.failed(e))?;
    }
    Ok(out)
}

/// The blocks of a payload compressed with Snappy: those of xerial's framing, or a single one.
pub(crate) enum Snappy<'a> {
    Raw(Option<&'a [u8]>),
    XerialHead(&'a [u8]),
    XerialBlocks(&'a [u8]),
}

impl<'a> Snappy<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Snappy<'a> {
        if input.starts_with(&XERIAL_MAGIC) { Snappy::XerialHead(input) } else { Snappy::Raw(Some(input)) }
    }

    pub(crate) fn next_block(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        let cut = |what| move || Codec::Snappy.failed(what);
        let rest = match self {
            Snappy::Raw(block) => return Ok(block.take()),
            Snappy::XerialHead(stream) => {
                stream.get(XERIAL_HEAD_BYTES..).ok_or_else(cut("the stream's head is cut"))?
            }
            Snappy::XerialBlocks(rest) => rest,
        };
        *self = Snappy::XerialBlocks(rest);
        if rest.is_empty() {
            return Ok(None);
        }
        let (length, behind) = rest.split_first_chunk().ok_or_else(cut("a block is cut"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, behind) = behind.split_at_checked(length).ok_or_else(cut("a block is cut"))?;
        *self = Snappy::XerialBlocks(behind);
        Ok(Some(block))
    }
}

/// How many bytes a block says that it holds.
pub(crate) fn snappy_block_bytes(block: &[u8]) -> Result<usize, BatchError> {
    let bytes = snap::raw::decompress_len(block).map_err(|e| Codec::Snappy.failed(e))?;
    // No block expands more than about 22 times.
    if bytes > block.len().saturating_mul(64) {
        return Err(Codec::Snappy.failed("a block says that it holds more than it can"));
    }
    Ok(bytes)
}
