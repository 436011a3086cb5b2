//! The position of an entry in a Raft log.

use std::fmt;

/// Term and index of one Raft entry. Ordered by term, then index.
///
/// Terms are enough to name the leader: a term has at most one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Raft term of the leader that wrote the entry.
    pub term: u64,
    /// Position in the group's log.
    pub index: u64,
}

impl LogId {
    /// A log id from its parts.
    pub fn new(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}
