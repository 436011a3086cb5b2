//! Bugs that other brokers have shipped, each as a test that would have found it. Those of transactions will
//! follow with transactions.
#![allow(missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::Barrier,
    time::{Duration, Instant},
};

use common::{
    Broker,
    client::{Client, Member, batch_of, keyed, one_batch},
    eventually,
};
use millstream_batch::{BatchBuilder, Codec, NewRecord};
use millstream_protocol::{
    ErrorCode,
    messages::{create_partitions, describe_configs, incremental_alter_configs as alter, offset_fetch},
};

const MIB: i32 = 1 << 20;
const NONE: ErrorCode = ErrorCode::NONE;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn with_broker(set: &[&str], work: impl FnOnce(&Broker, &mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), set);
    work(&broker, &mut Client::connect(&broker));
}

#[test]
fn a_fetch_from_the_middle_of_a_batch_returns_that_batch() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        for codec in CODECS {
            client.append("t", batch_of(codec, &[b"a".as_slice(); 10]));
        }
        for offset in 0..50 {
            let batches = client.batches("t", offset, MIB);
            let (first, _) = &batches[0];
            assert_eq!(first.base_offset, offset / 10 * 10, "from {offset}");
            assert_eq!(batches.len() as i64, 5 - offset / 10, "and all behind it");
        }
    });
}

#[test]
fn the_first_batch_is_returned_even_if_it_is_larger_than_the_limits() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        let large = vec![b'x'; 100_000];
        for _ in 0..3 {
            client.append("t", one_batch(&large));
        }
        for (offset, bytes_max) in [(0, 1), (1, 0), (2, 1000), (0, 100_000)] {
            let batches = client.batches("t", offset, bytes_max);
            let offsets: Vec<_> = batches.iter().map(|(header, _)| header.base_offset).collect();
            assert_eq!(offsets, [offset], "one batch and no more with {bytes_max} bytes");
        }
        let data = client.fetch("t", 3, 1);
        assert_eq!((data.error_code, data.records.len()), (0, 0), "at the end there is none");
    });
}

#[test]
fn a_batch_larger_than_max_message_bytes_is_refused_also_after_the_limit_changed() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[("max.message.bytes", "1000")]);
        let (fits, too_large) = (one_batch(&[b'x'; 900]), one_batch(&[b'x'; 1000]));
        assert_eq!(client.append("t", fits), 0);
        let refused = client.produce("t", too_large.clone());
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::MESSAGE_TOO_LARGE);
        assert_eq!(change(client, "t", "max.message.bytes", 0, "2000").0, NONE);
        assert_eq!(client.append("t", too_large.clone()), 1);
        assert_eq!(change(client, "t", "max.message.bytes", 1, "").0, NONE);
        assert_eq!(client.append("t", too_large), 2);
        client.create_topic("default", &[]);
        let refused = client.produce("default", one_batch(&vec![b'x'; 1_048_588]));
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::MESSAGE_TOO_LARGE);
    });
}

#[test]
fn a_record_without_a_key_is_refused_on_a_compacted_topic_wherever_it_stands_in_its_batch() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[("cleanup.policy", "compact,delete")]);
        for codec in CODECS {
            let mut mixed = BatchBuilder::new(codec);
            let record = |key| NewRecord { timestamp_ms: 1_000, key, value: Some(b"v"), headers: &[] };
            mixed.push(record(Some(b"k")));
            mixed.push(record(None));
            for batch in [mixed.build().expect("a batch"), batch_of(codec, &[b"v"])] {
                let refused = client.produce("t", batch);
                assert_eq!(ErrorCode(refused.error_code), ErrorCode::INVALID_RECORD, "{codec:?}");
            }
        }
        assert_eq!(client.append("t", keyed(Codec::Gzip, &[("", b"an empty key is a key")])), 0);
    });
}

#[test]
fn a_timestamp_leads_to_the_very_record_also_within_a_batch_and_when_times_are_in_disorder() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        // Two batches of each codec; in each the timestamps are 100 apart and the third goes back.
        let times = |batch: i64| [1_000, 1_100, 1_050, 1_300].map(|time| time + 1_000 * batch);
        for (n, codec) in (0..).zip(CODECS) {
            let mut batch = BatchBuilder::new(codec);
            for timestamp_ms in times(n) {
                batch.push(NewRecord { timestamp_ms, value: Some(b"v"), ..Default::default() });
            }
            client.append("t", batch.build().expect("a batch"));
        }
        for n in 0..5 {
            let found =
                [1_000, 1_001, 1_100, 1_101, 1_300].map(|time| client.find_offset("t", time + 1_000 * n));
            let at = |place: i64, time: i64| (4 * n + place, time + 1_000 * n);
            assert_eq!(
                found,
                [at(0, 1_000), at(1, 1_100), at(1, 1_100), at(3, 1_300), at(3, 1_300)],
                "batch {n}"
            );
        }
        assert_eq!(client.find_offset("t", 0), (0, 1_000), "before all");
        assert_eq!(client.find_offset("t", 5_301), (-1, -1), "behind all");
        assert_eq!(client.find_offset("t", -1), (20, -1));
        assert_eq!(client.find_offset("t", -2), (0, -1));
        assert_eq!(client.find_offset("t", -3), (19, 5_300), "the largest");
    });
}

