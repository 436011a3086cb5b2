//! Clients that request a change and close the connection before the reply.
#![allow(missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, record},
    eventually,
};
use millstream_batch::{BatchBuilder, Codec};
use millstream_protocol::{
    ErrorCode, encode_request_frame,
    messages::metadata::{MetadataRequest, MetadataRequestTopic},
};

const TOPICS: usize = 20;

fn metadata_of(topic: &str, create: bool) -> MetadataRequest {
    let topic = MetadataRequestTopic { name: Some(topic.to_string().into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: create, ..Default::default() }
}

fn batch() -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None);
    batch.push(record(None, b"v"));
    batch.build().expect("a batch")
}

/// Each of the topics appears, and accepts a batch as soon as it does.
fn all_are_writable(broker: &Broker, name: impl Fn(usize) -> String) {
    let mut client = Client::connect(broker);
    for n in 0..TOPICS {
        let name = name(n);
        eventually(&format!("{name} takes a batch"), || {
            let topic = &client.ask(9, &metadata_of(&name, false)).topics[0];
            ErrorCode(topic.error_code) == ErrorCode::NONE
                && ErrorCode(client.produce(&name, batch()).error_code) == ErrorCode::NONE
        });
    }
}

#[test]
fn topics_of_clients_that_close_at_once_can_be_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    for n in 0..TOPICS {
        let mut socket = TcpStream::connect(&broker.kafka).expect("connected");
        let frame = encode_request_frame(9, 7, Some("test"), &metadata_of(&format!("kafka-{n}"), true));
        let frame = frame.expect("it can be encoded").concat();
        socket.write_all(&frame).expect("written");
    }
    all_are_writable(&broker, |n| format!("kafka-{n}"));
    for n in 0..TOPICS {
        let mut socket = TcpStream::connect(&broker.http).expect("connected");
        let body = format!("{{\"name\": \"http-{n}\"}}");
        let length = body.len();
        write!(
            socket,
            "POST /v1/topics HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("written");
    }
    // The broker also carries out what it has accepted by then: this request is queued after all of it.
    let mut socket = TcpStream::connect(&broker.http).expect("connected");
    write!(socket, "GET /v1/topics HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("written");
    socket.read_to_end(&mut Vec::new()).expect("answered");
    all_are_writable(&broker, |n| format!("http-{n}"));
}
