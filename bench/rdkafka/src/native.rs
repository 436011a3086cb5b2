//! The rdkafka crate, in the way that costs it least: delivery callbacks, and messages that are borrowed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use crate::{Job, MEMORY_BYTES, values};

const WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(u64::from(result.is_ok()), Relaxed);
    }
}

/// Records whose results are good.
pub fn produce(job: &Job) -> u64 {
    let good = Count::default();
    let producer: ThreadedProducer<Count> = ClientConfig::new()
        .set("bootstrap.servers", &job.bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("queue.buffering.max.kbytes", (MEMORY_BYTES >> 10).to_string())
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(good.clone())
        .expect("a producer");
    let values = values(job.bytes);
    for value in values.iter().cycle().take(job.records as usize) {
        let mut record = BaseRecord::<(), [u8]>::to(&job.topic).payload(value.as_slice());
        while let Err((error, back)) = producer.send(record) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            record = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(WAIT).expect("delivered");
    good.0.load(Relaxed)
}

/// Records that were read.
pub fn consume(job: &Job) -> u64 {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &job.bootstrap)
        .set("group.id", "client-speed")
        .set("enable.auto.commit", "false")
        // Its default stops the reading of small records for a second at a time.
        .set("queued.min.messages", "1000000")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(&job.topic), WAIT).expect("metadata");
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions.add_partition_offset(&job.topic, partition.id(), Offset::Beginning).expect("an offset");
    }
    consumer.assign(&partitions).expect("assigned");
    let (mut read, mut bytes) = (0, 0);
    while read < job.records {
        let message = consumer.poll(WAIT).expect("a message").expect("no error");
        read += 1;
        bytes += message.payload_len();
    }
    assert_eq!(bytes, job.records as usize * job.bytes);
    read
}
