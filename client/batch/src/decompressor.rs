//! Decompresses a payload piece by piece: no more than one piece is in memory at a time.

use std::{cell::Cell, hash::Hasher, io::Read};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::block::DecompressError;
use twox_hash::XxHash32;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

use crate::{
    BatchError, Codec,
    compression::{Snappy, ZSTD_WINDOW_LOG_MAX, snappy_block_bytes},
    lz4,
};

/// A payload that is read in pieces.
pub(crate) trait Chunks {
    /// The next bytes; empty at the end.
    fn chunk(&mut self) -> Result<&[u8], BatchError>;
    /// Consumes the first `n` bytes of the chunk.
    fn consume(&mut self, n: usize);
}

impl Chunks for &[u8] {
    fn chunk(&mut self) -> Result<&[u8], BatchError> {
        Ok(self)
    }

    fn consume(&mut self, n: usize) {
        *self = &self[n..];
    }
}

/// Limits for decompressing a payload piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Most bytes of one piece and of the decompressor's history: a block of LZ4 or Snappy, a window of Zstandard. A
    /// payload with a larger window may itself have at most this many bytes.
    pub memory_bytes_max: usize,
    /// Most decompressed bytes.
    pub payload_bytes_max: usize,
}

/// Bytes of a piece, unless a block of the payload is larger.
const PIECE_BYTES: usize = 64 << 10;
/// A buffer that grew larger is not kept for the next payload.
const BUFFER_KEPT_BYTES_MAX: usize = 256 << 10;
/// A larger Zstandard context is not kept either; one for the 2 MiB window of Kafka's Java client is smaller.
const CONTEXT_KEPT_BYTES_MAX: usize = 3 << 20;

/// Memory that the next payload on the same thread reuses.
#[derive(Default)]
struct Workspace {
    /// Its length is the largest that was requested.
    buffer: Vec<u8>,
    zstd: Option<DCtx<'static>>,
}

thread_local! {
    static WORKSPACE: Cell<Option<Workspace>> = const { Cell::new(None) };
}

impl Workspace {
    fn take() -> Workspace {
        WORKSPACE.take().unwrap_or_default()
    }

    fn give_back(mut self) {
        if self.buffer.len() > BUFFER_KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        self.zstd = self.zstd.filter(|context| context.sizeof() <= CONTEXT_KEPT_BYTES_MAX);
        // At the end of the thread there is nothing to keep it for.
        let _ = WORKSPACE.try_with(|kept| kept.set(Some(self)));
    }

    /// The buffer, with at least this length.
    fn buffer(&mut self, bytes: usize) -> &mut [u8] {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        &mut self.buffer
    }
}

/// A piece of a payload.
enum Piece<'a> {
    /// It lies in the input.
    Stored(&'a [u8]),
    /// The first bytes of the workspace's buffer.
    Buffered(usize),
    End,
}

