//! What decoding and encoding cost, in nanoseconds per message, headers and frame included.
//!
//! `cargo bench -p millstream-protocol` prints a table. "crate" is the `kafka-protocol` crate on the same bytes, which
//! reads and writes bodies only. Each figure is the fastest of many short runs: other work on the machine only adds.

#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey as TheirKey, RequestKind, ResponseKind};
use millstream_protocol::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use millstream_protocol::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData,
};
use millstream_protocol::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use millstream_protocol::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
    TopicProduceResponse,
};
use millstream_protocol::{
    ApiKey, FRAME_LENGTH_BYTES, Message, Reader, Records, Request, RequestHeader, Str, Uuid, decode_body,
    decode_response, encode_request_frame, encode_response_frame,
};

const RUNS: usize = 100;
const RUN: Duration = Duration::from_millis(4);

/// Nanoseconds per call, in the fastest run.
fn nanoseconds(mut work: impl FnMut()) -> f64 {
    (0..RUNS).map(|_| one_run(&mut work)).fold(f64::INFINITY, f64::min)
}

fn one_run(work: &mut impl FnMut()) -> f64 {
    let (begin, mut calls) = (Instant::now(), 0u32);
    loop {
        (0..16).for_each(|_| work());
        calls += 16;
        let spent = begin.elapsed();
        if spent >= RUN {
            return spent.as_nanos() as f64 / f64::from(calls);
        }
    }
}

fn row(name: &str, version: i16, bytes: usize, ours: [f64; 2], theirs: [f64; 2]) {
    let [decode, encode] = ours;
    let [their_decode, their_encode] = theirs;
    println!(
        "| {name} | {version} | {bytes} | {decode:.0} | {encode:.0} | {their_decode:.0} | {their_encode:.0} |"
    );
}

/// Header and body without the length, in one piece as the broker receives it.
fn received(chain: Vec<Bytes>) -> Bytes {
    Bytes::from(chain.concat()).slice(FRAME_LENGTH_BYTES..)
}

fn request<R: Request>(name: &str, version: i16, body: &R) {
    let frame = received(encode_request_frame(version, 7, Some("producer-1"), body).expect("a frame"));
    let decode = nanoseconds(|| {
        let mut r = Reader::new(black_box(&frame).clone());
        let header = RequestHeader::decode(&mut r).expect("a header");
        black_box((header, decode_body::<R>(&mut r, version).expect("a body")));
    });
    let encode = nanoseconds(|| {
        black_box(encode_request_frame(version, 7, Some("producer-1"), black_box(body)).expect("a frame"));
    });
    let mut r = Reader::new(frame.clone());
    RequestHeader::decode(&mut r).expect("a header");
    let (bytes, key) = (r.rest(), TheirKey::try_from(R::KEY as i16).expect("a key"));
    let their = RequestKind::decode(key, &mut bytes.clone(), version).expect("a body");
    let their_decode = nanoseconds(|| {
        black_box(RequestKind::decode(key, &mut black_box(&bytes).clone(), version).expect("a body"));
    });
    let their_encode = nanoseconds(|| {
        let mut out = BytesMut::new();
        black_box(&their).encode(&mut out, version).expect("bytes");
        black_box(out.freeze());
    });
    row(name, version, frame.len(), [decode, encode], [their_decode, their_encode]);
}

fn response<R: Request>(name: &str, version: i16, body: &R::Response) {
    let key: ApiKey = R::KEY;
    let frame = received(encode_response_frame(key, version, 7, body).expect("a frame"));
    let decode = nanoseconds(|| {
        black_box(decode_response::<R>(black_box(&frame).clone(), version).expect("a body"));
    });
    let encode = nanoseconds(|| {
        black_box(encode_response_frame(key, version, 7, black_box(body)).expect("a frame"));
    });
    let mut w = millstream_protocol::Writer::new();
    body.encode(&mut w, version).expect("a body");
    let (bytes, key) = (w.finish_contiguous(), TheirKey::try_from(key as i16).expect("a key"));
    let their = ResponseKind::decode(key, &mut bytes.clone(), version).expect("a body");
    let their_decode = nanoseconds(|| {
        black_box(ResponseKind::decode(key, &mut black_box(&bytes).clone(), version).expect("a body"));
    });
    let their_encode = nanoseconds(|| {
        let mut out = BytesMut::new();
        black_box(&their).encode(&mut out, version).expect("bytes");
        black_box(out.freeze());
    });
    row(name, version, frame.len(), [decode, encode], [their_decode, their_encode]);
}

