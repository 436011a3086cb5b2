//! Requests whose connection closes at an arbitrary point: each state change is made completely or not at all.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use bytes::Bytes;
use millstream_batch::{BatchBuilder, Codec, NewRecord};
use millstream_protocol::{
    Records, Request, Str, encode_request_frame,
    messages::{
        alter_configs::{AlterConfigsRequest, AlterConfigsResource, AlterableConfig},
        create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic},
        create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest},
        delete_groups::DeleteGroupsRequest,
        delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
        delete_topics::DeleteTopicsRequest,
        init_producer_id::InitProducerIdRequest,
        metadata::{MetadataRequest, MetadataRequestTopic},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
};

use super::{Answer, Dispatcher, Peer, Reply};
use crate::service::{Service, test_node};

/// More polls than any request needs.
const POLLS_MAX: usize = 1000;
/// More writes than it takes to apply a queued deletion.
const SETTLES_MAX: usize = 100;

/// A node that gets requests over connections that close.
struct Node {
    service: Service,
    dispatcher: Arc<Dispatcher>,
}

impl Node {
    async fn start() -> Node {
        let service = test_node::start(1).await;
        Node { dispatcher: Dispatcher::new(service.clone()), service }
    }

    /// Sends a request over a connection of its own and closes the connection after `polls` polls of the answer. Returns
    /// whether the answer was complete by then.
    async fn send<R: Request>(&self, version: i16, request: &R, polls: usize) -> bool {
        let frame = encode_request_frame(version, 7, Some("test"), request).expect("it can be encoded");
        let frame: Vec<u8> = frame.concat();
        let peer = Peer::new("127.0.0.1:1".parse().expect("an address"));
        // Without the length.
        let completed = match self.dispatcher.begin(&peer, Bytes::from(frame).slice(4..)) {
            Answer::Now(reply) => finished(reply),
            Answer::Later(mut reply) => poll(reply.as_mut(), polls).await.is_some_and(finished),
            Answer::Change(mut reply) => {
                poll(Pin::new(&mut reply), polls).await.is_some_and(|reply| finished(reply.expect("it ends")))
            }
        };
        self.service.changes_ended().await;
        completed
    }

    async fn run<R: Request>(&self, version: i16, request: &R) {
        assert!(self.send(version, request, POLLS_MAX).await, "{} is not answered", R::KEY.name());
    }

    /// Sends requests built by `make`, each for new resources, and closes the connection after 0, 1, 2 ... polls, until a
    /// request is answered. `check` must hold after each of them.
    async fn close_at_each_poll<R: Request>(
        &self,
        version: i16,
        make: impl AsyncFn(usize) -> R,
        check: impl AsyncFn(usize, bool),
    ) {
        for polls in 0..POLLS_MAX {
            let request = make(polls).await;
            let answered = self.send(version, &request, polls).await;
            check(polls, answered).await;
            if answered {
                return;
            }
        }
        panic!("{} is not answered", R::KEY.name());
    }

    async fn create(&self, name: &str) {
        self.run(5, &creation(&[name.to_string()])).await;
        assert!(self.service.topic(name).is_some());
    }

    fn exists(&self, name: &str) -> bool {
        self.service.topic(name).is_some()
    }

    fn end(&self, name: &str) -> i64 {
        let topic = self.service.topic(name).expect("it exists");
        self.service.partition_offsets(&topic.partitions[0]).expect("this node leads").1
    }

    fn config(&self, name: &str, key: &str) -> Option<String> {
        let configs = self.service.topic_configs(name).expect("it exists");
        configs.into_iter().find(|entry| entry.name == key).and_then(|entry| entry.value)
    }

    fn committed(&self, group: &str) -> usize {
        self.service.groups().all_offsets(group).expect("it is coordinated here").len()
    }
}

fn finished(reply: Reply) -> bool {
    if let Reply::Close(reason) = &reply {
        panic!("{reason}");
    }
    true
}

