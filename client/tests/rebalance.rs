//! What a member orders while its group changes, on a coordinator of the test's own that completes joins and answers syncs
//! when the script says so: the moments that a real one has for some microseconds.

mod support;

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use millstream_batch::{BatchBuilder, Codec, NewRecord};
use millstream_client::{
    ClientConfig, ClientError, Cluster, ErrorCode,
    consumer::{Assignor, Event, GroupConfig, GroupConsumer},
};
use millstream_protocol::{
    ApiKey, Records, Str,
    messages::{
        fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData},
        find_coordinator::FindCoordinatorResponse,
        heartbeat::{HeartbeatRequest, HeartbeatResponse},
        join_group::JoinGroupResponse,
        leave_group::LeaveGroupResponse,
        list_offsets::{ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse},
        offset_commit::{
            OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition,
            OffsetCommitResponseTopic,
        },
        offset_fetch::OffsetFetchResponse,
        sync_group::SyncGroupResponse,
    },
};
use parking_lot::Mutex;
use support::{
    fake::{Asked, listen, metadata, versions},
    in_time, member,
};
use tokio::sync::Notify;

const TOPIC: &str = "t";
const RECORDS: i64 = 3;
const SERVED: &[(ApiKey, i16)] = &[
    (ApiKey::Fetch, 12),
    (ApiKey::ListOffsets, 5),
    (ApiKey::Metadata, 9),
    (ApiKey::OffsetCommit, 7),
    (ApiKey::OffsetFetch, 5),
    (ApiKey::FindCoordinator, 2),
    (ApiKey::JoinGroup, 5),
    (ApiKey::Heartbeat, 3),
    (ApiKey::LeaveGroup, 2),
    (ApiKey::SyncGroup, 3),
    (ApiKey::ApiVersions, 3),
];

/// When the second round goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    /// The join is completed by the first commit, which comes too late for its generation; its answer leaves after that.
    CommitAfterTheJoin,
    /// The join is answered; the sync is answered after the first commit, which comes too early.
    CommitBeforeTheSync,
    /// The same, but the sync is never answered.
    NoSync,
}

#[derive(Default)]
struct State {
    port: u16,
    generation: i32,
    /// Whether the last sync of this generation was answered.
    is_stable: bool,
    /// What was asked, in order, as far as the group goes; with the generation where it has one.
    heard: Vec<String>,
    rebalances: bool,
}

struct Fake {
    script: Script,
    state: Mutex<State>,
    committed: Notify,
    heard: Notify,
}

impl Fake {
    async fn start(script: Script) -> Arc<Fake> {
        let fake = Fake { script, state: Mutex::default(), committed: Notify::new(), heard: Notify::new() };
        let fake = Arc::new(fake);
        let shared = fake.clone();
        let port = listen(move |asked| answer(shared.clone(), asked)).await;
        fake.state.lock().port = port;
        fake
    }

    fn hear(&self, what: String) {
        self.state.lock().heard.push(what);
        self.heard.notify_one();
    }

    async fn until_it_heard(&self, what: &str) {
        let hearing = async {
            while !self.state.lock().heard.iter().any(|heard| heard == what) {
                self.heard.notified().await;
            }
        };
        in_time(what, hearing).await;
    }

    /// What it heard from the second round on.
    fn second_round(&self) -> Vec<String> {
        let state = self.state.lock();
        let second = state.heard.iter().skip_while(|heard| **heard != "sync 1").skip(1);
        second.cloned().collect()
    }

    async fn join(&self) -> JoinGroupResponse {
        self.hear("join".to_string());
        let is_second = self.state.lock().generation == 1;
        if is_second && self.script == Script::CommitAfterTheJoin {
            self.committed.notified().await;
        } else {
            self.complete_join();
        }
        JoinGroupResponse {
            generation_id: self.state.lock().generation,
            protocol_name: Some(Str::from(Assignor::CooperativeSticky.name())),
            leader: Str::from("another"),
            member_id: Str::from("me"),
            ..Default::default()
        }
    }

