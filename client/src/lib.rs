//! Millstream's client: producer, consumer and admin for any Kafka-compatible broker.
//!
//! What decides is pure and small (batches and retries in `producer/machine.rs`, positions in `consumer/positions.rs`);
//! sockets and clocks are around it. A [`Cluster`] is shared by whatever uses it: one connection to each broker for each
//! kind of work, opened when it is needed, opened again when it breaks.
//!
//! ```no_run
//! use millstream_client::{
//!     ClientConfig, Cluster,
//!     consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
//!     producer::{Producer, ProducerConfig, Record},
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::new(ClientConfig::new("127.0.0.1:9092"));
//! let producer = Producer::new(cluster.clone(), ProducerConfig::default());
//! let record = Record { key: Some("k".into()), value: Some("v".into()), ..Record::default() };
//! let delivered = producer.send("orders", record).await?.wait().await?;
//! producer.close().await;
//!
//! let mut consumer = Consumer::new(cluster, ConsumerConfig::default());
//! let partition = TopicPartition { topic: delivered.topic, partition: delivered.partition };
//! consumer.assign([(partition, Start::Offset(delivered.offset))]);
//! for record in consumer.next().await?.records {
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```

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
