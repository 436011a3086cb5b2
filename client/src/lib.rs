//! Millstream's client: producer, consumer and admin for any Kafka-compatible broker.
//!
//! What decides is pure and small (batches and retries in `producer/machine.rs`, positions in `consumer/positions.rs`);
//! sockets and clocks are around it. A [`Cluster`] is shared by whatever uses it: one connection to each broker for each
//! kind of work, opened when it is needed, opened again when it breaks.

pub mod admin;
mod backoff;
mod clock;
mod cluster;
mod config;
pub mod consumer;
mod error;
pub mod producer;
mod wire;

pub use cluster::{BrokerMeta, Cluster, PartitionMeta, TopicMeta};
pub use config::ClientConfig;
pub use error::ClientError;
pub use millstream_batch::Codec;
pub use millstream_protocol::ErrorCode;
