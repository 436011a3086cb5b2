//! Reads the records of a payload piece by piece, without their keys and values.

use crate::{
    BatchError,
    decompressor::Chunks,
    records::{Input, Malformed, TOO_LONG, has_more},
};

/// A record without its key, value and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Added to the batch's base timestamp it is the record's, in milliseconds.
    pub timestamp_delta: i64,
    /// Added to the batch's base offset it is the record's.
    pub offset_delta: i32,
    /// Whether the record has a key.
    pub has_key: bool,
}

/// Iterates over records. Continues after a malformed record if its length is valid; ends after any other error, or when
/// the header's count is reached.
pub(crate) struct HeadReader<C> {
    payload: C,
    declared: i32,
    found: usize,
    ended: bool,
}

impl<C: Chunks> HeadReader<C> {
    pub(crate) fn new(payload: C, declared: i32) -> HeadReader<C> {
        HeadReader { payload, declared, found: 0, ended: false }
    }

    /// The declared number of records.
    pub(crate) fn declared(&self) -> usize {
        usize::try_from(self.declared).unwrap_or(0)
    }

    /// Skips the bytes of the chunk that `read` has parsed. It returns the number of records so far and of bytes in this
    /// chunk.
    pub(crate) fn skip_read(&mut self, read: impl FnOnce(&[u8]) -> (usize, usize)) -> Result<(), BatchError> {
        let (found, bytes) = read(self.payload.chunk()?);
        self.payload.consume(bytes);
        self.found = found;
        Ok(())
    }

    /// Reads all that is left.
    pub(crate) fn drain(&mut self) -> Result<(), BatchError> {
        loop {
            match self.payload.chunk()?.len() {
                0 => return Ok(()),
                bytes => self.payload.consume(bytes),
            }
        }
    }

    fn read(&mut self) -> Result<Option<RecordHead>, BatchError> {
        let is_at_end = self.payload.chunk()?.is_empty();
        if !has_more(self.declared, self.found, is_at_end)? {
            return Ok(None);
        }
        let index = self.found;
        self.found += 1;
        let mut input = Frame { payload: &mut self.payload, left: usize::MAX, fault: None };
        let (head, can_go_on) = input.head();
        if let Some(fault) = input.fault {
            return Err(fault);
        }
        self.ended = !can_go_on;
        head.map(Some).map_err(|what| BatchError::Record { index, what })
    }
}

impl<C: Chunks> Iterator for HeadReader<C> {
    type Item = Result<RecordHead, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let head = self.read().transpose();
        self.ended |= !matches!(head, Some(Ok(_) | Err(BatchError::Record { .. })));
        head
    }
}

/// One record of a payload.
struct Frame<'p, C> {
    payload: &'p mut C,
    /// Bytes up to its end.
    left: usize,
    /// The error that ended the payload.
    fault: Option<BatchError>,
}

impl<C: Chunks> Frame<'_, C> {
    fn chunk(&mut self) -> &[u8] {
        match self.payload.chunk() {
            Ok(chunk) => &chunk[..chunk.len().min(self.left)],
            Err(fault) => {
                self.fault = Some(fault);
                &[]
            }
        }
    }

    fn consume(&mut self, n: usize) {
        self.payload.consume(n);
        self.left -= n;
    }

    /// Reads the record; the flag is whether the payload can be read after it.
    fn head(&mut self) -> (Result<RecordHead, Malformed>, bool) {
        match self.length() {
            Ok(length) => self.left = length,
            Err(what) => return (Err(what), false),
        }
        let body = self.body();
        if let Err(what) = self.take(self.left) {
            return (Err(what), false);
        }
        let head = body.map(|body| RecordHead {
            timestamp_delta: body.timestamp_delta,
            offset_delta: body.offset_delta,
            has_key: body.key.is_some(),
        });
        (head, true)
    }
}

impl<C: Chunks> Input for Frame<'_, C> {
    type Bytes = ();

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.chunk().first()?;
        self.consume(1);
        Some(byte)
    }

    fn take(&mut self, n: usize) -> Result<(), Malformed> {
        if n > self.left {
            return Err(TOO_LONG);
        }
        let mut missing = n;
        while missing > 0 {
            let bytes = self.chunk().len().min(missing);
            if bytes == 0 {
                return Err(TOO_LONG);
            }
            self.consume(bytes);
            missing -= bytes;
        }
        Ok(())
    }

    fn rest(&self) {}

    fn is_empty(&self) -> bool {
        self.left == 0
    }
}
