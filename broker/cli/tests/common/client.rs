//! A raw client that sends exact bytes, and checks every byte of the response.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use millstream_batch::{BatchBuilder, BatchHeader, Codec, NewRecord, split};
use millstream_protocol::{
    ErrorCode, Records, Request, VersionRange, decode_response, encode_request_frame,
    messages::{
        api_versions, create_topics, fetch, heartbeat, join_group, leave_group, list_offsets, offset_commit,
        produce, sync_group,
    },
};

use super::Broker;

/// One connection.
pub(crate) struct Client {
    socket: TcpStream,
    versions: api_versions::ApiVersionsResponse,
}

impl Client {
    pub(crate) fn connect(broker: &Broker) -> Client {
        Client::connect_to(&broker.kafka)
    }

    pub(crate) fn connect_to(address: &str) -> Client {
        let socket = TcpStream::connect(address).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let mut client = Client { socket, versions: Default::default() };
        client.versions = client.ask(0, &api_versions::ApiVersionsRequest::default());
        client
    }

    /// Sends a request whose reply is read later.
    pub(crate) fn send<R: Request>(&mut self, version: i16, request: &R) {
        let frame = encode_request_frame(version, 7, Some("test"), request);
        let frame = frame.unwrap_or_else(|error| panic!("{} {version}: {error}", R::KEY.name()));
        frame.iter().for_each(|piece| self.socket.write_all(piece).expect("written"));
    }