/// The state of each codec's decoder.
enum Decoder<'a> {
    None,
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    Snappy(Snappy<'a>),
    Lz4(Lz4<'a>),
    Zstd(Zstd<'a>),
}

/// A payload that is decompressed while it is read.
pub(crate) struct Decompressor<'a> {
    codec: Codec,
    decoder: Decoder<'a>,
    limits: StreamLimits,
    workspace: Workspace,
    stored: &'a [u8],
    /// The unread part of the buffer.
    buffered: std::ops::Range<usize>,
    /// Bytes decompressed so far.
    payload_bytes: u64,
}

impl<'a> Decompressor<'a> {
    pub(crate) fn new(codec: Codec, input: &'a [u8], limits: StreamLimits) -> Decompressor<'a> {
        let (decoder, stored) = match codec {
            Codec::None => (Decoder::None, input),
            Codec::Gzip => (Decoder::Gzip(Box::new(MultiGzDecoder::new(input))), &[][..]),
            Codec::Snappy => (Decoder::Snappy(Snappy::new(input)), &[][..]),
            Codec::Lz4 => (Decoder::Lz4(Lz4::Head(input)), &[][..]),
            Codec::Zstd => (Decoder::Zstd(Zstd { input, read: 0, in_frame: None }), &[][..]),
        };
        let workspace = if codec == Codec::None { Workspace::default() } else { Workspace::take() };
        Decompressor { codec, decoder, limits, workspace, stored, buffered: 0..0, payload_bytes: 0 }
    }

    fn next_piece(&mut self) -> Result<Piece<'a>, BatchError> {
        let workspace = &mut self.workspace;
        match &mut self.decoder {
            Decoder::None => Ok(Piece::End),
            Decoder::Gzip(decoder) => {
                let read = decoder.read(workspace.buffer(PIECE_BYTES));
                read.map(Piece::read).map_err(|error| self.codec.failed(error))
            }
            Decoder::Snappy(snappy) => snappy.next_piece(workspace, &self.limits),
            Decoder::Lz4(lz4) => lz4.next_piece(workspace, &self.limits, self.payload_bytes),
            Decoder::Zstd(zstd) => zstd.next_piece(workspace, &mut self.limits),
        }
    }

    fn refill(&mut self) -> Result<(), BatchError> {
        while self.stored.is_empty() && self.buffered.is_empty() {
            let bytes = match self.next_piece()? {
                Piece::End => return Ok(()),
                Piece::Stored(bytes) => {
                    self.stored = bytes;
                    bytes.len()
                }
                Piece::Buffered(bytes) => {
                    self.buffered = 0..bytes;
                    bytes
                }
            };
            self.payload_bytes += bytes as u64;
            let bytes_max = self.limits.payload_bytes_max;
            if self.payload_bytes > bytes_max as u64 {
                return Err(BatchError::TooLarge { bytes_max });
            }
        }
        Ok(())
    }
}

impl Chunks for Decompressor<'_> {
    fn chunk(&mut self) -> Result<&[u8], BatchError> {
        self.refill()?;
        match self.stored {
            [] => Ok(&self.workspace.buffer[self.buffered.clone()]),
            stored => Ok(stored),
        }
    }

    fn consume(&mut self, n: usize) {
        match self.stored {
            [] => self.buffered.start += n,
            stored => self.stored = &stored[n..],
        }
    }
}

impl Drop for Decompressor<'_> {
    fn drop(&mut self) {
        if self.codec != Codec::None {
            std::mem::take(&mut self.workspace).give_back();
        }
    }
}

impl Piece<'_> {
    /// A piece from a reader, for which 0 bytes are the end.
    fn read(bytes: usize) -> Self {
        if bytes == 0 { Piece::End } else { Piece::Buffered(bytes) }
    }
}

impl<'a> Snappy<'a> {
    fn next_piece(
        &mut self,
        workspace: &mut Workspace,
        limits: &StreamLimits,
    ) -> Result<Piece<'a>, BatchError> {
        let Some(block) = self.next_block()? else { return Ok(Piece::End) };
        let bytes = snappy_block_bytes(block)?;
        let bytes_max = limits.memory_bytes_max.min(limits.payload_bytes_max);
        if bytes > bytes_max {
            return Err(BatchError::TooLarge { bytes_max });
        }
        let out = &mut workspace.buffer(bytes)[..bytes];
        let decompressed = snap::raw::Decoder::new().decompress(block, out);
        decompressed.map(Piece::Buffered).map_err(|error| Codec::Snappy.failed(error))
    }
}

/// An LZ4 frame that every client can read.
enum Lz4<'a> {
    Head(&'a [u8]),
    Blocks { frame: lz4::Frame<'a>, block_bytes_max: usize, content: Option<XxHash32> },
    End,
}

impl<'a> Lz4<'a> {
    fn next_piece(
        &mut self,
        workspace: &mut Workspace,
        limits: &StreamLimits,
        content_bytes: u64,
    ) -> Result<Piece<'a>, BatchError> {
        let failed = |what| Codec::Lz4.failed(what);
        if let Lz4::Head(input) = self {
            let frame = lz4::Frame::new(input).map_err(failed)?;
            let block_bytes_max = frame.block_bytes_max().map_err(failed)?;
            let content = frame.has_checksum().then(|| XxHash32::with_seed(0));
            *self = Lz4::Blocks { frame, block_bytes_max, content };
        }
        let Lz4::Blocks { frame, block_bytes_max, content } = self else { return Ok(Piece::End) };
        let block = match frame.next_block().map_err(failed)? {
            Ok(block) => block,
            Err(end) => {
                end.check(content_bytes, content.as_ref()).map_err(failed)?;
                *self = Lz4::End;
                return Ok(Piece::End);
            }
        };
        block.check().map_err(failed)?;
        if block.bytes.len() > *block_bytes_max {
            return Err(failed("a block is larger than the header allows"));
        }
        if block.is_stored {
            content.iter_mut().for_each(|content| content.write(block.bytes));
            return Ok(Piece::Stored(block.bytes));
        }
        let bytes = lz4_block(block.bytes, workspace, *block_bytes_max, limits)?;
        content.iter_mut().for_each(|content| content.write(&workspace.buffer[..bytes]));
        Ok(Piece::Buffered(bytes))
    }
}

