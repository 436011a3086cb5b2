//! What the tests against a broker share. MILLSTREAM_TEST_BOOTSTRAP says where it is; `client/tests/run` starts one.
#![allow(dead_code, reason = "each test file takes what it needs")]

pub(crate) mod fake;
pub(crate) mod reader;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use millstream_client::{
    ClientConfig, Cluster,
    admin::{Admin, NewTopic},
    consumer::{Assignor, GroupConfig, Start, TopicPartition},
    producer::{Producer, ProducerConfig, Record},
};

/// No step of a test waits longer.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn bootstrap() -> String {
    std::env::var("MILLSTREAM_TEST_BOOTSTRAP").expect("MILLSTREAM_TEST_BOOTSTRAP=HOST:PORT of a broker")
}

pub(crate) fn cluster() -> Cluster {
    Cluster::new(ClientConfig::new(&bootstrap()))
}

/// A name that no other test has, nor an earlier run.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// A topic of its own for a test.
pub(crate) async fn topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
    topic_named(&unique(name), partitions, configs).await
}

pub(crate) async fn topic_named(name: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
    let configs = configs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let (name, partitions) = (name.to_string(), Some(partitions));
    let new = NewTopic { name: name.clone(), partitions, replication_factor: Some(1), configs };
    Admin::new(cluster()).create_topic(&new, false).await.expect("created");
    name
}

pub(crate) fn place(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

/// Writes numbered records to each partition, in order.
pub(crate) async fn fill(topic: &str, partitions: i32, from: u32, to: u32) {
    let producer = Producer::new(cluster(), ProducerConfig::default());
    let mut deliveries = Vec::new();
    for n in from..to {
        for partition in 0..partitions {
            let value = Some(n.to_string().into());
            let record = Record { value, partition: Some(partition), ..Record::default() };
            deliveries.push(producer.send(topic, record).await.expect("taken"));
        }
    }
    for delivery in deliveries {
        delivery.await.expect("delivered");
    }
    producer.close().await;
}

/// A member of a group that changes fast.
pub(crate) fn member(group: &str, topic: &str, assignor: Assignor) -> GroupConfig {
    GroupConfig {
        assignors: vec![assignor],
        start: Start::Beginning,
        session_timeout: Duration::from_secs(10),
        heartbeat_interval: Duration::from_millis(200),
        rebalance_timeout: Duration::from_secs(20),
        ..GroupConfig::new(group, [topic.to_string()])
    }
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {WAIT:?}"))
}

pub(crate) fn number(value: &Option<bytes::Bytes>) -> u32 {
    let text = value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
    text.parse().expect("a number")
}

/// How often each record was read, by partition and number.
#[derive(Default)]
pub(crate) struct Read(pub(crate) BTreeMap<(i32, u32), u32>);

impl Read {
    pub(crate) fn add(&mut self, partition: i32, value: &Option<bytes::Bytes>) {
        *self.0.entry((partition, number(value))).or_default() += 1;
    }
}
