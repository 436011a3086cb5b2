//! Leaders that change and connections that break under a producer and a consumer, on two brokers of the test's own: they
//! lead one partition in turn, and now and then take a request and hang up without an answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use millstream_batch::{BatchHeader, stamp};
use millstream_client::{
    ClientConfig, Cluster,
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
    producer::{Producer, ProducerConfig, Record},
};
use millstream_protocol::{
    ApiKey, ErrorCode, Message, Reader, Records, RequestHeader, Str, decode_body, encode_response_frame,
    messages::{
        api_versions::{ApiVersion, ApiVersionsResponse},
        fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData},
        init_producer_id::InitProducerIdResponse,
        metadata::{
            MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
        produce::{PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse},
    },
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const TOPIC: &str = "t";
const RECORDS: u32 = 3000;
/// One request of so many is taken and not answered.
const UNANSWERED_ONE_OF: u32 = 23;

/// What both brokers know.
#[derive(Default)]
struct State {
    ports: Vec<u16>,
    leader: i32,
    epoch: i32,
    log: Vec<Bytes>,
    next_offset: i64,
    /// By producer id: the next sequence, and where each batch went.
    producers: BTreeMap<i64, (i32, BTreeMap<i32, i64>)>,
    requests: u32,
    refused: u32,
}

impl State {
    fn append(&mut self, node: i32, batch: Bytes) -> Result<i64, ErrorCode> {
        if node != self.leader {
            self.refused += 1;
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        let header = BatchHeader::parse(&batch).expect("a batch");
        let (next, seen) =
            self.producers.entry(header.producer_id).or_insert((header.base_sequence, BTreeMap::new()));
        if let Some(offset) = seen.get(&header.base_sequence) {
            return Ok(*offset);
        }
        if header.base_sequence != *next {
            return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        *next += header.record_count;
        let offset = self.next_offset;
        seen.insert(header.base_sequence, offset);
        let mut batch = Vec::from(batch);
        stamp(&mut batch, offset, self.epoch);
        self.next_offset += i64::from(header.record_count);
        self.log.push(batch.into());
        Ok(offset)
    }

    fn read(&mut self, node: i32, from: i64) -> Result<Vec<Bytes>, ErrorCode> {
        if node != self.leader {
            self.refused += 1;
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        let wanted = |batch: &&Bytes| BatchHeader::parse(batch).expect("a batch").next_offset() > from;
        Ok(self.log.iter().filter(wanted).take(3).cloned().collect())
    }

    fn metadata(&self) -> MetadataResponse {
        let broker = |(node_id, port): (i32, &u16)| MetadataResponseBroker {
            node_id,
            host: Str::from("127.0.0.1"),
            port: i32::from(*port),
            ..Default::default()
        };
        let partition = MetadataResponsePartition {
            leader_id: self.leader,
            leader_epoch: self.epoch,
            ..Default::default()
        };
        let topic = MetadataResponseTopic {
            name: Some(Str::from(TOPIC)),
            partitions: vec![partition],
            ..Default::default()
        };
        MetadataResponse {
            brokers: (0..).zip(&self.ports).map(broker).collect(),
            controller_id: 0,
            topics: vec![topic],
            ..Default::default()
        }
    }
}

async fn serve(node: i32, mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Some(frame) = read_frame(&mut stream).await {
        let mut reader = Reader::new(frame);
        let header = RequestHeader::decode(&mut reader).expect("a header");
        let answer = answer(node, &header, &mut reader, &state).await;
        let unanswered = {
            let mut state = state.lock();
            state.requests += 1;
            state.requests.is_multiple_of(UNANSWERED_ONE_OF)
        };
        if unanswered {
            return;
        }
        for piece in answer {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
}

async fn read_frame(stream: &mut TcpStream) -> Option<Bytes> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = BytesMut::zeroed(length as usize);
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame.freeze())
}

async fn answer(node: i32, header: &RequestHeader, reader: &mut Reader, state: &Mutex<State>) -> Vec<Bytes> {
    let key = [ApiKey::Produce, ApiKey::Fetch, ApiKey::Metadata, ApiKey::ApiVersions, ApiKey::InitProducerId]
        .into_iter()
        .find(|key| *key as i16 == header.key)
        .expect("a request that is served");
    let version = header.version;
    match key {
        ApiKey::ApiVersions => {
            let api = |api_key, max_version| ApiVersion { api_key, min_version: 0, max_version };
            let api_keys = vec![api(0, 9), api(1, 12), api(3, 9), api(18, 3), api(22, 3)];
            encoded(header, key, &ApiVersionsResponse { api_keys, ..Default::default() })
        }
        ApiKey::Metadata => encoded(header, key, &state.lock().metadata()),
        ApiKey::InitProducerId => {
            let producer_id = state.lock().producers.len() as i64 + 1;
            encoded(header, key, &InitProducerIdResponse { producer_id, ..Default::default() })
        }
        ApiKey::Produce => {
            let request: ProduceRequest = decode_body(reader, version).expect("a request");
            let records =
                request.topic_data.into_iter().next().expect("a topic").partition_data.remove(0).records;
            let Records::One(batch) = records else { panic!("one batch") };
            let result = state.lock().append(node, batch);
            let partition = PartitionProduceResponse {
                error_code: result.err().map_or(0, |code| code.0),
                base_offset: result.unwrap_or(-1),
                ..Default::default()
            };
            let topic = TopicProduceResponse {
                name: Str::from(TOPIC),
                partition_responses: vec![partition],
                ..Default::default()
            };
            encoded(header, key, &ProduceResponse { responses: vec![topic], ..Default::default() })
        }
        _ => {
            let request: FetchRequest = decode_body(reader, version).expect("a request");
            let result = state.lock().read(node, request.topics[0].partitions[0].fetch_offset);
            if result.as_ref().is_ok_and(Vec::is_empty) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let partition = PartitionData {
                error_code: result.as_ref().err().map_or(0, |code| code.0),
                records: Records::Many(result.unwrap_or_default()),
                ..Default::default()
            };
            let topic = FetchableTopicResponse {
                topic: Str::from(TOPIC),
                partitions: vec![partition],
                ..Default::default()
            };
            encoded(header, key, &FetchResponse { responses: vec![topic], ..Default::default() })
        }
    }
}

fn encoded<M: Message>(header: &RequestHeader, key: ApiKey, response: &M) -> Vec<Bytes> {
    encode_response_frame(key, header.version, header.correlation_id, response).expect("written")
}

/// Two brokers, and the leadership going to and fro.
async fn brokers() -> Arc<Mutex<State>> {
    let state = Arc::<Mutex<State>>::default();
    for node in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        state.lock().ports.push(listener.local_addr().expect("bound").port());
        let state = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(node, stream, state.clone()));
            }
        });
    }
    let moving = state.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let mut state = moving.lock();
            state.leader = 1 - state.leader;
            state.epoch += 1;
        }
    });
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_change_and_connections_break_and_nothing_is_lost_or_written_twice() {
    let state = brokers().await;
    let bootstrap =
        state.lock().ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let config = ClientConfig { retry_first: Duration::from_millis(5), ..ClientConfig::new(&bootstrap) };
    let cluster = Cluster::new(config);
    let reading = tokio::spawn(read_all(cluster.clone()));
    let producer = Producer::new(
        cluster,
        ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() },
    );
    let mut deliveries = Vec::new();
    for n in 0..RECORDS {
        let record = Record { value: Some(n.to_be_bytes().to_vec().into()), ..Record::default() };
        deliveries.push(producer.send(TOPIC, record).await.expect("taken"));
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for (n, delivery) in (0..).zip(deliveries) {
        let delivered =
            tokio::time::timeout(Duration::from_secs(60), delivery.wait()).await.expect("in time");
        assert_eq!(delivered.expect("delivered").offset, n, "in order, none twice");
    }
    let read =
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("in time").expect("no panic");
    assert!(read.into_iter().eq(0..RECORDS));
    let state = state.lock();
    assert!(state.epoch > 3 && state.refused > 3, "{} leaders, {} refusals", state.epoch, state.refused);
    assert!(state.requests > UNANSWERED_ONE_OF * 3, "{} requests", state.requests);
}

async fn read_all(cluster: Cluster) -> Vec<u32> {
    let mut consumer = Consumer::new(cluster, ConsumerConfig::default());
    consumer.assign([(TopicPartition { topic: TOPIC.into(), partition: 0 }, Start::Offset(0))]);
    let mut read = Vec::new();
    while read.len() < RECORDS as usize {
        for record in consumer.next().await.expect("records").records {
            let value = record.value.expect("a value");
            read.push(u32::from_be_bytes(value[..].try_into().expect("four bytes")));
        }
    }
    read
}
