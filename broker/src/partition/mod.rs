//! Partitions on their leader: append, fetch, long polls, offset lookups.
//!
//! Invariants:
//! 1. A batch is readable only when it is committed and applied: readers are bounded by the state machine's
//!    `next_offset`, which only `apply` advances, after it has inserted the batch into the tables.
//! 2. Proposals in flight have disjoint offsets: one lock assigns them.
//! 3. A reader holds no lock while it waits or reads from disk.

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

pub use check::{CheckError, CheckRules, Checked, CheckedBatch, DeferredCheck, check_batch};
pub use error::{ProduceError, RefusedRecord, RefusedRecords};
pub use host::ShardHost;
pub use lookup::{FoundOffset, OffsetQuery, find_offset, first_record};
pub(crate) use proposal_queue::ProposalQueue;
pub use reader::{FetchBounds, FetchError, FetchPart, Fetched, Locate, check_epoch, fetch};
pub use replies::Replies;
pub use shard::{Appended, Shard, Submission, leader_epoch};
pub use view::PartitionView;
