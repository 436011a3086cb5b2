//! Millstream's storage engine: write-ahead log, memtable, runs, manifest, recovery.
//!
//! Everything here is synchronous and independent of the Kafka protocol: entries are bytes and batches are
//! record batches. A caller that must not block calls from a thread that may.

pub mod disk;
pub mod doctor;
pub mod tables;
pub mod wal;
