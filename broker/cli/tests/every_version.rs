//! Every version of the admin APIs, byte for byte: all advertised versions are answered, with the fields of
//! Kafka's replies.
#![allow(missing_docs)]

mod common;

use common::{Broker, client::Client};
use millstream_protocol::{
    ErrorCode, Uuid,
    messages::{
        alter_configs, alter_partition_reassignments as reassignments, create_partitions, create_topics,
        delete_records, delete_topics, describe_cluster, describe_configs, describe_log_dirs,
        describe_producers, describe_topic_partitions, elect_leaders, incremental_alter_configs,
        init_producer_id, list_offsets, list_partition_reassignments, metadata, offset_for_leader_epoch,
    },
};

fn codes(codes: impl IntoIterator<Item = i16>) -> Vec<ErrorCode> {
    codes.into_iter().map(ErrorCode).collect()
}

fn with_topic(name: &str, work: impl FnOnce(&mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.lines(&["topic", "create", name, "--partitions", "2"]);
    work(&mut Client::connect(&broker));
}

const NONE: ErrorCode = ErrorCode::NONE;
const UNKNOWN: ErrorCode = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;

#[test]
fn topics_are_made_and_removed_in_every_version() {
    with_topic("there", |client| {
        let topic = |name: String, num_partitions, replication_factor| create_topics::CreatableTopic {
            name: name.into(),
            num_partitions,
            replication_factor,
            ..Default::default()
        };
        let make = |version| create_topics::CreateTopicsRequest {
            topics: vec![
                topic(format!("v{version}"), 2, 1),
                topic("there".into(), 1, 1),
                topic("bad name".into(), 1, 1),
                topic("none".into(), 0, 1),
                topic("three".into(), 1, 3),
                topic("twice".into(), 1, 1),
                topic("twice".into(), 1, 1),
            ],
            ..Default::default()
        };
        client.each(make, |version, response| {
            let found = codes(response.topics.iter().map(|topic| topic.error_code));
            let expected = [
                NONE,
                ErrorCode::TOPIC_ALREADY_EXISTS,
                ErrorCode::INVALID_TOPIC_EXCEPTION,
                ErrorCode::INVALID_PARTITIONS,
                ErrorCode::INVALID_REPLICATION_FACTOR,
                ErrorCode::INVALID_REQUEST,
            ];
            assert_eq!(found, expected, "version {version}");
            let made = &response.topics[0];
            if version >= 5 {
                assert_eq!((made.num_partitions, made.replication_factor), (2, 1));
                assert!(made.configs.as_ref().is_some_and(|configs| configs.len() > 20));
            }
            assert_eq!(made.topic_id != Uuid::default(), version >= 7);
        });
        let remove = |version| {
            let names = vec![format!("v{version}").into(), "none".into()];
            let by_id = |id| delete_topics::DeleteTopicState { name: None, topic_id: Uuid(id) };
            let by_name = |name: &'static str| delete_topics::DeleteTopicState {
                name: Some(name.into()),
                topic_id: Uuid::default(),
            };
            match version {
                ..6 => delete_topics::DeleteTopicsRequest {
                    topic_names: names,
                    timeout_ms: 5000,
                    ..Default::default()
                },
                _ => delete_topics::DeleteTopicsRequest {
                    topics: vec![by_name("v6"), by_id([9; 16])],
                    timeout_ms: 5000,
                    ..Default::default()
                },
            }
        };
        client.each(remove, |version, response| {
            let missing = if version < 6 { UNKNOWN } else { ErrorCode::UNKNOWN_TOPIC_ID };
            let found = codes(response.responses.iter().map(|topic| topic.error_code));
            assert_eq!(found, [NONE, missing], "version {version}");
        });
    });
}

