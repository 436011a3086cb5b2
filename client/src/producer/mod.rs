//! The producer: records in, batches out, a result for each record.
//!
//! What it decides is in `machine` (pure); what it does is in `sender` (one task, and `lane`: one for each broker). A record
//! is copied once, into its batch, which is sent from where it lies. Memory is bounded: who produces faster than the brokers
//! take waits in [`Producer::send`].

mod batch;
mod lane;
mod machine;
mod partitioner;
mod result;
mod sender;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_batch::Codec;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use crate::{ClientError, Cluster, TopicMeta, clock};
use batch::{Place, record_bytes};
use machine::{Machine, Rules};

pub use partitioner::{murmur2, partition_of_key};
pub use result::{Delivered, Delivery, DeliveryError};

/// A record to be produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key; records with the same key go to the same partition.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// Names and values, in order; a name may come more than once.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch; none is now.
    pub timestamp_ms: Option<i64>,
    /// The partition; none is chosen by the key. Records without a key go to one partition until its batch is sent, which is
    /// when it is full, has waited for [`linger`](ProducerConfig::linger), or is flushed; then to the next one.
    pub partition: Option<i32>,
}

/// When a record counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// When it is sent; a loss is not reported.
    None,
    /// When the partition's leader has it.
    Leader,
    /// When every replica that is in sync has it.
    #[default]
    All,
}

impl Acks {
    pub(crate) fn number(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How a producer works.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// When a record counts as delivered. Default: [`Acks::All`].
    pub acks: Acks,
    /// Whether a record that is tried again is never written twice; needs [`Acks::All`]. Default: yes.
    pub idempotent: bool,
    /// How batches are compressed. Default: not at all.
    pub codec: Codec,
    /// Bytes of records from which a batch is sent. Default: 128 KiB.
    pub batch_bytes: usize,
    /// How long a smaller batch waits for more records. Default: 5 ms.
    pub linger: Duration,
    /// Bytes of batches in one request. Default: 1 MiB.
    pub request_bytes: usize,
    /// How long a record is tried. Default: 2 min.
    pub delivery_timeout: Duration,
    /// Bytes of records that may wait for their results; who sends more waits. Default: 64 MiB.
    pub memory_bytes: usize,
    /// Whether a topic that does not exist may be made by producing to it, where the broker allows that. Default: yes.
    pub create_topics: bool,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            idempotent: true,
            codec: Codec::None,
            batch_bytes: 128 << 10,
            linger: Duration::from_millis(5),
            request_bytes: 1 << 20,
            delivery_timeout: Duration::from_secs(120),
            memory_bytes: 64 << 20,
            create_topics: true,
        }
    }
}

/// Why a record was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The topic is not known.
    #[error(transparent)]
    Topic(#[from] ClientError),
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}: the number of its partitions is {partitions}")]
    Partition {
        /// The topic.
        topic: String,
        /// The partition that was asked for.
        partition: i32,
        /// How many there are.
        partitions: usize,
    },
    /// Larger than the producer's memory.
    #[error("the record takes {bytes} bytes, and the producer has {bytes_max}")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What there is.
        bytes_max: usize,
    },
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

struct Shared {
    machine: Mutex<Machine>,
    acks: Acks,
    memory: Semaphore,
    wake: Notify,
    idle: Notify,
    closed: AtomicBool,
}

impl Shared {
    fn with_machine<R>(&self, work: impl FnOnce(&mut Machine) -> R) -> R {
        work(&mut self.machine.lock())
    }

    fn is_idle(&self) -> bool {
        self.machine.lock().is_idle()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }
}

/// Produces records to any topic. Records for one partition are written in the order of the calls.
pub struct Producer {
    cluster: Cluster,
    shared: Arc<Shared>,
    config: ProducerConfig,
    /// None once it is waited for.
    sender: Option<JoinHandle<()>>,
}

