//! Compacted topics from a client's view: records are compacted in time, and every reader gets to the end.
#![allow(missing_docs)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::{Broker, client::Client, eventually};
use millstream_batch::{BatchBuilder, BatchHeader, Codec, NewRecord};

const MIB: i32 = 1 << 20;
/// Topics whose last record a plain and an idempotent producer wrote: id, epoch and sequence of the last
/// batch.
const TOPICS: [(&str, (i64, i16, i32)); 2] = [("plain", (-1, -1, -1)), ("idempotent", (4711, 0, 0))];

#[allow(clippy::disallowed_methods, reason = "ages are measured with the machine's clock")]
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn batch((id, epoch, sequence): (i64, i16, i32), pairs: &[(&str, Option<&str>)]) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None).producer(id, epoch, sequence);
    for (key, value) in pairs {
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        batch.push(NewRecord { timestamp_ms: now_ms(), key, value, headers: &[] });
    }
    batch.build().expect("a batch")
}

/// The headers that a consumer fetches from `offset` to the end.
fn read_to_end(client: &mut Client, topic: &str, mut offset: i64, end: i64) -> Vec<BatchHeader> {
    let mut all = Vec::new();
    while offset < end {
        let headers: Vec<_> = client.batches(topic, offset, MIB).into_iter().map(|(h, _)| h).collect();
        let next = headers.last().map_or(offset, BatchHeader::next_offset);
        assert!(next > offset, "a reader of {topic} stays at {offset} of {end}");
        offset = next;
        all.extend(headers);
    }
    assert_eq!(offset, end, "{topic}");
    all
}

fn records(headers: &[BatchHeader]) -> i32 {
    headers.iter().map(|header| header.record_count).sum()
}

fn check_ends(client: &mut Client, end: i64, left: i32) {
    for (topic, _) in TOPICS {
        assert_eq!(records(&read_to_end(client, topic, 0, end)), left, "{topic}");
        for from in 1..end {
            read_to_end(client, topic, from, end);
        }
    }
}

#[test]
fn records_are_compacted_within_the_longest_lag_and_readers_reach_the_end_that_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    let policy =
        [("cleanup.policy", "compact"), ("max.compaction.lag.ms", "100"), ("delete.retention.ms", "0")];
    for (topic, producer) in TOPICS {
        client.create_topic(topic, &policy);
        client.append(topic, batch((-1, -1, -1), &[("a", Some("1")), ("b", Some("1"))]));
        client.append(topic, batch(producer, &[("a", None), ("b", None), ("c", None)]));
        assert_eq!(records(&read_to_end(&mut client, topic, 0, 5)), 5);
    }
    // Nothing else triggers a flush: the broker is idle.
    for (topic, _) in TOPICS {
        eventually("all records are compacted away", || records(&read_to_end(&mut client, topic, 0, 5)) == 0);
    }
    check_ends(&mut client, 5, 0);
    for (topic, _) in TOPICS {
        broker.lines(&["consume", topic, "--group", topic, "--from-beginning"]);
        let group = broker.json(&["group", "describe", topic, "--output", "json"]);
        let offsets = &group["offsets"][0];
        assert_eq!((&offsets["offset"], &offsets["lag_records"]), (&5.into(), &0.into()), "{group}");
    }
    // Killed, and then stopped cleanly.
    drop(broker);
    let broker = Broker::start(dir.path());
    check_ends(&mut Client::connect(&broker), 5, 0);
    broker.stop();
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    check_ends(&mut client, 5, 0);
    for (topic, _) in TOPICS {
        assert_eq!(client.append(topic, batch((-1, -1, -1), &[("d", Some("1"))])), 5);
    }
    check_ends(&mut client, 6, 1);
}
