//! What the broker reports of itself and of unsupported features, as Kafka's clients and tools request it.
#![allow(missing_docs)]

mod common;

use common::{Broker, client::Client, client::one_batch, text};
use millstream_protocol::{
    ErrorCode,
    messages::{
        create_partitions, create_topics, delete_records, delete_topics, describe_acls,
        describe_client_quotas, describe_cluster, describe_configs, describe_delegation_token,
        describe_groups, describe_quorum, describe_transactions, describe_user_scram_credentials, fetch,
        find_coordinator, incremental_alter_configs, list_config_resources, list_transactions, metadata,
    },
};

const NONE: ErrorCode = ErrorCode::NONE;
const NOT_ASKED: i32 = i32::MIN;
const OFFSETS: &str = "__consumer_offsets";

fn with_broker(set: &[&str], work: impl FnOnce(&Broker, &mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), set);
    work(&broker, &mut Client::connect(&broker));
}

#[test]
fn lists_of_what_there_is_not_are_as_in_kafka_in_every_version() {
    with_broker(&[], |_, client| {
        let acls = |_| describe_acls::DescribeAclsRequest::default();
        client.each(acls, |version, response| {
            assert_eq!(ErrorCode(response.error_code), ErrorCode::SECURITY_DISABLED, "version {version}");
            assert!(response.error_message.is_some_and(|reason| reason.contains("Authorizer")));
        });
        let tokens = |_| describe_delegation_token::DescribeDelegationTokenRequest::default();
        client.each(tokens, |version, response| {
            let code = ErrorCode(response.error_code);
            assert_eq!(code, ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, "version {version}");
        });
        let users = |names: &[&'static str]| {
            let user =
                |name: &&'static str| describe_user_scram_credentials::UserName { name: (*name).into() };
            let users = Some(names.iter().map(user).collect());
            describe_user_scram_credentials::DescribeUserScramCredentialsRequest { users }
        };
        let all = client.ask_newest(&users(&[]));
        assert_eq!((ErrorCode(all.error_code), all.results.len()), (NONE, 0));
        let named = client.ask_newest(&users(&["a", "b", "a"]));
        let found = named.results.iter().map(|result| (&*result.user, ErrorCode(result.error_code)));
        let expected = [("a", ErrorCode::DUPLICATE_RESOURCE), ("b", ErrorCode::RESOURCE_NOT_FOUND)];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let quotas = |_| describe_client_quotas::DescribeClientQuotasRequest::default();
        client.each(quotas, |version, response| {
            assert_eq!(ErrorCode(response.error_code), NONE, "version {version}");
            assert_eq!(response.entries.map(|entries| entries.len()), Some(0), "an empty list, not null");
        });
        let transactions = |_| list_transactions::ListTransactionsRequest {
            state_filters: vec!["Ongoing".into(), "Busy".into()],
            ..Default::default()
        };
        client.each(transactions, |version, response| {
            assert_eq!(ErrorCode(response.error_code), NONE, "version {version}");
            assert!(response.transaction_states.is_empty() && response.unknown_state_filters == ["Busy"]);
        });
        let one =
            |_| describe_transactions::DescribeTransactionsRequest { transactional_ids: vec!["t".into()] };
        client.each(one, |_, response| {
            let code = ErrorCode(response.transaction_states[0].error_code);
            assert_eq!(code, ErrorCode::TRANSACTIONAL_ID_NOT_FOUND);
        });
    });
}

#[test]
fn the_metadata_group_is_described_as_kafkas_quorum_in_every_version() {
    with_broker(&["node-id=7", "advertised-kafka=broker.example.org:9092"], |_, client| {
        client.create_topic("t", &[]);
        let ask = |_| {
            let partition = |partition_index| describe_quorum::RequestPartitionData { partition_index };
            let topic = describe_quorum::RequestTopicData {
                topic_name: "__cluster_metadata".into(),
                partitions: vec![partition(0), partition(1)],
            };
            describe_quorum::DescribeQuorumRequest { topics: vec![topic] }
        };
        client.each(ask, |version, response| {
            assert_eq!(ErrorCode(response.error_code), NONE, "version {version}");
            let [found, missing] = &response.topics[0].partitions[..] else { panic!("two were asked for") };
            assert_eq!(ErrorCode(missing.error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            assert_eq!((ErrorCode(found.error_code), found.leader_id), (NONE, 7));
            assert!(found.leader_epoch >= 1, "{found:?}");
            let [voter] = &found.current_voters[..] else { panic!("one node votes") };
            assert_eq!((voter.replica_id, found.observers.len()), (7, 0));
            assert!(voter.log_end_offset >= found.high_watermark, "{found:?}");
            // The first membership, the first entry of the term, the bootstrap, the broker, the topic.
            assert!(found.high_watermark >= 5, "{found:?}");
            assert_eq!(voter.last_caught_up_timestamp > 0, version >= 1);
            if version >= 2 {
                let node = &response.nodes[0];
                let listener = &node.listeners[0];
                assert_eq!((node.node_id, &*listener.host, listener.port), (7, "broker.example.org", 9092));
            }
        });
    });
}

#[test]
fn what_has_a_configuration_is_listed_in_every_version() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        let all = |_| list_config_resources::ListConfigResourcesRequest::default();
        client.each(all, |version, response| {
            assert_eq!(ErrorCode(response.error_code), NONE);
            let found = response.config_resources.iter().map(|one| (one.resource_type, &*one.resource_name));
            let expected: &[(i8, &str)] = if version == 0 { &[] } else { &[(2, "t"), (4, "1")] };
            assert_eq!(found.collect::<Vec<_>>(), expected, "version {version}");
        });
        let unknown = list_config_resources::ListConfigResourcesRequest { resource_types: vec![3] };
        let refused = client.ask_newest(&unknown);
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::UNSUPPORTED_VERSION);
    });
}