#[test]
fn more_partitions_are_answered_for_topic_by_topic() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        let topic = |name: &'static str, count| create_partitions::CreatePartitionsTopic {
            name: name.into(),
            count,
            assignments: None,
        };
        let request = create_partitions::CreatePartitionsRequest {
            topics: vec![topic("t", 3), topic("none", 3)],
            timeout_ms: 5_000,
            validate_only: false,
        };
        let answer = client.ask_newest(&request);
        let results: Vec<_> = answer
            .results
            .iter()
            .map(|result| (result.name.to_string(), ErrorCode(result.error_code)))
            .collect();
        assert_eq!(results, [("t".into(), NONE), ("none".into(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]);
    });
}

#[test]
fn the_note_and_the_leader_epoch_of_a_commit_come_back_also_after_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    Client::connect(&broker).create_topic("t", &[]);
    let mut member = Member::new(&broker, "g", 10_000);
    assert!(member.join());
    let note = "a note, 注, and 'quotes'";
    assert_eq!(member.commit("t", 5, note), NONE);
    let look = |broker: &Broker| {
        let topic = offset_fetch::OffsetFetchRequestTopics {
            name: "t".into(),
            partition_indexes: vec![0],
            ..Default::default()
        };
        let group = offset_fetch::OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let request = offset_fetch::OffsetFetchRequest { groups: vec![group], ..Default::default() };
        let answer = Client::connect(broker).ask_newest(&request);
        let found = &answer.groups[0].topics[0].partitions[0];
        (found.committed_offset, found.committed_leader_epoch, found.metadata.as_deref().map(String::from))
    };
    let expected = (5, 3, Some(note.to_string()));
    assert_eq!(look(&broker), expected);
    drop(broker); // kill -9
    assert_eq!(look(&Broker::start(dir.path())), expected);
}

#[test]
fn every_configuration_is_described_with_its_value_source_type_and_documentation() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[("retention.ms", "5000")]);
        let one = |resource_type, name: &'static str| describe_configs::DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: None,
        };
        let request = describe_configs::DescribeConfigsRequest {
            resources: vec![one(2, "t"), one(4, "1")],
            include_synonyms: true,
            include_documentation: true,
        };
        let answer = client.ask_newest(&request);
        let [topic, broker] = &answer.results[..] else { panic!("{answer:?}") };
        for result in [topic, broker] {
            assert_eq!(ErrorCode(result.error_code), NONE);
            assert!(result.configs.len() > 30, "{}", result.configs.len());
            for config in &result.configs {
                let name = &config.name;
                assert!(config.value.is_some() && !config.is_sensitive, "{name}");
                assert!((1..=5).contains(&config.config_source), "{name}: source {}", config.config_source);
                assert!((1..=9).contains(&config.config_type), "{name}: type {}", config.config_type);
                assert!(config.documentation.as_ref().is_some_and(|text| text.len() > 15), "{name}");
                // Keys that describe how the broker runs have no default.
                let is_default = |last: &describe_configs::DescribeConfigsSynonym| last.source == 5;
                assert!(config.read_only || config.synonyms.last().is_some_and(is_default), "{name}");
            }
        }
        let found = |result: &describe_configs::DescribeConfigsResult, key: &str| {
            let config = result.configs.iter().find(|config| &*config.name == key);
            config.map(|config| (config.value.as_deref().map(String::from), config.config_source))
        };
        assert_eq!(found(topic, "retention.ms"), Some((Some("5000".into()), 1)));
        assert_eq!(found(topic, "retention.bytes"), Some((Some("-1".into()), 5)));
        assert_eq!(found(broker, "log.retention.ms"), Some((Some("604800000".into()), 5)));
        for key in [
            "auto.create.topics.enable",
            "num.partitions",
            "message.max.bytes",
            "compression.type",
            "log.cleanup.policy",
            "log.cleaner.delete.retention.ms",
            "min.insync.replicas",
            "log.roll.ms",
        ] {
            assert!(found(broker, key).is_some(), "{key}");
        }
    });
}