/// Polls a future at most `polls` times, and returns its output if it is ready by then.
async fn poll<F: Future + ?Sized>(mut future: Pin<&mut F>, polls: usize) -> Option<F::Output> {
    let mut left = polls;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn names(prefix: &str, polls: usize) -> Vec<String> {
    ["a", "b", "c"].map(|name| format!("{prefix}-{polls}-{name}")).into()
}

fn creation(names: &[String]) -> CreateTopicsRequest {
    let topic = |name: &String| CreatableTopic {
        name: name.to_string().into(),
        num_partitions: 2,
        replication_factor: 1,
        ..Default::default()
    };
    CreateTopicsRequest {
        topics: names.iter().map(topic).collect(),
        timeout_ms: 30_000,
        ..Default::default()
    }
}

fn discovery(names: &[String]) -> MetadataRequest {
    let topic =
        |name: &String| MetadataRequestTopic { name: Some(name.to_string().into()), ..Default::default() };
    MetadataRequest {
        topics: Some(names.iter().map(topic).collect()),
        allow_auto_topic_creation: true,
        ..Default::default()
    }
}

fn production(name: &str, codec: Codec, bytes: usize, acks: i16) -> ProduceRequest {
    let mut batch = BatchBuilder::new(codec);
    // Nearly incompressible.
    let value: Vec<u8> =
        (0..bytes as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 37) as u8).collect();
    batch.push(NewRecord { timestamp_ms: 5, value: Some(&value), ..NewRecord::default() });
    let records = Records::One(batch.build().expect("a batch"));
    let partition = PartitionProduceData { index: 0, records };
    let topic = TopicProduceData {
        name: name.to_string().into(),
        partition_data: vec![partition],
        ..Default::default()
    };
    ProduceRequest { acks, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }
}