#[test]
fn operations_are_told_when_they_are_asked_for() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        for asked in [false, true] {
            let expected = |operations| if asked { operations } else { NOT_ASKED };
            let topic = |name: &'static str| metadata::MetadataRequestTopic {
                name: Some(name.into()),
                ..Default::default()
            };
            for version in 8..=13 {
                let request = metadata::MetadataRequest {
                    topics: Some(vec![topic("t"), topic("none")]),
                    allow_auto_topic_creation: false,
                    include_topic_authorized_operations: asked,
                    include_cluster_authorized_operations: asked && version <= 10,
                };
                let response = client.ask(version, &request);
                let found = response.topics.iter().map(|topic| topic.topic_authorized_operations);
                assert_eq!(found.collect::<Vec<_>>(), [expected(3576), NOT_ASKED], "version {version}");
                let of_cluster = if version <= 10 { expected(8096) } else { NOT_ASKED };
                assert_eq!(response.cluster_authorized_operations, of_cluster, "version {version}");
                assert_eq!(ErrorCode(response.error_code), NONE);
            }
            let request = describe_cluster::DescribeClusterRequest {
                include_cluster_authorized_operations: asked,
                ..Default::default()
            };
            assert_eq!(client.ask_newest(&request).cluster_authorized_operations, expected(8096));
            let request = describe_groups::DescribeGroupsRequest {
                groups: vec!["g".into()],
                include_authorized_operations: asked,
            };
            assert_eq!(client.ask(5, &request).groups[0].authorized_operations, expected(3400));
        }
    });
}

fn configs(client: &mut Client, kind: i8, name: &str) -> describe_configs::DescribeConfigsResult {
    let resource = describe_configs::DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.to_string().into(),
        configuration_keys: None,
    };
    let request = describe_configs::DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
    };
    client.ask_newest(&request).results.remove(0)
}

fn set(client: &mut Client, kind: i8, name: &str, key: &str, value: Option<&str>) -> ErrorCode {
    let config = incremental_alter_configs::AlterableConfig {
        name: key.to_string().into(),
        config_operation: i8::from(value.is_none()),
        value: value.map(|value| value.to_string().into()),
    };
    let resource = incremental_alter_configs::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.to_string().into(),
        configs: vec![config],
    };
    let request = incremental_alter_configs::IncrementalAlterConfigsRequest {
        resources: vec![resource],
        validate_only: false,
    };
    ErrorCode(client.ask_newest(&request).responses[0].error_code)
}

#[test]
fn a_group_has_kafkas_defaults_which_cannot_be_changed() {
    with_broker(&[], |_, client| {
        let group = configs(client, 32, "any");
        assert_eq!(ErrorCode(group.error_code), NONE);
        let value = |key: &str| {
            let found = group.configs.iter().find(|config| &*config.name == key);
            found.map(|config| (config.value.as_deref().map(String::from), config.config_source))
        };
        assert_eq!(value("consumer.session.timeout.ms"), Some((Some("45000".into()), 5)));
        assert_eq!(value("share.auto.offset.reset"), Some((Some("latest".into()), 5)));
        assert!(group.configs.iter().all(|config| config.read_only));
        let key = "consumer.session.timeout.ms";
        assert_eq!(set(client, 32, "any", key, Some("50000")), ErrorCode::INVALID_CONFIG);
        assert_eq!(set(client, 32, "any", "no.such.key", None), ErrorCode::INVALID_CONFIG);
        assert_eq!(set(client, 32, "any", key, None), NONE, "it is not set");
        assert_eq!(ErrorCode(configs(client, 32, "").error_code), ErrorCode::INVALID_REQUEST);
    });
}