#[test]
fn partitions_and_their_records_are_asked_about_in_every_version() {
    with_topic("t", |client| {
        let grow = |version: i16| {
            let topic = |name: &'static str| create_partitions::CreatePartitionsTopic {
                name: name.into(),
                count: 3 + i32::from(version),
                assignments: None,
            };
            let topics = vec![topic("t"), topic("none")];
            create_partitions::CreatePartitionsRequest { topics, timeout_ms: 5000, validate_only: false }
        };
        client.each(grow, |version, response| {
            let found = codes(response.results.iter().map(|topic| topic.error_code));
            assert_eq!(found, [NONE, UNKNOWN], "version {version}");
        });
        let cut = |_| {
            let one =
                |partition_index, offset| delete_records::DeleteRecordsPartition { partition_index, offset };
            let partitions = vec![one(0, -1), one(1, 5), one(99, -1)];
            let topics = vec![delete_records::DeleteRecordsTopic { name: "t".into(), partitions }];
            delete_records::DeleteRecordsRequest { topics, timeout_ms: 5000 }
        };
        client.each(cut, |version, response| {
            let partitions = &response.topics[0].partitions;
            let found = codes(partitions.iter().map(|p| p.error_code));
            assert_eq!(found, [NONE, ErrorCode::OFFSET_OUT_OF_RANGE, UNKNOWN], "version {version}");
            assert_eq!(partitions.iter().map(|p| p.low_watermark).collect::<Vec<_>>(), [0, -1, -1]);
        });
    });
}

#[test]
fn offsets_and_epochs_are_found_in_every_version() {
    with_topic("t", |client| {
        let find = |wanted: &[(i32, i64)]| {
            let one = |&(partition_index, timestamp): &(i32, i64)| list_offsets::ListOffsetsPartition {
                partition_index,
                timestamp,
                ..Default::default()
            };
            let partitions = wanted.iter().map(one).collect();
            let topics = vec![list_offsets::ListOffsetsTopic { name: "t".into(), partitions }];
            list_offsets::ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }
        };
        let offsets = |response: &list_offsets::ListOffsetsResponse| {
            let found = response.topics[0].partitions.iter().map(|p| (ErrorCode(p.error_code), p.offset));
            found.collect::<Vec<_>>()
        };
        client.each(
            |_| find(&[(0, -1), (1, -99), (1, -2), (99, -1)]),
            |version, response| {
                let (unsupported, twice) = (ErrorCode::UNSUPPORTED_VERSION, ErrorCode::INVALID_REQUEST);
                let expected = [(NONE, 0), (unsupported, -1), (twice, -1), (UNKNOWN, -1)];
                assert_eq!(offsets(&response), expected, "version {version}");
            },
        );
        client.each(
            |_| find(&[(0, 5), (1, -2)]),
            |version, response| {
                assert_eq!(offsets(&response), [(NONE, -1), (NONE, 0)], "version {version}");
            },
        );
        let epoch = |_| {
            let one = |partition, current_leader_epoch| offset_for_leader_epoch::OffsetForLeaderPartition {
                partition,
                current_leader_epoch,
                leader_epoch: 0,
            };
            let partitions = vec![one(0, -1), one(1, 1000), one(99, -1)];
            let topics =
                vec![offset_for_leader_epoch::OffsetForLeaderTopic { topic: "t".into(), partitions }];
            offset_for_leader_epoch::OffsetForLeaderEpochRequest { topics, ..Default::default() }
        };
        client.each(epoch, |version, response| {
            let found = codes(response.topics[0].partitions.iter().map(|p| p.error_code));
            assert_eq!(found, [NONE, ErrorCode::UNKNOWN_LEADER_EPOCH, UNKNOWN], "version {version}");
        });
        let producers = |_| {
            let topic = describe_producers::TopicRequest { name: "t".into(), partition_indexes: vec![0, 99] };
            describe_producers::DescribeProducersRequest { topics: vec![topic] }
        };
        client.each(producers, |_, response| {
            let found = codes(response.topics[0].partitions.iter().map(|p| p.error_code));
            assert_eq!(found, [NONE, UNKNOWN]);
        });
    });
}

