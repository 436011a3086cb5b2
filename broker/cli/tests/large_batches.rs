//! The largest batches: what a topic may be configured with is carried, and what cannot be carried is refused with the limit.
#![allow(missing_docs)]

mod common;

use std::process::Command;

use common::{
    Broker, PROGRAM,
    client::{Client, one_batch},
    text,
};
use millstream_protocol::ErrorCode;

/// What a broker with 64 MiB of memory carries: its largest request less what is around a batch.
const SMALL_BYTES_MAX: usize = (4 << 20) - (64 << 10);
const SMALL_MEMORY: &str = "memory.bytes=67108864";

/// A batch of this size in all.
fn batch_of_bytes(bytes: usize) -> bytes::Bytes {
    let around = one_batch(&vec![b'x'; bytes]).len() - bytes;
    let batch = one_batch(&vec![b'x'; bytes - around]);
    assert_eq!(batch.len(), bytes);
    batch
}

#[test]
fn a_size_that_the_memory_does_not_allow_is_refused_with_the_largest_that_it_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), &[SMALL_MEMORY]);
    let (allowed, beyond) = (SMALL_BYTES_MAX.to_string(), (SMALL_BYTES_MAX + 1).to_string());
    let of_topic = |bytes: &str| format!("max.message.bytes={bytes}");
    let refused = |args: &[&str]| {
        let output = broker.ask(args);
        let line = text(&output.stderr);
        assert!(!output.status.success(), "{args:?} is taken");
        assert!(line.contains(&format!("at most {allowed}")) && line.contains("--memory"), "{line}");
    };
    refused(&["topic", "create", "t", "--config", &of_topic("33554432")]);
    refused(&["topic", "create", "t", "--config", &of_topic(&beyond)]);
    broker.lines(&["topic", "create", "t", "--config", &of_topic(&allowed)]);
    refused(&["topic", "alter", "t", "--set", &of_topic(&beyond)]);
    refused(&["cluster", "alter", "--set", &format!("message.max.bytes={beyond}")]);
    let mut client = Client::connect(&broker);
    assert_eq!(client.append("t", batch_of_bytes(SMALL_BYTES_MAX)), 0);
    let done = client.produce("t", batch_of_bytes(SMALL_BYTES_MAX + 1));
    assert_eq!(ErrorCode(done.error_code), ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(client.batches("t", 0, 1)[0].1.len(), SMALL_BYTES_MAX);
}

#[test]
fn a_default_size_that_the_memory_does_not_allow_is_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    // One that is not refused runs on.
    let mut serve = Command::new("timeout");
    serve.args(["20", PROGRAM]);
    serve.args(["serve", "--kafka-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--memory", "64MiB"]);
    let output = serve
        .args(["--set", "message.max.bytes=33554432", "--data-dir"])
        .arg(dir.path())
        .output()
        .expect("it runs");
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("at most 4128768") && line.contains("--memory"), "{line}");
}

#[test]
fn a_topic_on_a_broker_with_less_memory_than_before_takes_what_the_broker_can_carry() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), &["memory.bytes=2147483648"]);
    let mut client = Client::connect(&broker);
    client.create_topic("t", &[("max.message.bytes", "50000000")]);
    let large = batch_of_bytes(36 << 20);
    assert_eq!(client.append("t", large.clone()), 0);
    broker.stop();
    let broker = Broker::start_set(dir.path(), &[SMALL_MEMORY]);
    let mut client = Client::connect(&broker);
    let done = client.produce("t", batch_of_bytes(SMALL_BYTES_MAX + 1));
    assert_eq!(ErrorCode(done.error_code), ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(client.append("t", one_batch(b"v")), 1);
    assert_eq!(client.batches("t", 0, 1)[0].1.len(), large.len(), "it is still read");
    broker.lines(&["topic", "alter", "t", "--set", "retention.ms=3600000"]);
}
