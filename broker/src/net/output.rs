//! Replies to a client: chains of byte slices, written without a copy.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::{Buf, Bytes};
use tokio::net::tcp::WriteHalf;

/// Most slices passed to the system in one write.
const PIECES_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Output {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    written: u64,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn push(&mut self, reply: Vec<Bytes>) {
        for piece in reply {
            if !piece.is_empty() {
                self.bytes += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }

    /// Writes as much as the system takes at once. A dropped call wrote nothing.
    pub(super) async fn write(&mut self, to: &mut WriteHalf<'_>) -> io::Result<()> {
        loop {
            to.writable().await?;
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let count = self.pieces.len().min(PIECES_MAX);
            self.pieces.iter().zip(&mut slices).for_each(|(piece, slice)| *slice = IoSlice::new(piece));
            match to.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.advance(written);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.written += written as u64;
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_write_leaves_exactly_the_rest() {
        let mut output = Output::default();
        output.push(vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"de")]);
        output.advance(4);
        assert_eq!(output.pieces, [Bytes::from_static(b"e")]);
        assert_eq!(output.bytes(), 1);
        output.advance(1);
        assert!(output.is_empty() && output.pieces.is_empty());
    }
}
