//! Every version of the requests of producers and consumers: each advertised version works.
#![allow(missing_docs)]

mod common;

use std::io::{Read, Write};

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, one_batch},
};
use millstream_protocol::{
    ErrorCode, Records, Request, VersionRange,
    messages::{
        delete_groups::DeleteGroupsRequest,
        describe_groups::DescribeGroupsRequest,
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse},
        leave_group::{LeaveGroupRequest, MemberIdentity},
        list_groups::ListGroupsRequest,
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch::{
            OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        },
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};

const NONE: ErrorCode = ErrorCode::NONE;

fn with_topic(work: impl FnOnce(&Broker, &mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    client.create_topic("t", &[]);
    work(&broker, &mut client);
}

fn range<R: Request>(client: &Client) -> VersionRange {
    client.advertised::<R>()
}

fn produce_request() -> ProduceRequest {
    let data = PartitionProduceData { index: 0, records: Records::One(one_batch(b"v")) };
    let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: 1, timeout_ms: 5_000, topic_data: vec![topic], ..Default::default() }
}

#[test]
fn records_are_written_and_read_in_every_version() {
    with_topic(|broker, client| {
        let versions = range::<ProduceRequest>(client);
        assert_eq!((versions.min, versions.max), (0, 11));
        for version in 3..=11 {
            let done = client.ask(version, &produce_request());
            let partition = &done.responses[0].partition_responses[0];
            assert_eq!(ErrorCode(partition.error_code), NONE, "version {version}");
            assert_eq!(partition.base_offset, i64::from(version) - 3, "version {version}");
        }
        let versions = range::<FetchRequest>(client);
        assert_eq!((versions.min, versions.max), (4, 12));
        let read = |_| {
            let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
            let topic = FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
            let (max_wait_ms, min_bytes, max_bytes) = (5_000, 1, 1 << 20);
            FetchRequest { max_wait_ms, min_bytes, max_bytes, topics: vec![topic], ..Default::default() }
        };
        let whole = one_batch(b"v").len() * 9;
        client.each(read, |version, response| {
            let partition = &response.responses[0].partitions[0];
            assert_eq!(ErrorCode(partition.error_code), NONE, "version {version}");
            assert_eq!((partition.high_watermark, partition.last_stable_offset), (9, 9), "version {version}");
            assert_eq!(partition.records.len(), whole, "version {version}");
        });
        // Advertised for old clients' sake, and not supported: the connection closes and the broker stays up.
        for version in 0..3_u8 {
            let mut socket = std::net::TcpStream::connect(&broker.kafka).expect("connected");
            let request = [0, 0, 0, version, 0, 0, 0, 7, 0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0];
            socket.write_all(&(request.len() as u32).to_be_bytes()).expect("written");
            socket.write_all(&request).expect("written");
            assert_eq!(socket.read(&mut [0; 64]).unwrap_or(0), 0, "version {version}");
        }
        assert_eq!(client.append("t", one_batch(b"v")), 9);
    });
}

#[test]
fn coordinators_are_found_in_every_version() {
    with_topic(|_, client| {
        let make = |version| FindCoordinatorRequest {
            key: if version < 4 { "g".into() } else { "".into() },
            coordinator_keys: if version < 4 { Vec::new() } else { vec!["g".into(), "h".into()] },
            ..Default::default()
        };
        client.each(make, |version, response| {
            let nodes: Vec<_> =
                response.coordinators.iter().map(|found| (found.error_code, found.node_id)).collect();
            let expected = if version < 4 { vec![] } else { vec![(0, 1), (0, 1)] };
            assert_eq!(nodes, expected, "version {version}");
            assert_eq!((response.error_code, response.node_id == 1), (0, version < 4), "version {version}");
        });
    });
}

/// One member's lifetime in a version of JoinGroup, with the matching versions of the other APIs.
struct Life {
    version: i16,
    group: String,
    member: String,
    generation: i32,
}

impl Life {
    fn at<R: Request>(&self, client: &Client) -> i16 {
        let range = range::<R>(client);
        self.version.clamp(range.min, range.max)
    }

