//! Millstream's disk: write-ahead log, memtable, runs, manifest, recovery.
//!
//! Nothing here is asynchronous and nothing knows a Kafka message: entries are bytes, batches are record
//! batches, and a caller that must not block asks from a thread that may.

pub mod disk;
pub mod doctor;
pub mod tables;
pub mod wal;