/// Changes one key of a topic: 0 sets, 1 deletes, 2 appends, 3 subtracts.
fn change(client: &mut Client, topic: &str, key: &str, operation: i8, value: &str) -> (ErrorCode, String) {
    let config = alter::AlterableConfig {
        name: key.to_string().into(),
        config_operation: operation,
        value: (operation != 1).then(|| value.to_string().into()),
    };
    let resource = alter::AlterConfigsResource {
        resource_type: 2,
        resource_name: topic.to_string().into(),
        configs: vec![config],
    };
    let request = alter::IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let done = client.ask_newest(&request).responses.remove(0);
    (ErrorCode(done.error_code), done.error_message.map(String::from).unwrap_or_default())
}

fn value_of(client: &mut Client, topic: &str, key: &str) -> String {
    let resource = describe_configs::DescribeConfigsResource {
        resource_type: 2,
        resource_name: topic.to_string().into(),
        configuration_keys: Some(vec![key.to_string().into()]),
    };
    let request =
        describe_configs::DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let config = client.ask_newest(&request).results.remove(0).configs.remove(0);
    config.value.map(String::from).expect("a value")
}

const REPLICAS: &str = "leader.replication.throttled.replicas";

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    with_broker(&[], |_, client| {
        client.create_topic("t", &[]);
        // Existing items are not added again, missing ones are not an error, and an empty list is allowed.
        let steps = [
            ("cleanup.policy", 2, "compact", "delete,compact"),
            ("cleanup.policy", 2, "compact", "delete,compact"),
            ("cleanup.policy", 3, "delete", "compact"),
            ("cleanup.policy", 3, "delete", "compact"),
            (REPLICAS, 2, "0:1,1:1", "0:1,1:1"),
            (REPLICAS, 2, "1:1,2:1", "0:1,1:1,2:1"),
            (REPLICAS, 3, "0:1,7:7", "1:1,2:1"),
            (REPLICAS, 3, "1:1,2:1", ""),
            (REPLICAS, 3, "1:1", ""),
            (REPLICAS, 2, "3:1", "3:1"),
            (REPLICAS, 1, "", ""),
        ];
        for (key, operation, value, after) in steps {
            assert_eq!(change(client, "t", key, operation, value).0, NONE, "{key} {operation} {value}");
            assert_eq!(value_of(client, "t", key), after, "{key} {operation} {value}");
        }
        for operation in [2, 3] {
            let (code, reason) = change(client, "t", "retention.ms", operation, "1");
            assert_eq!(code, ErrorCode::INVALID_CONFIG);
            assert!(reason.contains("retention.ms"), "{reason}");
        }
        let (code, reason) = change(client, "t", "cleanup.policy", 2, "shred");
        assert_eq!(code, ErrorCode::INVALID_CONFIG);
        assert!(["cleanup.policy", "shred", "compact"].iter().all(|word| reason.contains(word)), "{reason}");
    });
}

#[test]
fn of_many_who_append_to_a_list_at_once_nobodys_item_is_lost() {
    with_broker(&[], |broker, client| {
        client.create_topic("t", &[]);
        let (appenders, each) = (8, 10);
        let start = Barrier::new(appenders);
        std::thread::scope(|scope| {
            for n in 0..appenders {
                let (start, mut client) = (&start, Client::connect(broker));
                scope.spawn(move || {
                    start.wait();
                    for item in 0..each {
                        assert_eq!(change(&mut client, "t", REPLICAS, 2, &format!("{n}:{item}")).0, NONE);
                    }
                });
            }
        });
        let list = value_of(client, "t", REPLICAS);
        assert_eq!(list.split(',').collect::<BTreeSet<_>>().len(), appenders * each, "{list}");
    });
}