#[test]
fn configurations_are_described_and_changed_in_every_version() {
    with_topic("t", |client| {
        let describe = |version| {
            let one =
                |resource_type, resource_name: &'static str| describe_configs::DescribeConfigsResource {
                    resource_type,
                    resource_name: resource_name.into(),
                    configuration_keys: None,
                };
            describe_configs::DescribeConfigsRequest {
                resources: vec![one(2, "t"), one(4, "1"), one(2, "none"), one(4, "77"), one(99, "")],
                include_synonyms: true,
                include_documentation: version >= 3,
            }
        };
        client.each(describe, |version, response| {
            let found = codes(response.results.iter().map(|result| result.error_code));
            let refused = ErrorCode::INVALID_REQUEST;
            assert_eq!(found, [NONE, NONE, UNKNOWN, refused, refused], "version {version}");
            let topic = &response.results[0].configs;
            let retention = topic.iter().find(|config| &*config.name == "retention.ms").expect("a key");
            assert_eq!(retention.value.as_deref(), Some("604800000"));
            assert_eq!(retention.synonyms.len(), 1);
            assert_eq!(retention.documentation.as_deref().is_some_and(|text| !text.is_empty()), version >= 3);
        });
        let replace = |_| {
            let one = |name: &'static str, value: &'static str| alter_configs::AlterConfigsResource {
                resource_type: 2,
                resource_name: name.into(),
                configs: vec![alter_configs::AlterableConfig {
                    name: "segment.ms".into(),
                    value: Some(value.into()),
                }],
            };
            let resources = vec![one("t", "5000"), one("none", "5000")];
            alter_configs::AlterConfigsRequest { resources, validate_only: false }
        };
        client.each(replace, |version, response| {
            let found = codes(response.responses.iter().map(|result| result.error_code));
            assert_eq!(found, [NONE, UNKNOWN], "version {version}");
        });
    });
}

#[test]
fn single_keys_are_changed_in_every_version() {
    with_topic("t", |client| {
        let change = |_| {
            let step = |name: &'static str, config_operation, value: Option<&'static str>| {
                let value = value.map(Into::into);
                incremental_alter_configs::AlterableConfig { name: name.into(), config_operation, value }
            };
            let one = |kind, name: &'static str, configs| incremental_alter_configs::AlterConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configs,
            };
            incremental_alter_configs::IncrementalAlterConfigsRequest {
                resources: vec![
                    one(
                        2,
                        "t",
                        vec![step("cleanup.policy", 2, Some("compact")), step("segment.ms", 1, None)],
                    ),
                    one(4, "1", vec![step("num.partitions", 0, Some("3"))]),
                    one(4, "", vec![step("memtable.bytes", 0, Some("67108864"))]),
                    one(2, "none", vec![step("segment.ms", 0, Some("1"))]),
                ],
                validate_only: false,
            }
        };
        client.each(change, |version, response| {
            let found = codes(response.responses.iter().map(|result| result.error_code));
            assert_eq!(found, [NONE, NONE, ErrorCode::INVALID_REQUEST, UNKNOWN], "version {version}");
        });
        let one = |resource_type, resource_name: &'static str| describe_configs::DescribeConfigsResource {
            resource_type,
            resource_name: resource_name.into(),
            configuration_keys: None,
        };
        let resources = vec![one(2, "t"), one(4, "1")];
        let after =
            client.ask(4, &describe_configs::DescribeConfigsRequest { resources, ..Default::default() });
        let value = |result: usize, key: &str| {
            let found = after.results[result].configs.iter().find(|config| &*config.name == key);
            found.and_then(|config| config.value.clone()).map(String::from)
        };
        assert_eq!(value(0, "cleanup.policy").as_deref(), Some("delete,compact"));
        assert_eq!(value(0, "segment.ms").as_deref(), Some("604800000"));
        assert_eq!(value(1, "num.partitions").as_deref(), Some("3"));
    });
}