fn topic(index: usize) -> Str {
    Str::from(format!("orders-europe-{index}"))
}

fn id(index: usize) -> Uuid {
    Uuid([index as u8 + 1; 16])
}

fn metadata() -> (MetadataRequest, MetadataResponse) {
    let topics =
        (0..10).map(|t| MetadataRequestTopic { name: Some(topic(t)), topic_id: Uuid::ZERO }).collect();
    let partition = |p| MetadataResponsePartition {
        partition_index: p,
        leader_id: 1,
        replica_nodes: vec![1, 2, 3],
        isr_nodes: vec![1, 2, 3],
        ..Default::default()
    };
    let broker =
        |n| MetadataResponseBroker { node_id: n, host: "broker.example.org".into(), port: 9092, rack: None };
    let described = |t| MetadataResponseTopic {
        name: Some(topic(t)),
        topic_id: id(t),
        partitions: (0..6).map(partition).collect(),
        ..Default::default()
    };
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    let brokers = (1..4).map(broker).collect();
    (request, MetadataResponse { brokers, topics: (0..10).map(described).collect(), ..Default::default() })
}

fn produce() -> (ProduceRequest, ProduceResponse) {
    let records = |_| Records::One(Bytes::from(vec![7u8; 16 << 10]));
    let partition = |p| PartitionProduceData { index: p, records: records(p) };
    let topic_data = vec![TopicProduceData {
        name: topic(0),
        partition_data: (0..6).map(partition).collect(),
        ..Default::default()
    }];
    let request = ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data, ..Default::default() };
    let answer = |p| PartitionProduceResponse {
        index: p,
        base_offset: 1_000_000,
        error_message: None,
        ..Default::default()
    };
    let partition_responses = (0..6).map(answer).collect();
    let responses = vec![TopicProduceResponse { name: topic(0), partition_responses, ..Default::default() }];
    (request, ProduceResponse { responses, ..Default::default() })
}

fn fetch() -> (FetchRequest, FetchResponse) {
    let wanted = |p| FetchPartition {
        partition: p,
        fetch_offset: 1_000_000,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topics =
        vec![FetchTopic { topic_id: id(0), partitions: (0..6).map(wanted).collect(), ..Default::default() }];
    let request = FetchRequest { max_wait_ms: 500, min_bytes: 1, topics, ..Default::default() };
    let data = |p| PartitionData {
        partition_index: p,
        high_watermark: 2_000_000,
        last_stable_offset: 2_000_000,
        log_start_offset: 0,
        aborted_transactions: None,
        records: Records::Many((0..4).map(|_| Bytes::from(vec![7u8; 16 << 10])).collect()),
        ..Default::default()
    };
    let partitions = (0..6).map(data).collect();
    let responses = vec![FetchableTopicResponse { topic_id: id(0), partitions, ..Default::default() }];
    (request, FetchResponse { responses, ..Default::default() })
}

fn main() {
    println!("| message | version | bytes | decode ns | encode ns | crate decode | crate encode |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let hello = ApiVersionsRequest {
        client_software_name: "apache-kafka-java".into(),
        client_software_version: "4.1.0".into(),
        ..Default::default()
    };
    let row = |key: &ApiKey| ApiVersion {
        api_key: *key as i16,
        min_version: key.versions().min,
        max_version: key.versions().max,
    };
    let known = ApiVersionsResponse { api_keys: ApiKey::ALL.iter().map(row).collect(), ..Default::default() };
    request("ApiVersions request", 4, &hello);
    response::<ApiVersionsRequest>("ApiVersions response, 73 keys", 4, &known);
    let (ask, answer) = metadata();
    request("Metadata request, 10 topics", 12, &ask);
    response::<MetadataRequest>("Metadata response, 10 topics x 6 partitions", 12, &answer);
    let (ask, answer) = produce();
    request("Produce request, 6 partitions x 16 KiB", 11, &ask);
    response::<ProduceRequest>("Produce response, 6 partitions", 11, &answer);
    let (ask, answer) = fetch();
    request("Fetch request, 6 partitions", 17, &ask);
    response::<FetchRequest>("Fetch response, 6 partitions x 64 KiB in 4 batches", 17, &answer);
}