#[test]
fn members_that_come_and_go_all_the_time_are_never_told_that_they_are_unknown() {
    with_broker(&[], |broker, _| {
        std::thread::scope(|scope| {
            for n in 0..6 {
                scope.spawn(move || {
                    let mut member = Member::new(broker, "g", 20_000);
                    for round in 0..15 {
                        while !member.join() {}
                        let beat = member.heartbeat();
                        assert!(matches!(beat, NONE | ErrorCode::REBALANCE_IN_PROGRESS), "{n}: {beat:?}");
                        if (round + n) % 3 == 0 {
                            assert_eq!(member.leave(), NONE);
                            member = Member::new(broker, "g", 20_000);
                        }
                    }
                    assert_eq!(member.leave(), NONE);
                });
            }
        });
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a session ends with time, and the broker's is not ours to set")]
fn a_member_that_leaves_because_it_was_slow_costs_one_rebalance_and_one_more_when_it_comes_back() {
    with_broker(&["group.min.session.timeout.ms=100"], |broker, _| {
        let session_ms = 1_000;
        let mut stays = Member::new(broker, "g", 20_000);
        assert!(stays.join());
        let mut slow = Member::new(broker, "g", session_ms);
        join_together(&mut stays, &mut slow);
        let generation = stays.generation;
        // Like a client whose application did not poll for too long.
        assert_eq!(slow.leave(), NONE);
        assert_eq!(stays.heartbeat(), ErrorCode::REBALANCE_IN_PROGRESS);
        assert!(stays.join());
        assert_eq!(stays.generation, generation + 1);
        // The other one's session ends; its leave is known already.
        let end = Instant::now() + Duration::from_millis(session_ms as u64 * 3 / 2);
        while Instant::now() < end {
            assert_eq!(stays.heartbeat(), NONE);
        }
        let mut back = Member::new(broker, "g", session_ms);
        join_together(&mut stays, &mut back);
        assert_eq!(stays.generation, generation + 2);
    });
}

/// The other one joins, and with it the first one, which was alone.
fn join_together(one: &mut Member, other: &mut Member) {
    other.send_join();
    eventually("the group rebalances", || one.heartbeat() == ErrorCode::REBALANCE_IN_PROGRESS);
    one.send_join();
    let (joined_one, joined_other) = (one.receive_join(), other.receive_join());
    assert_eq!((joined_one.error_code, joined_other.error_code), (0, 0));
    assert_eq!(one.generation, other.generation);
    one.send_sync(&joined_one);
    other.send_sync(&joined_other);
    assert_eq!((one.receive_sync().error_code, other.receive_sync().error_code), (0, 0));
}

#[test]
fn a_commit_during_a_rebalance_is_taken_until_the_new_generation_begins_and_then_told_so() {
    with_broker(&[], |broker, client| {
        client.create_topic("t", &[]);
        let mut one = Member::new(broker, "g", 20_000);
        assert!(one.join());
        let mut other = Member::new(broker, "g", 20_000);
        other.send_join();
        eventually("the group rebalances", || one.heartbeat() == ErrorCode::REBALANCE_IN_PROGRESS);
        // The group waits for this member to join: it may commit its progress in the old generation.
        assert_eq!(one.commit("t", 1, ""), NONE);
        one.send_join();
        let (joined_one, joined_other) = (one.receive_join(), other.receive_join());
        // The next generation exists, but not its assignment.
        assert_eq!(one.commit("t", 2, ""), ErrorCode::REBALANCE_IN_PROGRESS);
        one.generation -= 1;
        assert_eq!(one.commit("t", 3, ""), ErrorCode::ILLEGAL_GENERATION);
        one.generation += 1;
        one.send_sync(&joined_one);
        other.send_sync(&joined_other);
        assert_eq!((one.receive_sync().error_code, other.receive_sync().error_code), (0, 0));
        assert_eq!(one.commit("t", 4, ""), NONE);
        one.id = "unknown".into();
        assert_eq!(one.commit("t", 5, ""), ErrorCode::UNKNOWN_MEMBER_ID);
    });
}

#[test]
fn a_broker_that_listens_on_a_name_is_reached_over_both_families() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // This machine has one family only.
    }
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_at(dir.path(), "localhost:0");
    let port: u16 = broker.kafka.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    for address in ["127.0.0.1", "::1"] {
        let reached = TcpStream::connect((address, port));
        // Whether the name resolves to both depends on the machine.
        let named = ("localhost", port).to_socket_addrs().expect("a name");
        if named.into_iter().any(|found| found.ip().to_string() == address) {
            reached.unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let any = Broker::start_at(dir.path(), "[::]:0");
    let port: u16 = any.kafka.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        Client::connect_to(&address);
    }
}

#[test]
fn a_least_time_above_the_longest_is_refused_whichever_comes_last() {
    let (least, longest) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
    with_broker(&[], |_, client| {
        client.create_topic("t", &[(longest, "10")]);
        let (code, reason) = change(client, "t", least, 0, "100");
        assert_eq!(code, ErrorCode::INVALID_CONFIG);
        assert!([least, longest, "100", "10"].iter().all(|part| reason.contains(part)), "{reason}");
        assert_eq!(change(client, "t", longest, 1, "").0, NONE);
        assert_eq!(change(client, "t", least, 0, "100").0, NONE);
        assert_eq!(change(client, "t", longest, 0, "10").0, ErrorCode::INVALID_CONFIG);
        assert_eq!(change(client, "t", longest, 0, "100").0, NONE);
    });
}