#[test]
fn producers_get_ids_and_transactions_are_refused_in_every_version() {
    with_topic("t", |client| {
        let plain =
            |_| init_producer_id::InitProducerIdRequest { transactional_id: None, ..Default::default() };
        client.each(plain, |version, response| {
            assert_eq!(
                (ErrorCode(response.error_code), response.producer_epoch),
                (NONE, 0),
                "version {version}"
            );
            assert!(response.producer_id >= 0);
        });
        let transactional = |_| init_producer_id::InitProducerIdRequest {
            transactional_id: Some("t".into()),
            ..Default::default()
        };
        client.each(transactional, |version, response| {
            assert_eq!(ErrorCode(response.error_code), ErrorCode::UNSUPPORTED_VERSION, "version {version}");
        });
    });
}

#[test]
fn the_cluster_is_described_in_every_version() {
    with_topic("t", |client| {
        client.each(
            |_| describe_cluster::DescribeClusterRequest::default(),
            |version, response| {
                assert_eq!(ErrorCode(response.error_code), NONE, "version {version}");
                assert_eq!((response.controller_id, response.brokers.len()), (1, 1));
            },
        );
        let one = |_| metadata::MetadataRequest {
            topics: Some(vec![metadata::MetadataRequestTopic {
                name: Some("t".into()),
                ..Default::default()
            }]),
            ..Default::default()
        };
        client.each(one, |version, response| {
            assert_eq!(
                codes(response.topics.iter().map(|topic| topic.error_code)),
                [NONE],
                "version {version}"
            );
            assert!(response.topics[0].partitions.iter().all(|partition| partition.leader_id == 1));
        });
        let dirs = |_| {
            let topic =
                describe_log_dirs::DescribableLogDirTopic { topic: "t".into(), partitions: vec![0, 99] };
            describe_log_dirs::DescribeLogDirsRequest { topics: Some(vec![topic]) }
        };
        client.each(dirs, |version, response| {
            assert_eq!(response.results[0].topics[0].partitions.len(), 1, "version {version}");
            assert_eq!(response.results[0].total_bytes > 0, version >= 4);
        });
        let pages = |_| describe_topic_partitions::DescribeTopicPartitionsRequest {
            response_partition_limit: 1,
            ..Default::default()
        };
        client.each(pages, |_, response| {
            assert_eq!(response.topics[0].partitions.len(), 1);
            assert_eq!(response.next_cursor.map(|cursor| cursor.partition_index), Some(1));
        });
    });
}

#[test]
fn one_node_has_nothing_to_elect_and_nothing_to_move_in_every_version() {
    with_topic("t", |client| {
        let elect = |_| elect_leaders::ElectLeadersRequest {
            topic_partitions: Some(vec![elect_leaders::TopicPartitions {
                topic: "t".into(),
                partitions: vec![0, 99],
            }]),
            ..Default::default()
        };
        client.each(elect, |version, response| {
            let partitions = &response.replica_election_results[0].partition_result;
            let found = codes(partitions.iter().map(|p| p.error_code));
            assert_eq!(found, [ErrorCode::ELECTION_NOT_NEEDED, UNKNOWN], "version {version}");
        });
        let moves = |_| {
            let one = |partition_index, replicas| reassignments::ReassignablePartition {
                partition_index,
                replicas,
            };
            let partitions =
                vec![one(0, Some(vec![1])), one(0, Some(vec![2])), one(0, None), one(99, Some(vec![1]))];
            let topics = vec![reassignments::ReassignableTopic { name: "t".into(), partitions }];
            reassignments::AlterPartitionReassignmentsRequest { topics, ..Default::default() }
        };
        client.each(moves, |version, response| {
            let found = codes(response.responses[0].partitions.iter().map(|p| p.error_code));
            let (invalid, nothing) =
                (ErrorCode::INVALID_REPLICA_ASSIGNMENT, ErrorCode::NO_REASSIGNMENT_IN_PROGRESS);
            assert_eq!(found, [NONE, invalid, nothing, UNKNOWN], "version {version}");
        });
        let list = |_| list_partition_reassignments::ListPartitionReassignmentsRequest::default();
        client.each(list, |_, response| assert!(response.error_code == 0 && response.topics.is_empty()));
    });
}
