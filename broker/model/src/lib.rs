//! Identifiers, log positions and limits that every broker crate shares.
//!
//! This crate knows no I/O, no clock and no Kafka message; the record-batch view is re-exported from the
//! batch crate, which the client shares.

mod histogram;
mod ids;
pub mod limits;
mod log_id;

pub use histogram::{Histogram, HistogramReading};
pub use ids::{NodeId, PartitionId, RaftGroupId, TopicId};
pub use log_id::LogId;
pub use millstream_batch as batch;
