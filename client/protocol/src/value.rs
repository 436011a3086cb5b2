//! Values that are more than a number: topic ids and record sets.

use std::fmt;

use bytes::Bytes;

/// A 128-bit id; all zeros means none.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// No id.
    pub const ZERO: Uuid = Uuid([0; 16]);

    /// Whether it says that there is no id.
    pub fn is_zero(self) -> bool {
        self == Uuid::ZERO
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                write!(out, "-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A record set: batches one behind the other, opaque to the codec. Decoding gives `None` or `One`, a slice of the
/// frame; encoding hands the pieces on without copying them. Two sets are equal when their bytes are.
#[derive(Clone, Default)]
pub enum Records {
    /// Null. Where a version has no null, it is written as an empty set.
    #[default]
    None,
    /// All in one piece.
    One(Bytes),
    /// Several pieces, in order.
    Many(Vec<Bytes>),
}

impl Records {
    /// Bytes in the set.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }
    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.pieces().iter().all(Bytes::is_empty)
    }
    /// Whether the set is null.
    pub fn is_none(&self) -> bool {
        matches!(self, Records::None)
    }
    /// The pieces, in order.
    pub fn pieces(&self) -> &[Bytes] {
        match self {
            Records::None => &[],
            Records::One(bytes) => std::slice::from_ref(bytes),
            Records::Many(pieces) => pieces,
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Records {
        Records::One(bytes)
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(pieces: Vec<Bytes>) -> Records {
        Records::Many(pieces)
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        let bytes = |records: &Records| records.pieces().to_vec().concat();
        match (self, other) {
            (Records::One(a), Records::One(b)) => a == b,
            _ => {
                self.is_none() == other.is_none() && self.len() == other.len() && bytes(self) == bytes(other)
            }
        }
    }
}

impl Eq for Records {}

/// Sizes only: a record set in a log line would fill the log.
impl fmt::Debug for Records {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Records::None => write!(out, "None"),
            Records::One(bytes) => write!(out, "One({} bytes)", bytes.len()),
            Records::Many(pieces) => write!(out, "Many({} bytes in {} pieces)", self.len(), pieces.len()),
        }
    }
}
