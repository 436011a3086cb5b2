//! Partitions as their leader runs them: writing, reading, waiting.
//!
//! Invariants, each said as an absence:
//! 1. No batch is readable before it is committed and applied: readers see the machine's `next_offset`, which
//!    only `apply` moves, and `apply` puts a batch into the tables before it moves it.
//! 2. No proposal carries an offset that another one in flight carries: one lock hands them out.
//! 3. No reader holds a lock while it waits or reads a disk.

mod check;
mod error;
mod host;
mod leader;
mod lookup;
mod proposal_queue;
mod read_ahead;
mod reader;
#[cfg(test)]
mod reader_tests;
mod replies;
mod shard;
#[cfg(test)]
mod shard_tests;
mod staged;
mod view;
mod waiters;

pub use check::{CheckRules, Checked, CheckedBatch, ClosedBatch, OpenError, check_batch};
pub use error::{ProduceError, RefusedRecord, RefusedRecords};
pub use host::ShardHost;
pub use lookup::{FoundOffset, OffsetQuery, find_offset, first_record};
pub(crate) use proposal_queue::ProposalQueue;
pub use reader::{FetchBounds, FetchError, FetchPart, Fetched, Locate, check_epoch, fetch};
pub use replies::Replies;
pub use shard::{Appended, Shard, Submission, leader_epoch};
pub use view::PartitionView;