#[test]
fn the_brokers_keys_say_how_it_runs() {
    let given = ["advertised-kafka=[::1]:9092", "rack=r1"];
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), &given);
    let client = &mut Client::connect(&broker);
    let all = configs(client, 4, "1");
    let value = |key: &str| {
        let found = all.configs.iter().find(|config| &*config.name == key);
        let found = found.unwrap_or_else(|| panic!("{key} is not described"));
        assert!(found.read_only, "{key}");
        found.value.as_deref().unwrap_or_default().to_string()
    };
    assert_eq!(value("advertised.listeners"), "PLAINTEXT://[::1]:9092");
    assert_eq!(value("listeners"), format!("PLAINTEXT://{}", broker.kafka));
    assert_eq!(value("http-addr"), broker.http);
    assert_eq!(value("log.dirs"), dir.path().display().to_string());
    assert_eq!(
        (value("node.id"), value("broker.id"), value("broker.rack")),
        ("1".into(), "1".into(), "r1".into())
    );
    assert_eq!((value("delete.topic.enable"), value("background.threads")), ("true".into(), "2".into()));
    assert!(value("log.cleaner.backoff.ms").parse::<u64>().is_ok_and(|ms| ms > 0));
    assert_eq!(set(client, 4, "1", "delete.topic.enable", Some("false")), ErrorCode::INVALID_REQUEST);
    let request = metadata::MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    let brokers = client.ask_newest(&request).brokers;
    assert_eq!((&*brokers[0].host, brokers[0].port), ("::1", 9092), "clients get no brackets");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(common::PROGRAM);
        command.args(args).current_dir(dir.path()).output().expect("it ends")
    };
    for (args, reason) in [
        (["serve", "--advertised-kafka", "0.0.0.0:9092"], "stands for every address"),
        (["serve", "--advertised-kafka", "broker:0"], "port 0"),
        (["serve", "--kafka-addr", "PLAINTEXT://broker:9092"], "leave out 'PLAINTEXT://'"),
        (["serve", "--http-addr", "bro ker:9644"], "a host name has no ' '"),
        (["topic", "list", "--bootstrap=PLAINTEXT://broker:9092"], "leave out 'PLAINTEXT://'"),
        (["topic", "list", "--bootstrap=a:1,bro ker:9092"], "a host name has no ' '"),
        (["cluster", "log-level", "--http-addr=localhost:0"], "port 0"),
    ] {
        let output = run(&args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(reason) && said.lines().count() == 1, "{args:?}: {said}");
    }
    assert!(!dir.path().join("millstream-data").exists());
}

fn topics(client: &mut Client) -> Vec<(String, bool, usize)> {
    let request = metadata::MetadataRequest { topics: None, ..Default::default() };
    let found = client.ask_newest(&request).topics.into_iter();
    found
        .map(|topic| (topic.name.unwrap_or_default().to_string(), topic.is_internal, topic.partitions.len()))
        .collect()
}

fn find_group(client: &mut Client) {
    let request = find_coordinator::FindCoordinatorRequest {
        key_type: 0,
        coordinator_keys: vec!["g".into()],
        ..Default::default()
    };
    let found = client.ask_newest(&request).coordinators.remove(0);
    assert_eq!(ErrorCode(found.error_code), NONE);
}

#[test]
fn the_topic_of_committed_offsets_comes_with_the_first_group_and_can_be_read() {
    with_broker(&["auto.create.topics.enable=false"], |_, client| {
        assert_eq!(topics(client), []);
        find_group(client);
        find_group(client);
        assert_eq!(topics(client), [(OFFSETS.to_string(), true, 1)]);
        let described = configs(client, 2, OFFSETS);
        let policy = described.configs.iter().find(|config| &*config.name == "cleanup.policy");
        assert_eq!(policy.and_then(|config| config.value.as_deref()), Some("compact"));
        assert_eq!((client.find_offset(OFFSETS, -2).0, client.find_offset(OFFSETS, -1).0), (0, 0));
        let partition = fetch::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
        let topic =
            fetch::FetchTopic { topic: OFFSETS.into(), partitions: vec![partition], ..Default::default() };
        let request = fetch::FetchRequest { max_bytes: 1 << 20, topics: vec![topic], ..Default::default() };
        let data = client.ask_newest(&request).responses.remove(0).partitions.remove(0);
        assert_eq!((ErrorCode(data.error_code), data.high_watermark), (NONE, 0));
        assert!(data.records.pieces().concat().is_empty());
    });
}

