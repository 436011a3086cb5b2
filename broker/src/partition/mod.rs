//! Partitions as their leader runs them: writing, reading, waiting.
//!
//! Invariants, each said as an absence:
//! 1. No batch is readable before it is committed and applied: readers see the machine's `next_offset`, which
//!    only `apply` moves, and `apply` puts a batch into the tables before it moves it.
//! 2. No proposal carries an offset that another one in flight carries: one lock hands them out.
//! 3. No reader holds a lock while it waits or reads a disk.

mod check;
mod host;
mod leader;
mod lookup;
mod read_ahead;
mod reader;
#[cfg(test)]
mod reader_tests;
mod replies;
#[cfg(test)]
mod shard_tests;
mod staged;
mod waiters;

pub use check::{CheckRules, Checked, CheckedBatch, ClosedBatch, OpenError, check_batch};
pub use host::ShardHost;
pub use leader::{Appended, Shard, Submission, leader_epoch};
pub use lookup::{FoundOffset, OffsetQuery, find_offset, first_record};
pub use reader::{FetchBounds, FetchError, FetchPart, Fetched, Locate, check_epoch, fetch};
pub use replies::Replies;