fn commit(group: &str, topic: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition { partition_index: 0, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: topic.to_string().into(),
        partitions: vec![partition],
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: group.to_string().into(),
        generation_id_or_member_epoch: -1,
        retention_time_ms: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

#[tokio::test]
async fn topics_of_a_metadata_request_are_created_completely() {
    let node = Node::start().await;
    let make = async |polls| discovery(&names("found", polls));
    node.close_at_each_poll(9, make, async |polls, _| {
        assert!(names("found", polls).iter().all(|name| node.exists(name)), "after {polls} polls");
        assert!(node.service.shards_agree(), "after {polls} polls");
    })
    .await;
}

#[tokio::test]
async fn topics_are_created_completely() {
    let node = Node::start().await;
    let make = async |polls| creation(&names("made", polls));
    node.close_at_each_poll(5, make, async |polls, _| {
        assert!(names("made", polls).iter().all(|name| node.exists(name)), "after {polls} polls");
        assert!(node.service.shards_agree(), "after {polls} polls");
    })
    .await;
}

#[tokio::test]
async fn topics_are_deleted_with_their_partitions_and_offsets() {
    let node = Node::start().await;
    let make = async |polls| {
        let names = names("gone", polls);
        node.run(5, &creation(&names)).await;
        node.run(7, &commit("g", &names[1])).await;
        assert_eq!(node.committed("g"), 1);
        let topic_names = names.iter().map(Str::from).collect();
        DeleteTopicsRequest { topic_names, timeout_ms: 30_000, ..Default::default() }
    };
    node.close_at_each_poll(5, make, async |polls, _| {
        assert!(names("gone", polls).iter().all(|name| !node.exists(name)), "after {polls} polls");
        assert!(node.service.shards_agree(), "after {polls} polls");
        assert_eq!(node.committed("g"), 0, "after {polls} polls");
    })
    .await;
}

#[tokio::test]
async fn partitions_are_added_completely() {
    let node = Node::start().await;
    let make = async |polls| {
        let names = names("grown", polls);
        node.run(5, &creation(&names)).await;
        let topic = |name: &String| CreatePartitionsTopic {
            name: name.to_string().into(),
            count: 40,
            assignments: None,
        };
        let topics = names.iter().map(topic).collect();
        CreatePartitionsRequest { topics, timeout_ms: 30_000, ..Default::default() }
    };
    node.close_at_each_poll(1, make, async |polls, _| {
        for name in names("grown", polls) {
            assert_eq!(node.service.topic(&name).expect("it exists").partitions.len(), 40);
        }
        assert!(node.service.shards_agree(), "after {polls} polls");
    })
    .await;
}

#[tokio::test]
async fn configurations_change_completely() {
    let node = Node::start().await;
    let make = async |polls| {
        let names = names("set", polls);
        node.run(5, &creation(&names)).await;
        let config = || AlterableConfig { name: "retention.ms".into(), value: Some("777".into()) };
        let resource = |name: &String| AlterConfigsResource {
            resource_type: 2,
            resource_name: name.to_string().into(),
            configs: vec![config()],
        };
        AlterConfigsRequest { resources: names.iter().map(resource).collect(), ..Default::default() }
    };
    node.close_at_each_poll(1, make, async |polls, _| {
        for name in names("set", polls) {
            assert_eq!(node.config(&name, "retention.ms").as_deref(), Some("777"), "after {polls} polls");
        }
    })
    .await;
}

#[tokio::test]
async fn records_are_deleted_from_all_topics_of_a_request() {
    let node = Node::start().await;
    let make = async |polls| {
        let names = names("cut", polls);
        node.run(5, &creation(&names)).await;
        for name in &names {
            node.run(9, &production(name, Codec::None, 10, -1)).await;
        }
        let partition = || DeleteRecordsPartition { partition_index: 0, offset: -1 };
        let topic = |name: &String| DeleteRecordsTopic {
            name: name.to_string().into(),
            partitions: vec![partition()],
        };
        let topics = names.iter().map(topic).collect();
        DeleteRecordsRequest { topics, timeout_ms: 30_000 }
    };
    node.close_at_each_poll(1, make, async |polls, _| {
        for name in names("cut", polls) {
            let topic = node.service.topic(&name).expect("it exists");
            assert_eq!(node.service.log_start_of(topic.partitions[0].id), Some(1), "after {polls} polls");
        }
    })
    .await;
}

#[tokio::test]
async fn no_block_of_producer_ids_is_lost() {
    let node = Node::start().await;
    let request = || InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    node.close_at_each_poll(2, async |_| request(), async |_, _| ()).await;
    let next = node.service.cluster().inspect(|machine| machine.next_producer());
    assert_eq!(next, 1000, "all of these ids are from one block");
}

#[tokio::test]
async fn batches_that_must_be_decompressed_are_appended_also_without_acknowledgement() {
    let node = Node::start().await;
    for acks in [0, -1] {
        let name = |polls| format!("batch{acks}-{polls}");
        let make = async |polls| {
            let mut creation = creation(&[name(polls)]);
            let (key, codec) = ("compression.type".into(), Some("gzip".into()));
            creation.topics[0].configs = vec![CreatableTopicConfig { name: key, value: codec }];
            node.run(5, &creation).await;
            production(&name(polls), Codec::Lz4, 500_000, acks)
        };
        node.close_at_each_poll(9, make, async |polls, _| {
            assert_eq!(node.end(&name(polls)), 1, "after {polls} polls");
        })
        .await;
    }
}

#[tokio::test]
async fn batches_are_appended_whether_or_not_the_client_waits_for_the_answer() {
    let node = Node::start().await;
    let name = |polls| format!("plain-{polls}");
    let make = async |polls| {
        node.create(&name(polls)).await;
        production(&name(polls), Codec::None, 100, -1)
    };
    node.close_at_each_poll(9, make, async |polls, _| {
        // A queued batch is in the log once a later one is.
        node.run(9, &production(&name(polls), Codec::None, 100, -1)).await;
        assert_eq!(node.end(&name(polls)), 2, "after {polls} polls");
    })
    .await;
}

#[tokio::test]
async fn a_group_operation_happens_at_the_first_poll_or_not_at_all() {
    let node = Node::start().await;
    node.create("t").await;
    let group = |what: &str, polls: usize| format!("{what}-{polls}");
    let settle = async || node.run(7, &commit("last", "t")).await;

    let make = async |polls| commit(&group("commit", polls), "t");
    node.close_at_each_poll(7, make, async |polls, _| {
        let done = node.committed(&group("commit", polls));
        settle().await;
        assert_eq!(node.committed(&group("commit", polls)), usize::from(polls > 0).max(done));
    })
    .await;

    let make = async |polls| {
        node.run(7, &commit(&group("delete", polls), "t")).await;
        let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
        let topics = vec![OffsetDeleteRequestTopic { name: "t".into(), partitions }];
        OffsetDeleteRequest { group_id: group("delete", polls).into(), topics }
    };
    node.close_at_each_poll(0, make, async |polls, _| {
        settle().await;
        assert_eq!(node.committed(&group("delete", polls)), usize::from(polls == 0));
    })
    .await;

    let make = async |polls| {
        let groups: Vec<String> = names("remove", polls);
        for group in &groups {
            node.run(7, &commit(group, "t")).await;
        }
        DeleteGroupsRequest { groups_names: groups.iter().map(Str::from).collect() }
    };
    node.close_at_each_poll(1, make, async |polls, _| {
        for group in names("remove", polls) {
            let expected = usize::from(polls == 0);
            // The group's shard may differ from that of the write that settles.
            for _ in 0..SETTLES_MAX {
                settle().await;
                if node.committed(&group) == expected {
                    break;
                }
            }
            assert_eq!(node.committed(&group), expected, "{group}");
        }
    })
    .await;
}