impl Producer {
    /// A producer to a cluster; must be called on a tokio runtime.
    pub fn new(cluster: Cluster, config: ProducerConfig) -> Producer {
        let rules = Rules {
            codec: config.codec,
            batch_bytes_max: config.batch_bytes,
            request_bytes_max: config.request_bytes,
            linger: config.linger,
            delivery_timeout: config.delivery_timeout,
            in_flight_max: 5,
            idempotent: config.idempotent && config.acks == Acks::All,
            backoff: cluster.backoff(),
        };
        let shared = Arc::new(Shared {
            machine: Mutex::new(Machine::new(rules)),
            acks: config.acks,
            memory: Semaphore::new(config.memory_bytes),
            wake: Notify::new(),
            idle: Notify::new(),
            closed: AtomicBool::new(false),
        });
        let sender = tokio::spawn(sender::Sender::new(cluster.clone(), shared.clone()).run());
        Producer { cluster, shared, config, sender: Some(sender) }
    }

    /// Takes a record; waits while the producer's memory is full. What it returns waits for the result. A call that is
    /// dropped while it waits has taken nothing. Fails for a topic that cannot be found, a partition that it does not have,
    /// a record that is larger than the producer's memory, and after [`close`](Producer::close).
    pub async fn send(&self, topic: &str, record: Record) -> Result<Delivery, SendError> {
        if self.shared.is_closed() {
            return Err(SendError::Closed);
        }
        let bytes = record_bytes(&record);
        let bytes_max = self.config.memory_bytes;
        let permits = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
        let permits = permits.ok_or(SendError::TooLarge { bytes, bytes_max })?;
        let now = clock::now();
        let known = match self.cluster.known_since(topic, now) {
            Some((known, false)) => known,
            Some((known, true)) => {
                // What is known serves until the answer is there.
                self.shared.with_machine(|machine| machine.refresh(topic));
                self.shared.wake.notify_one();
                known
            }
            None => self.cluster.topic(topic, self.config.create_topics).await?,
        };
        let memory = self.shared.memory.acquire_many(permits).await.map_err(|_| SendError::Closed)?;
        let delivery = self.append(&known, &record)?;
        memory.forget();
        Ok(delivery)
    }

    fn append(&self, topic: &TopicMeta, record: &Record) -> Result<Delivery, SendError> {
        let partitions = topic.partitions.len();
        let (now, timestamp_ms) = (clock::now(), record.timestamp_ms.unwrap_or_else(clock::now_ms));
        let keyless = record.partition.is_none() && record.key.is_none();
        let chosen = match (record.partition, &record.key) {
            (Some(partition), _) => usize::try_from(partition).ok().filter(|at| *at < partitions),
            (None, Some(key)) => Some(partition_of_key(key, partitions)),
            (None, None) => None,
        };
        if chosen.is_none() && !keyless {
            let partition = record.partition.unwrap_or(-1);
            return Err(SendError::Partition { topic: topic.name.clone(), partition, partitions });
        }
        let added = self.shared.with_machine(|machine| {
            let partition =
                chosen.unwrap_or_else(|| machine.keyless(&topic.name, partitions, clock::random_u64));
            let place = Place { topic: topic.shared_name.clone(), partition: partition as i32 };
            machine.append(&place, record, timestamp_ms, now)
        });
        if added.closed || added.opened {
            self.shared.wake.notify_one();
        }
        Ok(added.delivery)
    }

    /// What keeps records from getting through, while something does: what the last try ended with where nothing was
    /// appended since. Records are tried on meanwhile.
    pub fn trouble(&self) -> Option<String> {
        self.shared.with_machine(|machine| machine.trouble())
    }

    /// Waits until every record that was taken has its result.
    pub async fn flush(&self) {
        loop {
            let idle = self.shared.idle.notified();
            if self.shared.is_idle() {
                return;
            }
            self.shared.with_machine(|machine| machine.flush());
            self.shared.wake.notify_one();
            idle.await;
        }
    }

    /// Delivers what was taken, and ends.
    pub async fn close(mut self) {
        self.flush().await;
        self.shared.closed.store(true, Relaxed);
        self.shared.wake.notify_one();
        if let Some(sender) = self.sender.take() {
            // It ends by itself, as nothing is left to send; were it to panic, that was said.
            let _ = sender.await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Relaxed);
        if let Some(sender) = &self.sender {
            sender.abort();
        }
    }
}
