//! What a consumer of many partitions holds, whose application is slow or pauses some of them, against a real broker.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millstream_client::{
    consumer::{Chunk, Consumer, ConsumerConfig, Start, TopicPartition},
    producer::{Producer, ProducerConfig, Record},
};
use support::{cluster, in_time, place, topic};

const PARTITIONS: i32 = 48;
const RECORDS_EACH: usize = 32;
const RECORD_BYTES: usize = 8 << 10;
/// A batch has a few records.
const BATCH_BYTES: usize = 32 << 10;
const MEMORY_BYTES: usize = 1 << 20;

async fn filled() -> String {
    let topic = topic("memory", PARTITIONS, &[]).await;
    let config = ProducerConfig { batch_bytes: BATCH_BYTES, ..ProducerConfig::default() };
    let producer = Producer::new(cluster(), config);
    let mut deliveries = Vec::new();
    for _ in 0..RECORDS_EACH {
        for partition in 0..PARTITIONS {
            let value = Some(vec![b'v'; RECORD_BYTES].into());
            let record = Record { value, partition: Some(partition), ..Record::default() };
            deliveries.push(producer.send(&topic, record).await.expect("taken"));
        }
    }
    for delivery in deliveries {
        delivery.await.expect("delivered");
    }
    producer.close().await;
    topic
}

fn consumer(topic: &str, memory_bytes: usize) -> Consumer {
    let mut consumer = Consumer::new(cluster(), ConsumerConfig { memory_bytes, ..ConsumerConfig::default() });
    consumer.assign((0..PARTITIONS).map(|partition| (place(topic, partition), Start::Beginning)));
    consumer
}

/// Offsets that were read of each partition, in order, and the most that was held.
#[derive(Default)]
struct Seen {
    offsets: BTreeMap<TopicPartition, Vec<i64>>,
    held_most: usize,
}

impl Seen {
    async fn next(&mut self, consumer: &mut Consumer) -> Chunk {
        let chunk = in_time("records", consumer.next()).await.expect("records");
        let offsets = self.offsets.entry(chunk.partition.clone()).or_default();
        offsets.extend(chunk.records.iter().map(|record| record.offset));
        self.held_most = self.held_most.max(consumer.buffered_bytes());
        chunk
    }

    fn has_all_of(&self, partition: &TopicPartition) -> bool {
        self.offsets.get(partition).is_some_and(|offsets| offsets.iter().copied().eq(0..RECORDS_EACH as i64))
    }

    fn whole(&self) -> usize {
        self.offsets.keys().filter(|partition| self.has_all_of(partition)).count()
    }
}

/// Reads everything, slowly at first, so that whatever may be read ahead is.
async fn read(topic: &str, memory_bytes: usize) -> Seen {
    let (mut consumer, mut seen) = (consumer(topic, memory_bytes), Seen::default());
    let mut chunks = 0;
    while seen.whole() < PARTITIONS as usize {
        seen.next(&mut consumer).await;
        chunks += 1;
        if chunks < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // What is left is room for the next answer.
    assert!(consumer.buffered_bytes() <= memory_bytes / 2, "{} bytes", consumer.buffered_bytes());
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_slow_application_of_many_partitions_holds_no_more_than_it_may() {
    let topic = filled().await;
    let bounded = read(&topic, MEMORY_BYTES).await;
    assert!(bounded.held_most <= MEMORY_BYTES + BATCH_BYTES * 2, "{} bytes", bounded.held_most);
    assert!(bounded.held_most > MEMORY_BYTES / 4, "{} bytes: it reads ahead", bounded.held_most);
    let at_will = read(&topic, ConsumerConfig::default().memory_bytes).await;
    assert!(at_will.held_most > MEMORY_BYTES * 2, "{} bytes: the bound is what held", at_will.held_most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn with_little_memory_every_partition_has_its_turn() {
    let topic = filled().await;
    // An answer has half of a partition: what is left beside the partition whose turn it is may be filled with one record of others.
    let (mut consumer, mut seen) = (consumer(&topic, MEMORY_BYTES / 4), Seen::default());
    while seen.offsets.len() < PARTITIONS as usize {
        seen.next(&mut consumer).await;
    }
    assert_eq!(seen.whole(), 0, "none is at its end before all have begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn partitions_that_are_paused_do_not_take_the_memory_of_the_others() {
    let topic = filled().await;
    let (mut consumer, mut seen) = (consumer(&topic, MEMORY_BYTES), Seen::default());
    let (mut paused, mut going_on) = (BTreeSet::new(), BTreeSet::new());
    // Each is paused while much of it is read ahead, all but a few.
    while paused.len() + going_on.len() < PARTITIONS as usize {
        let partition = seen.next(&mut consumer).await.partition;
        if partition.partition % 8 == 0 {
            going_on.insert(partition);
        } else if paused.insert(partition.clone()) {
            consumer.pause(&[partition]);
        }
    }
    while !going_on.iter().all(|partition| seen.has_all_of(partition)) {
        seen.next(&mut consumer).await;
    }
    assert!(seen.held_most <= MEMORY_BYTES + BATCH_BYTES * 2, "{} bytes", seen.held_most);
    consumer.resume(&paused.into_iter().collect::<Vec<_>>());
    while seen.whole() < PARTITIONS as usize {
        seen.next(&mut consumer).await;
    }
}
