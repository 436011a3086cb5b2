//! Millstream's client crate.

use std::collections::VecDeque;

use bytes::Bytes;
use millstream_client::{
    ClientConfig, Cluster,
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
    producer::{Producer, ProducerConfig, Record},
};

use crate::{Job, MEMORY_BYTES, values};

/// Results that are not looked at yet.
const RESULTS_WAITING_MAX: usize = 20_000;

fn cluster(job: &Job) -> Cluster {
    Cluster::new(ClientConfig::new(&job.bootstrap))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// Records whose results are good.
pub fn produce(job: &Job) -> u64 {
    run(async {
        let config = ProducerConfig { memory_bytes: MEMORY_BYTES, ..ProducerConfig::default() };
        let producer = Producer::new(cluster(job), config);
        let values: Vec<Bytes> = values(job.bytes).into_iter().map(Bytes::from).collect();
        let (mut waiting, mut good) = (VecDeque::with_capacity(RESULTS_WAITING_MAX), 0);
        for value in values.iter().cycle().take(job.records as usize) {
            let record = Record { value: Some(value.clone()), ..Record::default() };
            waiting.push_back(producer.send(&job.topic, record).await.expect("taken"));
            if waiting.len() == RESULTS_WAITING_MAX {
                for delivery in waiting.drain(..RESULTS_WAITING_MAX / 2) {
                    good += u64::from(delivery.wait().await.is_ok());
                }
            }
        }
        for delivery in waiting {
            good += u64::from(delivery.wait().await.is_ok());
        }
        producer.close().await;
        good
    })
}

/// Records that were read.
pub fn consume(job: &Job) -> u64 {
    run(async {
        let cluster = cluster(job);
        let topic = cluster.topic(&job.topic, false).await.expect("the topic");
        let mut consumer = Consumer::new(cluster, ConsumerConfig::default());
        let start = |index| (TopicPartition { topic: job.topic.as_str().into(), partition: index }, Start::Beginning);
        consumer.assign(topic.partitions.iter().map(|partition| start(partition.index)));
        let (mut read, mut bytes) = (0, 0);
        while read < job.records {
            for record in consumer.next().await.expect("records").records {
                read += 1;
                bytes += record.value.map_or(0, |value| value.len());
            }
        }
        assert_eq!(bytes, job.records as usize * job.bytes);
        read
    })
}
