//! Idempotent producers from a client's view: their ids, and the results of their batches.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, record},
    eventually,
};
use millstream_batch::{BatchBuilder, Codec};
use millstream_protocol::{
    ErrorCode,
    messages::{
        describe_producers, find_coordinator,
        init_producer_id::{InitProducerIdRequest, InitProducerIdResponse},
    },
};

const NONE: ErrorCode = ErrorCode::NONE;

fn init(client: &mut Client, version: i16, id: i64, epoch: i16) -> InitProducerIdResponse {
    let request = InitProducerIdRequest {
        transactional_id: None,
        producer_id: id,
        producer_epoch: epoch,
        ..Default::default()
    };
    client.ask(version, &request)
}

/// A batch of `count` records.
fn batch(producer: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None).producer(producer, epoch, sequence);
    (0..count).for_each(|_| batch.push(record(None, b"v")));
    batch.build().expect("a batch")
}

/// The error code and offset of the reply to one batch of producer 7.
fn send_batch(client: &mut Client, epoch: i16, sequence: i32) -> (ErrorCode, i64) {
    let done = client.produce("t", batch(7, epoch, sequence, 1));
    (ErrorCode(done.error_code), done.base_offset)
}

#[test]
fn whoever_asks_gets_a_new_id_whichever_it_had() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        // The second broker is the first one after kill -9.
        let broker = Broker::start(dir.path());
        let mut client = Client::connect(&broker);
        for version in [0, 2, 3, 4] {
            let fresh = init(&mut client, version, -1, -1);
            assert_eq!((ErrorCode(fresh.error_code), fresh.producer_epoch), (NONE, 0));
            assert!(seen.insert(fresh.producer_id), "{} is given twice", fresh.producer_id);
            if version < 3 {
                continue;
            }
            for epoch in [0, 5, i16::MAX] {
                let again = init(&mut client, version, fresh.producer_id, epoch);
                assert_eq!((ErrorCode(again.error_code), again.producer_epoch), (NONE, 0));
                assert!(seen.insert(again.producer_id), "{} is given twice", again.producer_id);
            }
            for (id, epoch) in [(fresh.producer_id, -1), (-1, 3)] {
                let refused = init(&mut client, version, id, epoch);
                assert_eq!(ErrorCode(refused.error_code), ErrorCode::INVALID_REQUEST);
                assert_eq!((refused.producer_id, refused.producer_epoch), (-1, -1));
            }
        }
    }
}

#[test]
fn a_transactional_id_is_refused_where_it_is_first_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    let request = find_coordinator::FindCoordinatorRequest {
        key_type: 1,
        coordinator_keys: vec!["t".into()],
        ..Default::default()
    };
    let found = &client.ask(4, &request).coordinators[0];
    assert!(!ErrorCode(found.error_code).is_retriable(), "{found:?}");
    assert!(found.error_message.as_deref().is_some_and(|text| text.contains("transactions")), "{found:?}");
    // The one error after which librdkafka does not retry.
    for version in 1..4 {
        let request =
            find_coordinator::FindCoordinatorRequest { key: "t".into(), key_type: 1, ..Default::default() };
        let found = client.ask(version, &request);
        assert_eq!(
            ErrorCode(found.error_code),
            ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "{found:?}"
        );
        assert!(
            found.error_message.as_deref().is_some_and(|text| text.contains("transactions")),
            "{found:?}"
        );
    }
    let request = InitProducerIdRequest { transactional_id: Some("t".into()), ..Default::default() };
    let refused = client.ask(4, &request);
    assert!(refused.error_code != 0 && !ErrorCode(refused.error_code).is_retriable(), "{refused:?}");
}

#[test]
fn a_batch_that_comes_again_is_told_its_first_offset_and_what_does_not_follow_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    client.create_topic("t", &[]);
    for sequence in 0..7 {
        assert_eq!(send_batch(&mut client, 0, sequence), (NONE, i64::from(sequence)));
    }
    // The last five are remembered with their offsets.
    for sequence in 2..7 {
        assert_eq!(send_batch(&mut client, 0, sequence), (NONE, i64::from(sequence)), "again");
    }
    assert_eq!(send_batch(&mut client, 0, 0).0, ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    assert_eq!(send_batch(&mut client, 0, 8).0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, "7 is missing");
    assert_eq!(
        send_batch(&mut client, 1, 7).0,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        "a new epoch begins at 0"
    );
    assert_eq!(send_batch(&mut client, 1, 0), (NONE, 7));
    assert_eq!(send_batch(&mut client, 0, 7).0, ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(send_batch(&mut client, 1, 1), (NONE, 8));
    assert_eq!(client.find_offset("t", -1).0, 9, "nothing is there twice");
}

#[test]
fn what_is_known_of_producers_survives_kill_9_and_a_clean_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut next = 0;
    for clean in [false, true, false] {
        let broker = Broker::start(dir.path());
        let mut client = Client::connect(&broker);
        if next == 0 {
            client.create_topic("t", &[]);
        } else {
            assert_eq!(
                send_batch(&mut client, 3, next - 1),
                (NONE, i64::from(next) - 1),
                "again, after a restart"
            );
            assert_eq!(send_batch(&mut client, 2, next).0, ErrorCode::INVALID_PRODUCER_EPOCH);
            assert_eq!(send_batch(&mut client, 3, next + 1).0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        for sequence in next..next + 3 {
            assert_eq!(send_batch(&mut client, 3, sequence), (NONE, i64::from(sequence)));
        }
        next += 3;
        if clean {
            broker.stop();
        }
    }
}

fn producers(client: &mut Client) -> Vec<(i64, i32, i32)> {
    let topic = describe_producers::TopicRequest { name: "t".into(), partition_indexes: vec![0] };
    let request = describe_producers::DescribeProducersRequest { topics: vec![topic] };
    let partition = client.ask(0, &request).topics.remove(0).partitions.remove(0);
    assert_eq!(ErrorCode(partition.error_code), NONE);
    let active = partition.active_producers.iter();
    active.map(|producer| (producer.producer_id, producer.producer_epoch, producer.last_sequence)).collect()
}

#[test]
fn an_idle_producer_is_forgotten_after_producer_id_expiration_ms() {
    let dir = tempfile::tempdir().expect("a directory");
    let set = ["producer.id.expiration.ms=200", "producer.id.expiration.check.interval.ms=50"];
    let broker = Broker::start_set(dir.path(), &set);
    let mut client = Client::connect(&broker);
    client.create_topic("t", &[]);
    assert_eq!(client.append("t", batch(7, 4, 0, 3)), 0);
    eventually("the producer is forgotten", || producers(&mut client).is_empty());
    // As if it were new: neither its epoch nor its sequence is remembered.
    assert_eq!(send_batch(&mut client, 0, 9), (NONE, 3));
    assert_eq!(producers(&mut client), [(7, 0, 9)]);
}