    fn join(&mut self, client: &mut Client) -> JoinGroupResponse {
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"m") };
        let request = JoinGroupRequest {
            group_id: self.group.clone().into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if self.version == 0 { -1 } else { 10_000 },
            member_id: self.member.clone().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let joined = client.ask(self.version, &request);
        self.member = joined.member_id.to_string();
        self.generation = joined.generation_id;
        joined
    }

    fn sync(&self, client: &mut Client) {
        let version = self.at::<SyncGroupRequest>(client);
        let assignment = SyncGroupRequestAssignment {
            member_id: self.member.clone().into(),
            assignment: Bytes::from_static(b"a"),
        };
        let request = SyncGroupRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.member.clone().into(),
            protocol_type: (version >= 5).then(|| "consumer".into()),
            protocol_name: (version >= 5).then(|| "range".into()),
            assignments: vec![assignment],
            ..Default::default()
        };
        let synced = client.ask(version, &request);
        assert_eq!(
            (ErrorCode(synced.error_code), &synced.assignment[..]),
            (NONE, &b"a"[..]),
            "{}",
            self.group
        );
    }

    fn heartbeat(&self, client: &mut Client) {
        let request = HeartbeatRequest {
            group_id: self.group.clone().into(),
            generation_id: self.generation,
            member_id: self.member.clone().into(),
            ..Default::default()
        };
        assert_eq!(ErrorCode(client.ask(self.at::<HeartbeatRequest>(client), &request).error_code), NONE);
    }

    fn commit(&self, client: &mut Client) {
        let partition = OffsetCommitRequestPartition {
            committed_offset: 40 + i64::from(self.version),
            committed_metadata: Some("note".into()),
            ..Default::default()
        };
        let topic =
            OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: self.group.clone().into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.member.clone().into(),
            topics: vec![topic],
            ..Default::default()
        };
        let done = client.ask(self.at::<OffsetCommitRequest>(client), &request);
        assert_eq!(ErrorCode(done.topics[0].partitions[0].error_code), NONE, "{}", self.group);
    }

    fn leave(&self, client: &mut Client) {
        let version = self.at::<LeaveGroupRequest>(client);
        let member_id: millstream_protocol::Str = self.member.clone().into();
        let identity = MemberIdentity { member_id: member_id.clone(), ..Default::default() };
        let request = LeaveGroupRequest {
            group_id: self.group.clone().into(),
            member_id: if version < 3 { member_id } else { "".into() },
            members: if version < 3 { Vec::new() } else { vec![identity] },
        };
        let left = client.ask(version, &request);
        assert_eq!(ErrorCode(left.error_code), NONE, "{}", self.group);
        assert!(left.members.iter().all(|member| member.error_code == 0));
    }
}

#[test]
fn a_member_joins_syncs_beats_commits_and_leaves_in_every_version() {
    with_topic(|_, client| {
        let versions = range::<JoinGroupRequest>(client);
        assert_eq!((versions.min, versions.max), (0, 9));
        for version in versions.min..=versions.max {
            let mut life =
                Life { version, group: format!("g{version}"), member: String::new(), generation: -1 };
            let mut joined = life.join(client);
            // From version 4 on a new member gets its id first.
            if version >= 4 {
                assert_eq!(ErrorCode(joined.error_code), ErrorCode::MEMBER_ID_REQUIRED, "version {version}");
                joined = life.join(client);
            }
            assert_eq!((ErrorCode(joined.error_code), joined.generation_id), (NONE, 1), "version {version}");
            assert_eq!((&*joined.leader, joined.members.len()), (&*life.member, 1), "version {version}");
            life.sync(client);
            life.heartbeat(client);
            life.commit(client);
            life.leave(client);
        }
        offsets_are_fetched(client);
        groups_are_listed_described_and_deleted(client);
    });
}

fn offsets_are_fetched(client: &mut Client) {
    let make = |version| {
        let old = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0, 7] };
        let new = OffsetFetchRequestTopics {
            name: "t".into(),
            partition_indexes: vec![0, 7],
            ..Default::default()
        };
        let group =
            OffsetFetchRequestGroup { group_id: "g3".into(), topics: Some(vec![new]), ..Default::default() };
        match version {
            8.. => OffsetFetchRequest { groups: vec![group], ..Default::default() },
            _ => OffsetFetchRequest { group_id: "g3".into(), topics: Some(vec![old]), ..Default::default() },
        }
    };
    client.each(make, |version, response| {
        let found: Vec<_> = match version {
            8.. => response.groups[0].topics[0]
                .partitions
                .iter()
                .map(|p| (p.error_code, p.committed_offset, p.metadata.clone()))
                .collect(),
            _ => response.topics[0]
                .partitions
                .iter()
                .map(|p| (p.error_code, p.committed_offset, p.metadata.clone()))
                .collect(),
        };
        assert_eq!(found, [(0, 43, Some("note".into())), (0, -1, Some("".into()))], "version {version}");
    });
}

fn groups_are_listed_described_and_deleted(client: &mut Client) {
    client.each(
        |_| ListGroupsRequest::default(),
        |version, response| {
            assert_eq!((response.error_code, response.groups.len()), (0, 10), "version {version}");
            let state = response.groups[0].group_state.to_string();
            assert_eq!(state, if version < 4 { "" } else { "Empty" }, "version {version}");
        },
    );
    client.each(
        |_| DescribeGroupsRequest { groups: vec!["g9".into(), "none".into()], ..Default::default() },
        |version, response| {
            let (empty, none) = (&response.groups[0], &response.groups[1]);
            assert_eq!((empty.error_code, &*empty.group_state), (0, "Empty"), "version {version}");
            let missing = if version < 6 { NONE } else { ErrorCode::GROUP_ID_NOT_FOUND };
            assert_eq!(
                (ErrorCode(none.error_code), &*none.group_state),
                (missing, "Dead"),
                "version {version}"
            );
        },
    );
    let one = OffsetDeleteRequestPartition { partition_index: 0 };
    let topic = OffsetDeleteRequestTopic { name: "t".into(), partitions: vec![one] };
    let deleted = client.ask(0, &OffsetDeleteRequest { group_id: "g9".into(), topics: vec![topic] });
    assert_eq!((deleted.error_code, deleted.topics[0].partitions[0].error_code), (0, 0));
    client.each(
        |version| DeleteGroupsRequest { groups_names: vec![format!("g{version}").into(), "none".into()] },
        |version, response| {
            let found: Vec<_> = response.results.iter().map(|result| ErrorCode(result.error_code)).collect();
            assert_eq!(found, [NONE, ErrorCode::GROUP_ID_NOT_FOUND], "version {version}");
        },
    );
}
