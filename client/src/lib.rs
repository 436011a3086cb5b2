//! Millstream's client: producer, consumer and admin for any Kafka-compatible broker, in Rust alone.
//!
//! A [`Cluster`] is shared by whatever uses it: one connection to each broker for each kind of work, opened when it is
//! needed, and opened again, after waits that grow and differ, when it breaks. Leaders that change are looked for again.
//! Everything runs on the tokio runtime that it is made on.
//!
//! # Producing
//!
//! [`Producer::send`](producer::Producer::send) takes a record and gives a [`Delivery`](producer::Delivery), which is
//! awaited for the result; records travel in batches meanwhile. By default a producer is idempotent: what is tried again is
//! never written twice, and records of a partition keep their order. Memory is bounded: `send` waits while it is used up. A record is
//! tried until it is delivered, refused for good, or [`delivery_timeout`](producer::ProducerConfig::delivery_timeout) is
//! over. A batch that is too large for its topic comes again in pieces. Keys go to the partitions that Kafka's Java client chooses.
//!
//! ```no_run
//! use millstream_client::{ClientConfig, Cluster, Codec, producer::{Producer, ProducerConfig, Record}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::new(ClientConfig::new("127.0.0.1:9092"));
//! let config = ProducerConfig { codec: Codec::Zstd, ..ProducerConfig::default() };
//! let producer = Producer::new(cluster, config);
//! let record = Record { key: Some("k".into()), value: Some("v".into()), ..Record::default() };
//! let delivery = producer.send("orders", record).await?;
//! // Others can be sent before this one's result is there.
//! let delivered = delivery.await?;
//! println!("partition {} offset {}", delivered.partition, delivered.offset);
//! producer.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Reading partitions
//!
//! A [`Consumer`](consumer::Consumer) reads the partitions that it is assigned, each from its own start, and reads ahead in the
//! background up to [bounds](consumer::ConsumerConfig::memory_bytes). [`seek`](consumer::Consumer::seek), [`pause`](consumer::Consumer::pause) and
//! [`resume`](consumer::Consumer::resume) act on single partitions; [`stream`](consumer::Consumer::stream) gives a `Stream`.
//!
//! ```no_run
//! use millstream_client::{ClientConfig, Cluster, consumer::{Consumer, ConsumerConfig, Start, TopicPartition}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::new(ClientConfig::new("127.0.0.1:9092"));
//! let mut consumer = Consumer::new(cluster, ConsumerConfig::default());
//! let partition = TopicPartition { topic: "orders".into(), partition: 0 };
//! consumer.assign([(partition, Start::Beginning)]);
//! for record in consumer.next().await?.records {
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Reading as a member of a group
//!
//! A [`GroupConsumer`](consumer::GroupConsumer) shares the partitions of its topics with the other members of its group, of
//! whatever client they are: [`Assignor`](consumer::Assignor) has Kafka's. Records are read at least once: what was given
//! counts as read when more is asked for, and is committed by time, [on request](consumer::GroupConsumer::commit), and
//! before partitions go to another member. Who wants to take part in that asks for
//! [events](consumer::GroupConsumer::event). Instead of names of topics a member can have a
//! [pattern](consumer::TopicPattern). A program that asks for nothing for
//! [too long](consumer::GroupConfig::poll_interval_max) loses its place until it asks again.
//!
//! ```no_run
//! use millstream_client::{ClientConfig, Cluster, consumer::{Assignor, Event, GroupConfig, GroupConsumer}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::new(ClientConfig::new("127.0.0.1:9092"));
//! let config = GroupConfig {
//!     assignors: vec![Assignor::CooperativeSticky],
//!     ..GroupConfig::new("billing", ["orders".to_string()])
//! };
//! let mut member = GroupConsumer::new(cluster, config);
//! loop {
//!     match member.event().await? {
//!         Event::Records(chunk) => println!("{} records of {}", chunk.records.len(), chunk.partition),
//!         Event::Assigned(partitions) => println!("more to read: {partitions:?}"),
//!         // Until the next event is asked for, these are still this member's own.
//!         Event::Revoked(_) => member.commit().await?,
//!         Event::Lost(partitions) => println!("gone: {partitions:?}"),
//!         // This program asked for nothing for five minutes.
//!         Event::Overdue { lost, .. } => println!("gone meanwhile: {lost:?}"),
//!     }
//!     # if false { break }
//! }
//! member.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Managing
//!
//! [`Admin`](admin::Admin) makes, grows, configures and removes topics, cuts them off at their beginning, finds offsets by time, and
//! lists, describes, moves and removes groups.
//!
//! ```no_run
//! use millstream_client::{ClientConfig, Cluster, admin::{Admin, NewTopic}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let admin = Admin::new(Cluster::new(ClientConfig::new("127.0.0.1:9092")));
//! let topic = NewTopic { name: "orders".into(), partitions: Some(6), ..NewTopic::default() };
//! admin.create_topic(&topic, false).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! What decides is pure and small (batches and retries in `producer/machine.rs`, positions in `consumer/positions.rs`, a
//! member's way in `consumer/group/membership.rs`); sockets and clocks are around it.

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
pub use millstream_protocol::{Address, AddressError, ErrorCode};