/// Decompresses a block. It does not state its decompressed length: the buffer grows while it is too small.
fn lz4_block(
    block: &[u8],
    workspace: &mut Workspace,
    block_bytes_max: usize,
    limits: &StreamLimits,
) -> Result<usize, BatchError> {
    let mut room = PIECE_BYTES.min(block_bytes_max);
    loop {
        let bytes_max = room.min(limits.memory_bytes_max);
        match lz4_flex::block::decompress_into(block, &mut workspace.buffer(bytes_max)[..bytes_max]) {
            Ok(bytes) => return Ok(bytes),
            Err(DecompressError::OutputTooSmall { .. }) if room > bytes_max => {
                return Err(BatchError::TooLarge { bytes_max });
            }
            Err(DecompressError::OutputTooSmall { .. }) if room < block_bytes_max => {
                room = (4 * room).min(block_bytes_max);
            }
            Err(error) => return Err(Codec::Lz4.failed(error)),
        }
    }
}

/// Consecutive Zstandard frames.
struct Zstd<'a> {
    input: &'a [u8],
    read: usize,
    /// Whether a frame has begun and not ended; `None` before the first one.
    in_frame: Option<bool>,
}

impl<'a> Zstd<'a> {
    fn next_piece(
        &mut self,
        workspace: &mut Workspace,
        limits: &mut StreamLimits,
    ) -> Result<Piece<'a>, BatchError> {
        let failed = |code| Codec::Zstd.failed(get_error_name(code));
        workspace.buffer(PIECE_BYTES);
        let Workspace { buffer, zstd } = workspace;
        let context = zstd.get_or_insert_with(DCtx::create);
        if self.in_frame.is_none() {
            context.reset(ResetDirective::SessionOnly).map_err(failed)?;
            context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(failed)?;
        }
        loop {
            let is_at_end = self.read == self.input.len();
            if self.in_frame == Some(false) && is_at_end {
                return Ok(Piece::End);
            }
            if self.in_frame != Some(true) {
                limits.allow_window(zstd_window_bytes(&self.input[self.read..]));
            }
            let mut input = InBuffer { src: self.input, pos: self.read };
            let mut output = OutBuffer::around(&mut buffer[..]);
            let missing = context.decompress_stream(&mut output, &mut input).map_err(failed)?;
            self.in_frame = Some(missing > 0);
            self.read = input.pos;
            match output.pos() {
                0 if is_at_end => return Err(Codec::Zstd.failed("a frame is cut")),
                0 => {}
                bytes => return Ok(Piece::Buffered(bytes)),
            }
        }
    }
}

impl StreamLimits {
    /// A window never holds more than the decompressed bytes, so a small payload may declare a large window.
    fn allow_window(&mut self, window_bytes: u64) {
        if window_bytes > self.memory_bytes_max as u64 {
            self.payload_bytes_max = self.payload_bytes_max.min(self.memory_bytes_max);
        }
    }
}

/// Bytes of a Zstandard frame's window; 0 if it has none, or no header that can be read.
/// Source: RFC 8878, section 3.1.1.1.
fn zstd_window_bytes(frame: &[u8]) -> u64 {
    const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
    const SINGLE_SEGMENT: u8 = 0x20;
    let Some((&descriptor, rest)) = frame.strip_prefix(&MAGIC).and_then(<[u8]>::split_first) else {
        return 0;
    };
    if descriptor & SINGLE_SEGMENT == 0 {
        let Some(&window) = rest.first() else { return 0 };
        let base = 1 << (10 + (window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    // The content is its own window.
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = 1 << (descriptor >> 6);
    let Some(size) = rest.get(dictionary_bytes..dictionary_bytes + size_bytes) else { return 0 };
    let mut number = [0; 8];
    number[..size_bytes].copy_from_slice(size);
    u64::from_le_bytes(number) + if size_bytes == 2 { 256 } else { 0 }
}