    fn complete_join(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        (state.is_stable, state.rebalances) = (false, false);
    }

    async fn sync(&self) -> SyncGroupResponse {
        let generation = self.state.lock().generation;
        self.hear(format!("sync {generation}"));
        match self.script {
            _ if generation == 1 => {}
            Script::CommitAfterTheJoin => {}
            Script::CommitBeforeTheSync => self.committed.notified().await,
            Script::NoSync => std::future::pending().await,
        }
        self.state.lock().is_stable = true;
        SyncGroupResponse { assignment: assignment(), ..Default::default() }
    }

    fn commit(&self, request: &OffsetCommitRequest) -> OffsetCommitResponse {
        let generation = request.generation_id_or_member_epoch;
        let offset = request.topics[0].partitions[0].committed_offset;
        self.hear(format!("commit {offset} in {generation}"));
        if self.state.lock().rebalances && self.script == Script::CommitAfterTheJoin {
            self.complete_join();
        }
        let error_code = {
            let state = self.state.lock();
            match (generation == state.generation, state.is_stable) {
                (false, _) => ErrorCode::ILLEGAL_GENERATION,
                (true, false) => ErrorCode::REBALANCE_IN_PROGRESS,
                (true, true) => ErrorCode::NONE,
            }
        };
        self.committed.notify_one();
        let partition = OffsetCommitResponsePartition { partition_index: 0, error_code: error_code.0 };
        let topic = OffsetCommitResponseTopic {
            name: Str::from(TOPIC),
            partitions: vec![partition],
            ..Default::default()
        };
        OffsetCommitResponse { topics: vec![topic], ..Default::default() }
    }

    fn heartbeat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let state = self.state.lock();
        let code = match () {
            () if request.generation_id != state.generation => ErrorCode::ILLEGAL_GENERATION,
            () if state.rebalances => ErrorCode::REBALANCE_IN_PROGRESS,
            () => ErrorCode::NONE,
        };
        HeartbeatResponse { error_code: code.0, ..Default::default() }
    }
}

async fn answer(fake: Arc<Fake>, mut asked: Asked) -> Option<Vec<Bytes>> {
    let key = asked.key(SERVED);
    let pieces = match key {
        ApiKey::ApiVersions => asked.encode(key, &versions(SERVED)),
        ApiKey::Metadata => asked.encode(key, &metadata(&[fake.state.lock().port], TOPIC, &[0], 0)),
        ApiKey::FindCoordinator => asked.encode(key, &FindCoordinatorResponse::default()),
        ApiKey::JoinGroup => {
            let joined = fake.join().await;
            asked.encode(key, &joined)
        }
        ApiKey::SyncGroup => {
            let synced = fake.sync().await;
            asked.encode(key, &synced)
        }
        ApiKey::Heartbeat => {
            let response = fake.heartbeat(&asked.decode());
            asked.encode(key, &response)
        }
        ApiKey::OffsetCommit => {
            let response = fake.commit(&asked.decode());
            asked.encode(key, &response)
        }
        ApiKey::LeaveGroup => {
            fake.hear("leave".to_string());
            asked.encode(key, &LeaveGroupResponse::default())
        }
        ApiKey::OffsetFetch => asked.encode(key, &OffsetFetchResponse::default()),
        ApiKey::ListOffsets => asked.encode(key, &beginning()),
        _ => {
            let request: FetchRequest = asked.decode();
            let response = fetched(request.topics[0].partitions[0].fetch_offset).await;
            asked.encode(key, &response)
        }
    };
    Some(pieces)
}

fn beginning() -> ListOffsetsResponse {
    let partition = ListOffsetsPartitionResponse { offset: 0, ..Default::default() };
    let topic = ListOffsetsTopicResponse { name: Str::from(TOPIC), partitions: vec![partition] };
    ListOffsetsResponse { topics: vec![topic], ..Default::default() }
}

