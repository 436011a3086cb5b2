//! Topic configurations that take effect, from a client's view.
#![allow(missing_docs)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, keyed, one_batch},
    eventually,
};
use millstream_batch::{BatchBuilder, Codec, NewRecord, decode_records};
use millstream_protocol::{
    ErrorCode,
    messages::{
        create_topics::{CreatableTopic, CreateTopicsRequest},
        metadata::{MetadataRequest, MetadataRequestTopic},
    },
};

const NONE: ErrorCode = ErrorCode::NONE;
const HOUR_MS: i64 = 3_600_000;

fn with_broker(set: &[&str], work: impl FnOnce(&mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), set);
    work(&mut Client::connect(&broker));
}

#[allow(clippy::disallowed_methods, reason = "times are compared with the machine's clock")]
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn at(times: &[i64]) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None);
    let record = |timestamp_ms| NewRecord { timestamp_ms, value: Some(b"v"), ..Default::default() };
    times.iter().for_each(|time| batch.push(record(*time)));
    batch.build().expect("a batch")
}

#[test]
fn timestamps_outside_of_the_limits_are_refused_unless_the_broker_sets_them() {
    with_broker(&[], |client| {
        let before = ("message.timestamp.before.max.ms", "3600000");
        client.create_topic("t", &[before, ("message.timestamp.after.max.ms", "3600000")]);
        client.create_topic("default", &[]);
        client.create_topic("stamped", &[before, ("message.timestamp.type", "LogAppendTime")]);
        let now = now_ms();
        let refused = [
            ("t", now - 2 * HOUR_MS, "message.timestamp.before.max.ms"),
            ("t", now + 2 * HOUR_MS, "message.timestamp.after.max.ms"),
            ("default", now + 2 * HOUR_MS, "message.timestamp.after.max.ms"),
        ];
        for (topic, time, key) in refused {
            let done = client.produce(topic, at(&[now, time]));
            assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_TIMESTAMP, "{topic} {key}");
            assert!(done.error_message.is_some_and(|text| text.contains(key)), "{topic} {key}");
        }
        for (topic, time) in
            [("t", now - HOUR_MS / 2), ("t", now + HOUR_MS / 2), ("default", 1), ("stamped", 1)]
        {
            client.append(topic, at(&[time]));
        }
        let (offset, time) = client.find_offset("stamped", -3);
        assert!(offset == 0 && time >= now, "{time} is the broker's");
    });
}

#[test]
fn min_insync_replicas_asks_for_no_more_replicas_than_a_topic_has() {
    with_broker(&[], |client| {
        client.create_topic("t", &[("min.insync.replicas", "2")]);
        assert_eq!(client.append("t", one_batch(b"v")), 0, "as in Kafka");
    });
}

fn metadata_of(client: &mut Client, topic: &str) -> (ErrorCode, usize) {
    let topic = MetadataRequestTopic { name: Some(topic.to_string().into()), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() };
    let found = client.ask_newest(&request).topics.remove(0);
    (ErrorCode(found.error_code), found.partitions.len())
}

#[test]
fn a_topic_that_is_asked_for_is_made_with_num_partitions_unless_that_is_turned_off() {
    with_broker(&[], |client| {
        assert_eq!(metadata_of(client, "asked-for"), (NONE, 1), "by default, as Kafka does");
        assert_eq!(metadata_of(client, "no such name").0, ErrorCode::INVALID_TOPIC_EXCEPTION);
    });
    with_broker(&["num.partitions=5"], |client| {
        assert_eq!(metadata_of(client, "asked-for"), (NONE, 5));
        let topic = CreatableTopic {
            name: "made".into(),
            num_partitions: -1,
            replication_factor: -1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        assert_eq!(client.ask_newest(&request).topics[0].num_partitions, 5);
    });
    with_broker(&["auto.create.topics.enable=false"], |client| {
        assert_eq!(metadata_of(client, "asked-for").0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    });
}

/// The keys that partition 0 still has, each with its value's first byte.
fn kept(client: &mut Client, topic: &str) -> Vec<(String, Option<u8>)> {
    let mut kept = Vec::new();
    for (_, batch) in client.batches(topic, 0, 1 << 20) {
        for record in decode_records(&batch, 1 << 20).expect("decodes").iter() {
            let record = record.expect("a record");
            let key = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
            kept.push((key, record.value.and_then(|value| value.first().copied())));
        }
    }
    kept
}

#[test]
fn old_records_go_by_retention_and_overwritten_ones_by_compaction() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    client.create_topic("old", &[("retention.ms", "3600000")]);
    client.create_topic("young", &[]);
    client.create_topic("large", &[("retention.bytes", "200000"), ("retention.ms", "-1")]);
    client.create_topic("compacted", &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
    client.create_topic(
        "later",
        &[
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("min.compaction.lag.ms", "3600000"),
        ],
    );
    let now = now_ms();
    for topic in ["old", "young"] {
        for _ in 0..20 {
            client.append(topic, at(&[now - 2 * HOUR_MS]));
        }
    }
    for _ in 0..20 {
        client.append("large", one_batch(&[b'x'; 50_000]));
    }
    for topic in ["compacted", "later"] {
        // Timestamps are the records' ages: these are new.
        for (key, value) in [("a", b"1"), ("b", b"1"), ("a", b"2"), ("b", b"2"), ("c", b"1")] {
            let mut batch = BatchBuilder::new(Codec::Gzip);
            batch.push(NewRecord {
                timestamp_ms: now,
                key: Some(key.as_bytes()),
                value: Some(value),
                headers: &[],
            });
            client.append(topic, batch.build().expect("a batch"));
        }
    }
    client.append("young", keyed(Codec::None, &[("k", b"v")]));
    // A stop flushes everything to runs, which retention and compaction work on.
    broker.stop();
    let broker = Broker::start_set(dir.path(), &["log.retention.check.interval.ms=50"]);
    let mut client = Client::connect(&broker);
    let newest =
        [("a".to_string(), Some(b'2')), ("b".to_string(), Some(b'2')), ("c".to_string(), Some(b'1'))];
    eventually("all that is old is gone", || client.find_offset("old", -2).0 == 20);
    eventually("some of what is too much is gone", || client.find_offset("large", -2).0 > 0);
    eventually("only the newest are left", || kept(&mut client, "compacted") == newest);
    assert_eq!(client.find_offset("young", -2).0, 0, "seven days are not over");
    assert_eq!(client.find_offset("old", -1).0, 20, "the end stays where it is");
    assert!(client.find_offset("large", -2).0 <= 16, "200000 bytes and more are left");
    assert_eq!(client.find_offset("compacted", -1).0, 5, "offsets have gaps, and stay");
    assert_eq!(kept(&mut client, "later").len(), 5, "min.compaction.lag.ms is not over");
}
