//! Encodings of commands and snapshots: what is refused, and that nothing panics.

use millstream_model::{NodeId, PartitionId, RaftGroupId};
use proptest::prelude::*;

use super::*;
use crate::{
    DecodeError,
    cluster::{
        Broker, ClusterCommand, Extent, Extents, Partition, encode_adopt_partition,
        encode_allocate_producer_ids, encode_alter_broker_configs, encode_alter_topic_configs,
        encode_create_partitions, encode_delete_topic, encode_register_broker, encode_unregister_broker,
        encode_update_features,
    },
};

fn every_command() -> Vec<(Bytes, ClusterCommand)> {
    let broker = Broker { host: "h".into(), port: 9, rack: None };
    let some = changes(&[("a", Some("b")), ("c", None)]);
    let (name, node) = ("t".to_string(), NodeId(7));
    let configs = texts(&[("k", "v")]);
    let levels = vec![("f".to_string(), 3)];
    vec![
        (encode_bootstrap("id", 3), ClusterCommand::Bootstrap { cluster_id: "id".into(), shards: 3 }),
        (encode_register_broker(node, &broker), ClusterCommand::RegisterBroker { node, broker }),
        (encode_unregister_broker(node), ClusterCommand::UnregisterBroker { node }),
        (
            encode_create_topic("t", topic_id(4), (5, 2), &configs, 6),
            ClusterCommand::CreateTopic {
                name: name.clone(),
                id: topic_id(4),
                partitions: 5,
                shards_max: 2,
                configs,
                now_ms: 6,
            },
        ),
        (encode_delete_topic("t"), ClusterCommand::DeleteTopic { name: name.clone() }),
        (
            encode_create_partitions("t", 8, 3),
            ClusterCommand::CreatePartitions { name: name.clone(), total: 8, shards_max: 3 },
        ),
        (
            encode_alter_topic_configs("t", &some),
            ClusterCommand::AlterTopicConfigs { name: name.clone(), changes: some.clone() },
        ),
        (
            encode_alter_broker_configs(None, &some),
            ClusterCommand::AlterBrokerConfigs { node: None, changes: some.clone() },
        ),
        (
            encode_alter_broker_configs(Some(NodeId(0)), &[]),
            ClusterCommand::AlterBrokerConfigs { node: Some(NodeId(0)), changes: vec![] },
        ),
        (encode_allocate_producer_ids(1000), ClusterCommand::AllocateProducerIds { count: 1000 }),
        (encode_update_features(&levels), ClusterCommand::UpdateFeatures { levels }),
        (
            encode_adopt_partition("t", topic_id(4), (PartitionId(9), RaftGroupId(2)), 6),
            ClusterCommand::AdoptPartition {
                name,
                id: topic_id(4),
                partition: PartitionId(9),
                shard: RaftGroupId(2),
                now_ms: 6,
            },
        ),
    ]
}

#[test]
fn a_command_is_read_as_it_was_written() {
    for (bytes, command) in every_command() {
        assert_eq!(decode(&bytes), Ok(command));
    }
}

#[test]
fn commands_that_touch_a_topic_name_it() {
    let machine = cluster();
    for (_, command) in every_command() {
        let touches = format!("{command:?}").contains("name: \"t\"");
        assert_eq!(command.topic_name(&machine).as_deref(), touches.then_some("t"), "{command:?}");
    }
}

#[test]
fn a_shortened_or_lengthened_command_is_refused() {
    for (bytes, command) in every_command() {
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{command:?} cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer), Err(DecodeError::Trailing(1)), "{command:?}");
    }
}

#[test]
fn versions_and_kinds_that_are_not_known_are_refused() {
    assert_eq!(decode(&[9, 1]), Err(DecodeError::Version { found: 9, known: 1 }));
    for kind in [0, 12, 64, 255] {
        assert_eq!(decode(&[1, kind]), Err(DecodeError::Kind(kind)));
    }
}

#[test]
fn texts_are_utf8_and_counts_are_worth_their_bytes() {
    let mut command = encode_delete_topic("abc").to_vec();
    command[7] = 0xff;
    assert_eq!(decode(&command), Err(DecodeError::Text));
    let mut command = encode_update_features(&[]).to_vec();
    command[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode(&command), Err(DecodeError::Truncated { .. })));
}

/// A machine with an example of everything.
fn full() -> ClusterMachine {
    let mut machine = cluster();
    for (bytes, _) in every_command() {
        // The topic is deleted before it is grown: the rest of this creates another.
        let _ = apply(&mut machine, bytes);
    }
    created(create(&mut machine, "a.b", 9, 3));
    let broker = Broker { host: "h".into(), port: 9, rack: Some("r".into()) };
    apply(&mut machine, encode_register_broker(NodeId(2), &broker)).expect("registered");
    apply(&mut machine, encode_alter_topic_configs("a.b", &changes(&[("k", Some("v"))]))).expect("set");
    machine
}

#[test]
fn a_snapshot_is_restored_as_it_was() {
    let machine = full();
    let restored = ClusterMachine::restore(&machine.snapshot().into_bytes()[..]).expect("our own snapshot");
    restored.validate();
    assert_eq!(restored.snapshot().into_bytes(), machine.snapshot().into_bytes());
    assert!(restored.topics().eq(machine.topics()) && restored.brokers().eq(machine.brokers()));
    assert_eq!(restored.partition_count(), machine.partition_count());
}

#[test]
fn a_partition_of_several_extents_is_restored() {
    let mut machine = full();
    let extent = |start, shard, epoch| Extent { start, shard: RaftGroupId(shard), epoch };
    let list = vec![extent(0, 3, 0), extent(100, 5, 7), extent(250, 1, 9)];
    let extents = Extents::from_list(list.clone()).expect("not empty");
    assert_eq!((extents.last(), extents.count()), (list[2], 3));
    assert!(extents.iter().eq(&list));
    let topic = machine.topics.get_mut("a.b").expect("there");
    topic.partitions[0] = Partition { id: PartitionId(topic.partitions[0].id.0), extents };
    machine.index_all();
    machine.validate();
    let restored = ClusterMachine::restore(&machine.snapshot().into_bytes()[..]).expect("our own snapshot");
    restored.validate();
    assert!(restored.topics().eq(machine.topics()));
    assert_eq!(Extents::from_list(vec![]), None);
}

#[test]
fn a_shortened_snapshot_is_refused() {
    let bytes = full().snapshot().into_bytes();
    for end in 0..bytes.len() {
        assert!(ClusterMachine::restore(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
    }
    assert!(ClusterMachine::restore(&[&bytes[..], &[0]].concat()[..]).is_err(), "a byte more");
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_command_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_changed_byte_makes_a_command_or_a_snapshot_panic(
        which in 0..14usize,
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let commands = every_command();
        match commands.get(which) {
            Some((bytes, _)) => {
                let mut bytes = bytes.to_vec();
                let at = at.index(bytes.len());
                bytes[at] = value;
                if let Ok(command) = decode(&bytes) {
                    // Whatever decodes can be applied.
                    let _ = full().apply(LogId::new(1, 1), command);
                }
            }
            None => {
                let mut bytes = full().snapshot().into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = value;
                let _ = ClusterMachine::restore(&bytes[..]);
            }
        }
    }
}
