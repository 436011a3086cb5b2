//! Bytes from a client, cut into frames.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::net::tcp::ReadHalf;

use super::budget::{Budget, Charge};

/// Bytes that are read at once while nothing is known of the client's frames.
const READ_BYTES_MIN: usize = 16 << 10;
/// Most bytes that are read at once.
const READ_BYTES_MAX: usize = 1 << 20;
/// Length of the length in front of a frame.
const LENGTH_BYTES: usize = 4;

/// A frame that is not accepted; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame declares a negative length ({0})")]
    Negative(i32),
    #[error("a frame declares {bytes} bytes; at most {bytes_max} are accepted")]
    TooLong { bytes: usize, bytes_max: usize },
}

/// What was received and not yet handed on.
pub(super) struct Input {
    buffer: BytesMut,
    charge: Charge,
    budget: Budget,
    frame_bytes_max: usize,
    /// About the size of the client's recent frames: so much is read at once.
    usual_bytes: usize,
}

impl Input {
    pub(super) fn new(budget: Budget, frame_bytes_max: usize) -> Input {
        let (buffer, charge) = (BytesMut::new(), Charge::default());
        Input { buffer, charge, budget, frame_bytes_max, usual_bytes: READ_BYTES_MIN }
    }

    /// Whether part of a frame has arrived.
    pub(super) fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Length of the frame whose beginning is in the buffer.
    fn frame_bytes(&self) -> Result<Option<usize>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(*length);
        let bytes = usize::try_from(length).map_err(|_| FrameError::Negative(length))?;
        if bytes > self.frame_bytes_max {
            return Err(FrameError::TooLong { bytes, bytes_max: self.frame_bytes_max });
        }
        Ok(Some(bytes))
    }

    /// The next whole frame, without its length, and the memory that it holds.
    pub(super) fn next_frame(&mut self) -> Result<Option<(Bytes, Charge)>, FrameError> {
        let Some(bytes) = self.frame_bytes()? else { return Ok(None) };
        if self.buffer.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(bytes).freeze();
        // Follows larger frames at once and smaller ones slowly.
        self.usual_bytes = (bytes + LENGTH_BYTES).max(self.usual_bytes - self.usual_bytes / 8);
        Ok(Some((frame, self.charge.split(bytes))))
    }

    /// Lets an idle connection hold no memory.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.charge.shrink_to(0);
        }
    }

    /// Room that the next read should have at least, and what to reserve if it has not: the rest of the frame that
    /// has begun, though never much more than what has already arrived of it, or of earlier ones.
    fn room(&self) -> Result<(usize, usize), FrameError> {
        let earned = self.usual_bytes.max(self.buffer.len()).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        Ok(match self.frame_bytes()? {
            Some(bytes) => {
                let rest = (bytes + LENGTH_BYTES).saturating_sub(self.buffer.len()).clamp(1, earned);
                (rest, rest)
            }
            // Small requests share a buffer until it is nearly used up.
            None if self.usual_bytes <= READ_BYTES_MIN => (READ_BYTES_MIN / 8, earned),
            None => (earned, earned),
        })
    }

    /// Reads once; 0 bytes mean that the client has closed. A dropped call lost nothing.
    pub(super) async fn fill(&mut self, from: &mut ReadHalf<'_>) -> io::Result<usize> {
        loop {
            from.readable().await?;
            let (least, room) = self.room().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if self.buffer.capacity() - self.buffer.len() < least {
                self.budget.cover(&mut self.charge, self.buffer.len() + room).await;
                self.buffer.reserve(room);
            }
            // Not beyond a large frame: what is behind it would have to be copied out of its memory.
            let most = if self.usual_bytes > READ_BYTES_MIN { room } else { usize::MAX };
            match from.try_read_buf(&mut (&mut self.buffer).limit(most)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8]) -> Input {
        let mut input = Input::new(Budget::new(1 << 20), 1000);
        input.buffer.extend_from_slice(bytes);
        input
    }

    #[test]
    fn frames_come_out_whole_and_in_order() {
        let mut input = input(&[0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 9]);
        let mut next = || input.next_frame().expect("no bad frame").map(|(frame, _)| frame);
        assert_eq!(next(), Some(Bytes::from_static(&[1, 2])));
        assert_eq!(next(), Some(Bytes::new()));
        assert_eq!(next(), None);
        input.buffer.extend_from_slice(&[8, 7]);
        assert_eq!(
            input.next_frame().expect("good").map(|(frame, _)| frame),
            Some(Bytes::from_static(&[9, 8, 7]))
        );
        assert!(!input.is_partial());
    }

    #[test]
    fn a_declared_length_is_checked_before_anything_is_reserved() {
        assert_eq!(
            input(&[0xff; 4]).next_frame().map(|_| ()),
            Err(FrameError::Negative(-1)),
            "a negative length"
        );
        let error = input(&[0x7f, 0xff, 0xff, 0xff]).next_frame().map(|_| ());
        assert_eq!(error, Err(FrameError::TooLong { bytes: i32::MAX as usize, bytes_max: 1000 }));
        let large = Input { frame_bytes_max: 100 << 20, ..input(&[0x05, 0, 0, 0]) };
        assert_eq!(
            large.room(),
            Ok((READ_BYTES_MIN, READ_BYTES_MIN)),
            "80 MiB are declared, nothing of them is here"
        );
    }
}