#[test]
fn a_topic_of_the_brokers_own_cannot_be_changed_by_clients() {
    with_broker(&[], |_, client| {
        find_group(client);
        let refused = client.produce(OFFSETS, one_batch(b"v"));
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::INVALID_TOPIC_EXCEPTION);
        assert!(refused.error_message.is_some_and(|reason| reason.contains("belongs to the broker")));
        let topic = delete_topics::DeleteTopicState { name: Some(OFFSETS.into()), ..Default::default() };
        let request = delete_topics::DeleteTopicsRequest {
            topics: vec![topic],
            timeout_ms: 5000,
            ..Default::default()
        };
        let code = client.ask_newest(&request).responses[0].error_code;
        assert_eq!(ErrorCode(code), ErrorCode::INVALID_TOPIC_EXCEPTION);
        let partition = delete_records::DeleteRecordsPartition { partition_index: 0, offset: -1 };
        let topic = delete_records::DeleteRecordsTopic { name: OFFSETS.into(), partitions: vec![partition] };
        let request = delete_records::DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5000 };
        let code = client.ask_newest(&request).topics[0].partitions[0].error_code;
        assert_eq!(ErrorCode(code), ErrorCode::INVALID_TOPIC_EXCEPTION);
        let topic =
            create_partitions::CreatePartitionsTopic { name: OFFSETS.into(), count: 3, assignments: None };
        let request = create_partitions::CreatePartitionsRequest {
            topics: vec![topic],
            timeout_ms: 5000,
            validate_only: false,
        };
        let code = client.ask_newest(&request).results[0].error_code;
        assert_eq!(ErrorCode(code), ErrorCode::INVALID_TOPIC_EXCEPTION);
        let topic = create_topics::CreatableTopic {
            name: OFFSETS.into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let request = create_topics::CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let code = client.ask_newest(&request).topics[0].error_code;
        assert_eq!(ErrorCode(code), ErrorCode::TOPIC_ALREADY_EXISTS);
        assert_eq!(topics(client), [(OFFSETS.to_string(), true, 1)]);
    });
}

#[test]
fn a_topic_default_that_changes_while_the_broker_runs_applies_at_once() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        client.create_topic("own", &[("max.message.bytes", "1000000")]);
        client.append("t", one_batch(&[0; 5_000]));
        assert_eq!(set(client, 4, "", "message.max.bytes", Some("1000")), NONE);
        let refused = client.produce("t", one_batch(&[0; 5_000]));
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::MESSAGE_TOO_LARGE);
        client.append("own", one_batch(&[0; 5_000]));
        assert_eq!(set(client, 4, "", "message.max.bytes", None), NONE);
        client.append("t", one_batch(&[0; 5_000]));
    });
}

#[test]
fn a_topics_counters_never_fall_while_it_lives_and_the_shared_ones_never_do() {
    with_broker(&[], |broker, client| {
        let topic = |name: String| create_topics::CreatableTopic {
            name: name.into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let names = (0..500).map(|at| topic(format!("t{at:03}"))).collect();
        let request =
            create_topics::CreateTopicsRequest { topics: names, timeout_ms: 60_000, ..Default::default() };
        let made = client.ask_newest(&request).topics;
        assert!(made.iter().all(|topic| topic.error_code == 0), "{made:?}");
        // The others appear at once; these once no series is left.
        client.create_topic("t500", &[]);
        client.create_topic("t501", &[]);
        let records = |topic: &str| {
            let name = format!("millstream_topic_produce_records_total{{topic=\"{topic}\"}} ");
            let page = broker.get("/metrics");
            page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
        };
        let delete = |client: &mut Client, name: &'static str| {
            let topic = delete_topics::DeleteTopicState { name: Some(name.into()), ..Default::default() };
            let request = delete_topics::DeleteTopicsRequest {
                topics: vec![topic],
                timeout_ms: 60_000,
                ..Default::default()
            };
            assert_eq!(client.ask_newest(&request).responses[0].error_code, 0);
        };
        for topic in ["t003", "t500", "t501", "t501"] {
            client.append(topic, one_batch(b"v"));
        }
        assert_eq!((records("t003"), records("(other)"), records("t501")), (Some(1), Some(3), None));
        delete(client, "t501");
        assert_eq!(records("(other)"), Some(3), "what was counted stays counted");
        delete(client, "t000");
        client.append("t500", one_batch(b"v"));
        assert_eq!((records("t500"), records("(other)")), (None, Some(4)), "it keeps the series that it has");
        client.create_topic("a-new-one", &[]);
        client.append("a-new-one", one_batch(b"v"));
        assert_eq!((records("a-new-one"), records("t003")), (Some(1), Some(1)), "a series was free");
    });
}