async fn fetched(from: i64) -> FetchResponse {
    let mut builder = BatchBuilder::new(Codec::None);
    (0..RECORDS).for_each(|_| builder.push(NewRecord { value: Some(b"v"), ..NewRecord::default() }));
    let records =
        if from < RECORDS { Records::One(builder.build().expect("a batch")) } else { Records::None };
    if from >= RECORDS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let partition = PartitionData { high_watermark: RECORDS, records, ..Default::default() };
    let topic =
        FetchableTopicResponse { topic: Str::from(TOPIC), partitions: vec![partition], ..Default::default() };
    FetchResponse { responses: vec![topic], ..Default::default() }
}

/// Partition 0 of the topic, as members tell it each other.
fn assignment() -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(TOPIC.len() as i16);
    bytes.put_slice(TOPIC.as_bytes());
    bytes.put_i32(1);
    bytes.put_i32(0);
    bytes.put_i32(-1);
    bytes.freeze()
}

/// A member that has read everything, and whose group begins to change.
async fn changing(script: Script, heard: &str) -> (Arc<Fake>, GroupConsumer) {
    let fake = Fake::start(script).await;
    let address = format!("127.0.0.1:{}", fake.state.lock().port);
    let request_timeout = Duration::from_secs(if script == Script::NoSync { 1 } else { 30 });
    let cluster = Cluster::new(ClientConfig { request_timeout, ..ClientConfig::new(&address) });
    let config = GroupConfig {
        heartbeat_interval: Duration::from_millis(20),
        commit_every: Some(Duration::from_secs(60)),
        ..member("g", TOPIC, Assignor::CooperativeSticky)
    };
    let mut member = GroupConsumer::new(cluster, config);
    assert!(matches!(in_time("assigned", member.event()).await, Ok(Event::Assigned(_))));
    let chunk = in_time("records", member.next()).await.expect("records");
    assert_eq!(chunk.next_offset, RECORDS);
    fake.state.lock().rebalances = true;
    fake.until_it_heard(heard).await;
    (fake, member)
}

#[tokio::test]
async fn a_close_whose_commit_comes_after_the_join_was_completed_notes_what_was_read_in_the_next_generation()
{
    let (fake, member) = changing(Script::CommitAfterTheJoin, "join").await;
    // The second join is held; the first one was heard too.
    while fake.second_round().is_empty() {
        tokio::task::yield_now().await;
    }
    in_time("closed", member.close()).await.expect("committed");
    assert_eq!(fake.second_round(), ["join", "commit 3 in 1", "sync 2", "commit 3 in 2", "leave"]);
}

#[tokio::test]
async fn a_close_whose_commit_comes_before_the_sync_waits_for_it() {
    let (fake, member) = changing(Script::CommitBeforeTheSync, "sync 2").await;
    in_time("closed", member.close()).await.expect("committed");
    assert_eq!(fake.second_round(), ["join", "sync 2", "commit 3 in 2", "commit 3 in 2", "leave"]);
}

#[tokio::test]
async fn commits_while_the_group_changes_wait_for_the_sync_and_keep_their_order() {
    let (fake, mut member) = changing(Script::CommitBeforeTheSync, "sync 2").await;
    let place = support::place(TOPIC, 0);
    let all = member.commit_async().await.expect("on its way");
    member.commit_offsets([(place, 1)].into()).await.expect("committed");
    all.wait().await.expect("committed");
    in_time("closed", member.close()).await.expect("left");
    let heard = fake.second_round();
    assert_eq!(
        heard[..5],
        ["join", "sync 2", "commit 3 in 2", "commit 3 in 2", "commit 1 in 2"],
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_close_whose_group_never_settles_says_so_and_leaves() {
    let (fake, member) = changing(Script::NoSync, "sync 2").await;
    let closed = in_time("closed", member.close()).await;
    assert_eq!(closed.as_ref().err().and_then(ClientError::code), Some(ErrorCode::REBALANCE_IN_PROGRESS));
    assert_eq!(fake.second_round().last().map(String::as_str), Some("leave"));
}