    pub(crate) fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        let name = R::KEY.name();
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).unwrap_or_else(|error| panic!("{name} {version}: {error}"));
        let mut answer = vec![0; i32::from_be_bytes(length) as usize];
        self.socket.read_exact(&mut answer).expect("a whole answer");
        let (id, response) =
            decode_response::<R>(answer.into(), version).unwrap_or_else(|e| panic!("{name} {version}: {e}"));
        assert_eq!(id, 7);
        response
    }

    pub(crate) fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// Sends a request in the newest advertised version.
    pub(crate) fn ask_newest<R: Request>(&mut self, request: &R) -> R::Response {
        self.ask(self.advertised::<R>().max, request)
    }

    pub(crate) fn advertised<R: Request>(&self) -> VersionRange {
        let row = self.versions.api_keys.iter().find(|row| row.api_key == R::KEY as i16);
        let row = row.unwrap_or_else(|| panic!("{} is not advertised", R::KEY.name()));
        VersionRange { min: row.min_version, max: row.max_version }
    }

    /// Sends a request in every advertised version, and checks each reply.
    pub(crate) fn each<R: Request>(&mut self, make: impl Fn(i16) -> R, look: impl Fn(i16, R::Response)) {
        let range = self.advertised::<R>();
        for version in range.min..=range.max {
            let response = self.ask(version, &make(version));
            look(version, response);
        }
    }

    /// Creates a topic of one partition.
    pub(crate) fn create_topic(&mut self, name: &str, configs: &[(&str, &str)]) {
        let config = |(name, value): &(&str, &str)| create_topics::CreatableTopicConfig {
            name: name.to_string().into(),
            value: Some(value.to_string().into()),
        };
        let topic = create_topics::CreatableTopic {
            name: name.to_string().into(),
            num_partitions: 1,
            replication_factor: 1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = create_topics::CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let made = &self.ask_newest(&request).topics[0];
        assert_eq!(ErrorCode(made.error_code), ErrorCode::NONE, "{name}: {:?}", made.error_message);
    }

    /// Sends one batch for partition 0.
    pub(crate) fn send_batch(&mut self, topic: &str, batch: Bytes) {
        let data = produce::PartitionProduceData { index: 0, records: Records::One(batch) };
        let topic = produce::TopicProduceData {
            name: topic.to_string().into(),
            partition_data: vec![data],
            ..Default::default()
        };
        let request = produce::ProduceRequest {
            acks: -1,
            timeout_ms: 20_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        self.send(self.advertised::<produce::ProduceRequest>().max, &request);
    }

    pub(crate) fn receive_produced(&mut self) -> produce::PartitionProduceResponse {
        let version = self.advertised::<produce::ProduceRequest>().max;
        let mut response = self.receive::<produce::ProduceRequest>(version);
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Appends one batch to partition 0.
    pub(crate) fn produce(&mut self, topic: &str, batch: Bytes) -> produce::PartitionProduceResponse {
        self.send_batch(topic, batch);
        self.receive_produced()
    }

    /// Appends one batch that must be accepted; returns its first offset.
    pub(crate) fn append(&mut self, topic: &str, batch: Bytes) -> i64 {
        let done = self.produce(topic, batch);
        assert_eq!(ErrorCode(done.error_code), ErrorCode::NONE, "{topic}: {:?}", done.error_message);
        done.base_offset
    }

    /// The records of partition 0 from an offset on.
    pub(crate) fn fetch(&mut self, topic: &str, offset: i64, bytes_max: i32) -> fetch::PartitionData {
        let partition = fetch::FetchPartition {
            fetch_offset: offset,
            partition_max_bytes: bytes_max,
            ..Default::default()
        };
        let topic = fetch::FetchTopic {
            topic: topic.to_string().into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = fetch::FetchRequest {
            max_wait_ms: 5_000,
            min_bytes: 1,
            max_bytes: bytes_max,
            topics: vec![topic],
            ..Default::default()
        };
        self.ask_newest(&request).responses.remove(0).partitions.remove(0)
    }

    /// The batches of partition 0 from an offset on, in one reply.
    pub(crate) fn batches(&mut self, topic: &str, offset: i64, bytes_max: i32) -> Vec<(BatchHeader, Bytes)> {
        let data = self.fetch(topic, offset, bytes_max);
        assert_eq!(ErrorCode(data.error_code), ErrorCode::NONE, "{topic} from {offset}");
        let records = Bytes::from(data.records.pieces().to_vec().concat());
        let whole = split(&records).map(|batch| batch.expect("a whole batch"));
        whole.map(|batch| (BatchHeader::parse(&batch).expect("a header"), batch)).collect()
    }

    /// Offset and timestamp that a lookup finds in partition 0.
    pub(crate) fn find_offset(&mut self, topic: &str, timestamp: i64) -> (i64, i64) {
        let partition = list_offsets::ListOffsetsPartition { timestamp, ..Default::default() };
        let topic =
            list_offsets::ListOffsetsTopic { name: topic.to_string().into(), partitions: vec![partition] };
        let request =
            list_offsets::ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let found = &self.ask_newest(&request).topics[0].partitions[0];
        assert_eq!(ErrorCode(found.error_code), ErrorCode::NONE);
        (found.offset, found.timestamp)
    }
}

/// A batch of records without keys, one per value.
pub(crate) fn batch_of(codec: Codec, values: &[&[u8]]) -> Bytes {
    let mut batch = BatchBuilder::new(codec);
    values.iter().for_each(|value| batch.push(record(None, value)));
    batch.build().expect("a batch")
}

/// A batch of one record.
pub(crate) fn one_batch(value: &[u8]) -> Bytes {
    batch_of(Codec::None, &[value])
}

/// A batch of records with keys.
pub(crate) fn keyed(codec: Codec, pairs: &[(&str, &[u8])]) -> Bytes {
    let mut batch = BatchBuilder::new(codec);
    pairs.iter().for_each(|(key, value)| batch.push(record(Some(key.as_bytes()), value)));
    batch.build().expect("a batch")
}

pub(crate) fn record<'a>(key: Option<&'a [u8]>, value: &'a [u8]) -> NewRecord<'a> {
    NewRecord { timestamp_ms: 1_000, key, value: Some(value), headers: &[] }
}

/// A member of a classic group, on its own connection.
pub(crate) struct Member {
    pub(crate) client: Client,
    pub(crate) group: String,
    pub(crate) id: String,
    pub(crate) generation: i32,
    pub(crate) session_ms: i32,
}

const JOIN_VERSION: i16 = 9;
const SYNC_VERSION: i16 = 5;

impl Member {
    /// A member that has its id, and has not joined.
    pub(crate) fn new(broker: &Broker, group: &str, session_ms: i32) -> Member {
        let client = Client::connect(broker);
        let mut member =
            Member { client, group: group.into(), id: String::new(), generation: -1, session_ms };
        member.send_join();
        let refused = member.client.receive::<join_group::JoinGroupRequest>(JOIN_VERSION);
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::MEMBER_ID_REQUIRED);
        member.id = refused.member_id.to_string();
        member
    }

    pub(crate) fn send_join(&mut self) {
        let protocol =
            join_group::JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"m") };
        let request = join_group::JoinGroupRequest {
            group_id: self.group.clone().into(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: 20_000,
            member_id: self.id.clone().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        self.client.send(JOIN_VERSION, &request);
    }

    pub(crate) fn receive_join(&mut self) -> join_group::JoinGroupResponse {
        let joined = self.client.receive::<join_group::JoinGroupRequest>(JOIN_VERSION);
        if joined.error_code == 0 {
            self.generation = joined.generation_id;
        }
        joined
    }

    /// Sends its assignment: all partitions if it leads.
    pub(crate) fn send_sync(&mut self, joined: &join_group::JoinGroupResponse) {
        let assignment =
            |member: &join_group::JoinGroupResponseMember| sync_group::SyncGroupRequestAssignment {
                member_id: member.member_id.clone(),
                assignment: Bytes::copy_from_slice(member.member_id.as_bytes()),
            };
        let request = sync_group::SyncGroupRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.id.clone().into(),
            protocol_type: joined.protocol_type.clone(),
            protocol_name: joined.protocol_name.clone(),
            assignments: joined.members.iter().map(assignment).collect(),
            ..Default::default()
        };
        self.client.send(SYNC_VERSION, &request);
    }

    pub(crate) fn receive_sync(&mut self) -> sync_group::SyncGroupResponse {
        self.client.receive::<sync_group::SyncGroupRequest>(SYNC_VERSION)
    }

    /// Joins and syncs; false if the group rebalances again meanwhile.
    pub(crate) fn join(&mut self) -> bool {
        self.send_join();
        let joined = self.receive_join();
        assert_eq!(ErrorCode(joined.error_code), ErrorCode::NONE, "join of {}", self.id);
        self.send_sync(&joined);
        let synced = ErrorCode(self.receive_sync().error_code);
        assert!(matches!(synced, ErrorCode::NONE | ErrorCode::REBALANCE_IN_PROGRESS), "sync: {synced:?}");
        synced == ErrorCode::NONE
    }

    pub(crate) fn heartbeat(&mut self) -> ErrorCode {
        let request = heartbeat::HeartbeatRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.id.clone().into(),
            ..Default::default()
        };
        ErrorCode(self.client.ask(4, &request).error_code)
    }

    pub(crate) fn leave(&mut self) -> ErrorCode {
        let member = leave_group::MemberIdentity { member_id: self.id.clone().into(), ..Default::default() };
        let request = leave_group::LeaveGroupRequest {
            group_id: self.group.clone().into(),
            members: vec![member],
            ..Default::default()
        };
        ErrorCode(self.client.ask(5, &request).error_code)
    }

    /// Commits an offset of partition 0.
    pub(crate) fn commit(&mut self, topic: &str, offset: i64, note: &str) -> ErrorCode {
        let partition = offset_commit::OffsetCommitRequestPartition {
            committed_offset: offset,
            committed_leader_epoch: 3,
            committed_metadata: Some(note.to_string().into()),
            ..Default::default()
        };
        let topic = offset_commit::OffsetCommitRequestTopic {
            name: topic.to_string().into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = offset_commit::OffsetCommitRequest {
            group_id: self.group.clone().into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.id.clone().into(),
            topics: vec![topic],
            ..Default::default()
        };
        ErrorCode(self.client.ask(8, &request).topics[0].partitions[0].error_code)
    }
}
