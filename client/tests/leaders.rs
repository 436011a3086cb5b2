//! Leaders that change and connections that break under a producer and a consumer, on two brokers of the test's own: they
//! lead one partition in turn, and now and then take a request and hang up without an answer.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_batch::{BatchHeader, stamp};
use millstream_client::{
    ClientConfig, Cluster,
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
    producer::{Producer, ProducerConfig, Record},
};
use millstream_protocol::{
    ApiKey, ErrorCode, Records, Str,
    messages::{
        fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData},
        init_producer_id::InitProducerIdResponse,
        produce::{PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse},
    },
};
use parking_lot::Mutex;
use support::fake::{Asked, listen, metadata, versions};

const TOPIC: &str = "t";
const RECORDS: u32 = 3000;
const SERVED: &[(ApiKey, i16)] = &[
    (ApiKey::Produce, 9),
    (ApiKey::Fetch, 12),
    (ApiKey::Metadata, 9),
    (ApiKey::ApiVersions, 3),
    (ApiKey::InitProducerId, 3),
];
/// One of this many requests is taken and not answered.
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
}

async fn answer(node: i32, mut asked: Asked, state: Arc<Mutex<State>>) -> Option<Vec<Bytes>> {
    let pieces = match asked.key(SERVED) {
        key @ ApiKey::ApiVersions => asked.encode(key, &versions(SERVED)),
        key @ ApiKey::Metadata => {
            let state = state.lock();
            asked.encode(key, &metadata(&state.ports, TOPIC, &[state.leader], state.epoch))
        }
        key @ ApiKey::InitProducerId => {
            let producer_id = state.lock().producers.len() as i64 + 1;
            asked.encode(key, &InitProducerIdResponse { producer_id, ..Default::default() })
        }
        key @ ApiKey::Produce => {
            let response = produced(node, asked.decode(), &state);
            asked.encode(key, &response)
        }
        key => {
            let response = fetched(node, asked.decode(), &state).await;
            asked.encode(key, &response)
        }
    };
    let mut state = state.lock();
    state.requests += 1;
    (!state.requests.is_multiple_of(UNANSWERED_ONE_OF)).then_some(pieces)
}

fn produced(node: i32, request: ProduceRequest, state: &Mutex<State>) -> ProduceResponse {
    let records = request.topic_data.into_iter().next().expect("a topic").partition_data.remove(0).records;
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
    ProduceResponse { responses: vec![topic], ..Default::default() }
}

async fn fetched(node: i32, request: FetchRequest, state: &Mutex<State>) -> FetchResponse {
    let result = state.lock().read(node, request.topics[0].partitions[0].fetch_offset);
    if result.as_ref().is_ok_and(Vec::is_empty) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let partition = PartitionData {
        error_code: result.as_ref().err().map_or(0, |code| code.0),
        records: Records::Many(result.unwrap_or_default()),
        ..Default::default()
    };
    let topic =
        FetchableTopicResponse { topic: Str::from(TOPIC), partitions: vec![partition], ..Default::default() };
    FetchResponse { responses: vec![topic], ..Default::default() }
}

/// Two brokers, and the leadership going to and fro.
async fn brokers() -> Arc<Mutex<State>> {
    let state = Arc::<Mutex<State>>::default();
    for node in 0..2 {
        let shared = state.clone();
        let port = listen(move |asked| answer(node, asked, shared.clone())).await;
        state.lock().ports.push(port);
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
