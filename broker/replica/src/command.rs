//! The payload of a Raft entry, before and after it is in the log's memory.

use std::fmt;

use bytes::Bytes;
use millstream_store::wal::FramePayload;

/// A command to be written to, or read from, a group's log.
pub struct Command(Body);

enum Body {
    Staged(Box<dyn FramePayload + Send + Sync>),
    Logged(Bytes),
}

impl Command {
    /// A command that is not encoded yet.
    pub fn staged(payload: impl FramePayload + Send + Sync + 'static) -> Command {
        Command(Body::Staged(Box::new(payload)))
    }

    /// An encoded command.
    pub fn encoded(bytes: Bytes) -> Command {
        Command(Body::Logged(bytes))
    }

    /// The encoded bytes; without a copy for a command that was read from the log, with one copy otherwise.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Body::Logged(bytes) => bytes,
            Body::Staged(payload) => {
                let mut out = vec![0; payload.len()];
                payload.write(&mut out);
                out.into()
            }
        }
    }
}

impl FramePayload for Command {
    fn len(&self) -> usize {
        match &self.0 {
            Body::Staged(payload) => payload.len(),
            Body::Logged(bytes) => bytes.len(),
        }
    }

    fn write(&self, out: &mut [u8]) {
        match &self.0 {
            Body::Staged(payload) => payload.write(out),
            Body::Logged(bytes) => out.copy_from_slice(bytes),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", FramePayload::len(self))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Doubled(Bytes);
    impl FramePayload for Doubled {
        fn len(&self) -> usize {
            self.0.len() * 2
        }
        fn write(&self, out: &mut [u8]) {
            let (a, b) = out.split_at_mut(self.0.len());
            a.copy_from_slice(&self.0);
            b.copy_from_slice(&self.0);
        }
    }

    #[test]
    fn a_staged_command_has_the_bytes_that_it_writes() {
        let command = Command::staged(Doubled(Bytes::from_static(b"ab")));
        assert_eq!(FramePayload::len(&command), 4);
        assert_eq!(command.into_bytes(), Bytes::from_static(b"abab"));
    }
}
