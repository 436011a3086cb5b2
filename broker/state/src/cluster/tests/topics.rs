//! Topics: creation, growth, configuration, deletion.

use std::collections::BTreeSet;

use millstream_model::{PartitionId, RaftGroupId};

use super::*;
use crate::cluster::{
    ClusterError, PARTITIONS_MAX, TopicNameError, encode_adopt_partition, encode_alter_topic_configs,
    encode_create_partitions, encode_delete_topic,
};

#[test]
fn a_topic_is_as_it_was_asked_for() {
    let mut machine = cluster();
    let configs = texts(&[("retention.ms", "5"), ("cleanup.policy", "compact")]);
    let made =
        created(apply(&mut machine, encode_create_topic("orders", topic_id(1), (6, 16), &configs, 1234)));
    let topic = machine.topic("orders").expect("it is there");
    assert_eq!(
        (topic.name.as_str(), topic.id, topic.created_ms, topic.internal),
        ("orders", topic_id(1), 1234, false)
    );
    assert_eq!(topic.configs, configs);
    let recorded: Vec<_> = topic
        .partitions
        .iter()
        .map(|partition| {
            let extent = partition.extents.last();
            assert_eq!((extent.start, extent.epoch, partition.extents.count()), (0, 0, 1));
            (partition.id.0, extent.shard.0)
        })
        .collect();
    assert_eq!(recorded, made);
    assert_eq!(made.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        made.iter().map(|(_, shard)| *shard).collect::<BTreeSet<_>>().len(),
        6,
        "each in another shard"
    );
}

#[test]
fn a_topic_is_spread_over_no_more_shards_than_it_may() {
    let mut machine = cluster();
    let configs = BTreeMap::new();
    let made = created(apply(&mut machine, encode_create_topic("a", topic_id(1), (6, 2), &configs, 0)));
    let shards: BTreeSet<u32> = made.iter().map(|(_, shard)| *shard).collect();
    assert_eq!(shards.len(), 2);
    let more = created(apply(&mut machine, encode_create_partitions("a", 12, 2)));
    assert!(more.iter().all(|(_, shard)| shards.contains(shard)), "{more:?} next to {made:?}");
    let wider = created(apply(&mut machine, encode_create_partitions("a", 24, 4)));
    let all: BTreeSet<u32> = wider.iter().map(|(_, shard)| *shard).chain(shards).collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn internal_topics_are_known_by_their_names() {
    let mut machine = cluster();
    created(create(&mut machine, "__consumer_offsets", 1, 1));
    created(create(&mut machine, "__mine", 2, 1));
    assert!(machine.topic("__consumer_offsets").expect("there").internal);
    assert!(!machine.topic("__mine").expect("there").internal);
}

#[test]
fn partition_ids_are_never_given_twice() {
    let mut machine = cluster();
    assert_eq!(created(create(&mut machine, "a", 1, 3)).last().map(|p| p.0), Some(3));
    apply(&mut machine, encode_delete_topic("a")).expect("removed");
    assert_eq!(created(create(&mut machine, "a", 2, 2)).iter().map(|p| p.0).collect::<Vec<_>>(), [4, 5]);
    let restored = ClusterMachine::restore(&machine.snapshot().into_bytes()[..]).expect("our own snapshot");
    machine = restored;
    apply(&mut machine, encode_delete_topic("a")).expect("removed");
    assert_eq!(created(create(&mut machine, "a", 3, 1))[0].0, 6);
}

#[test]
fn a_name_is_taken_once() {
    let mut machine = cluster();
    created(create(&mut machine, "a", 1, 1));
    assert_eq!(create(&mut machine, "a", 2, 1), Err(ClusterError::TopicExists { name: "a".into() }));
    apply(&mut machine, encode_delete_topic("a")).expect("removed");
    created(create(&mut machine, "a", 2, 1));
}

#[test]
fn names_that_differ_only_in_dots_and_underscores_collide() {
    let mut machine = cluster();
    created(create(&mut machine, "a.b_c", 1, 1));
    let collides =
        |name: &str| Err(ClusterError::TopicNameCollides { name: name.into(), existing: "a.b_c".into() });
    for name in ["a_b_c", "a_b.c", "a.b.c"] {
        assert_eq!(create(&mut machine, name, 2, 1), collides(name));
        assert_eq!(machine.collides_with(name), Some("a.b_c"));
    }
    assert_eq!(machine.collides_with("a.b_c"), None, "no name collides with itself");
    created(create(&mut machine, "a-b-c", 2, 1));
    let mut restored =
        ClusterMachine::restore(&machine.snapshot().into_bytes()[..]).expect("our own snapshot");
    assert_eq!(create(&mut restored, "a_b_c", 3, 1), collides("a_b_c"));
    apply(&mut restored, encode_delete_topic("a.b_c")).expect("removed");
    created(create(&mut restored, "a_b_c", 3, 1));
}

#[test]
fn what_is_no_name_is_refused() {
    let mut machine = cluster();
    assert_eq!(create(&mut machine, "..", 1, 1), Err(TopicNameError::Dots.into()));
    assert_eq!(create(&mut machine, "", 1, 1), Err(TopicNameError::Empty.into()));
    assert_eq!(create(&mut machine, "a b", 1, 1), Err(TopicNameError::Character(' ').into()));
}

#[test]
fn ids_are_neither_zero_nor_shared() {
    let mut machine = cluster();
    assert_eq!(create(&mut machine, "a", 0, 1), Err(ClusterError::TopicIdTaken { id: topic_id(0) }));
    created(create(&mut machine, "a", 1, 1));
    assert_eq!(create(&mut machine, "b", 1, 1), Err(ClusterError::TopicIdTaken { id: topic_id(1) }));
    apply(&mut machine, encode_delete_topic("a")).expect("removed");
    created(create(&mut machine, "b", 1, 1));
}

#[test]
fn there_are_no_topics_before_the_cluster() {
    let mut machine = ClusterMachine::new();
    assert_eq!(create(&mut machine, "a", 1, 1), Err(ClusterError::NotBootstrapped));
}

#[test]
fn a_topic_has_at_least_one_partition_and_the_cluster_not_too_many() {
    let mut machine = cluster();
    assert_eq!(create(&mut machine, "a", 1, 0), Err(ClusterError::InvalidPartitions { have: 0, wanted: 0 }));
    created(create(&mut machine, "a", 1, 1));
    let too_many =
        |have, more| Err(ClusterError::TooManyPartitions { have, more, partitions_max: PARTITIONS_MAX });
    assert_eq!(create(&mut machine, "b", 2, PARTITIONS_MAX as u32), too_many(1, PARTITIONS_MAX));
    assert_eq!(create(&mut machine, "b", 2, u32::MAX), too_many(1, u32::MAX as usize));
    let grow = encode_create_partitions("a", PARTITIONS_MAX as u32 + 1, 16);
    assert_eq!(apply(&mut machine, grow), too_many(1, PARTITIONS_MAX));
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let mut machine = cluster();
    let first = created(create(&mut machine, "a", 1, 4));
    created(create(&mut machine, "b", 2, 1));
    let more = created(apply(&mut machine, encode_create_partitions("a", 16, 16)));
    assert_eq!(more.iter().map(|p| p.0).collect::<Vec<_>>(), (6..18).collect::<Vec<_>>());
    let shards: BTreeSet<u32> = first.iter().chain(&more).map(|p| p.1).collect();
    assert_eq!(shards.len(), 16, "one in each shard");
    assert_eq!(machine.topic("a").expect("there").partitions.len(), 16);
    for wanted in [0, 15, 16] {
        let refused = apply(&mut machine, encode_create_partitions("a", wanted, 16));
        assert_eq!(refused, Err(ClusterError::InvalidPartitions { have: 16, wanted: wanted as usize }));
    }
    let unknown = apply(&mut machine, encode_create_partitions("c", 5, 16));
    assert_eq!(unknown, Err(ClusterError::UnknownTopic { name: "c".into() }));
}

#[test]
fn removing_a_topic_names_what_its_shards_have_to_drop() {
    let mut machine = cluster();
    let made = created(create(&mut machine, "a", 1, 5));
    let Ok(ClusterReply::Deleted { partitions }) = apply(&mut machine, encode_delete_topic("a")) else {
        panic!("it is there");
    };
    assert_eq!(partitions.iter().map(|(id, shard)| (id.0, shard.0)).collect::<Vec<_>>(), made);
    assert_eq!((machine.topics().len(), machine.partition_count()), (0, 0));
    let again = apply(&mut machine, encode_delete_topic("a"));
    assert_eq!(again, Err(ClusterError::UnknownTopic { name: "a".into() }));
}

#[test]
fn keys_are_set_and_taken_away() {
    let mut machine = cluster();
    created(create(&mut machine, "a", 1, 1));
    let mut alter = |pairs: &[(&str, Option<&str>)]| {
        let done = apply(&mut machine, encode_alter_topic_configs("a", &changes(pairs)));
        assert_eq!(done, Ok(ClusterReply::Done));
        machine.topic("a").expect("there").configs.clone()
    };
    assert_eq!(alter(&[("k", Some("1")), ("l", Some("2"))]), texts(&[("k", "1"), ("l", "2")]));
    assert_eq!(alter(&[("k", Some("3")), ("l", None), ("m", None)]), texts(&[("k", "3")]));
    let unknown = apply(&mut machine, encode_alter_topic_configs("b", &[]));
    assert_eq!(unknown, Err(ClusterError::UnknownTopic { name: "b".into() }));
}

#[test]
fn topics_are_listed_by_name() {
    let mut machine = cluster();
    for (id, name) in (1..).zip(["c", "a", "B", "b"]) {
        created(create(&mut machine, name, id, 1));
    }
    assert_eq!(machine.topics().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["B", "a", "b", "c"]);
}

#[test]
fn loads_stay_even_while_topics_come_and_go() {
    let mut machine = cluster();
    for round in 0..40u8 {
        created(create(&mut machine, &format!("t{round}"), round + 1, 1 + u32::from(round) % 7));
        if round % 3 == 2 {
            apply(&mut machine, encode_delete_topic(&format!("t{}", round - 2))).expect("removed");
        }
    }
    let mut loads = [0usize; 16];
    for topic in machine.topics() {
        topic.partitions.iter().for_each(|p| loads[p.extents.last().shard.0 as usize - 1] += 1);
    }
    let total: usize = loads.iter().sum();
    assert!(loads.iter().all(|load| *load <= total.div_ceil(16) + 2), "{loads:?}");
}

#[test]
fn a_hundred_thousand_partitions_fit() {
    let mut machine = cluster();
    for n in 0..10 {
        created(create(&mut machine, &format!("t{n}"), n + 1, 10_000));
    }
    assert_eq!(machine.partition_count(), PARTITIONS_MAX);
    let snapshot = machine.snapshot().into_bytes();
    assert!(snapshot.len() < 3 << 20, "{} bytes", snapshot.len());
    assert!(std::mem::size_of::<crate::cluster::Partition>() <= 40);
    assert_eq!(ClusterMachine::restore(&snapshot[..]).expect("our own").snapshot().into_bytes(), snapshot);
}

#[test]
fn a_partition_that_was_never_given_gets_a_topic_and_its_id_is_not_given_again() {
    let mut machine = cluster();
    created(create(&mut machine, "a", 1, 3));
    let mut adopt = |name: &str, id: u8, partition: u64, shard: u32| {
        let place = (PartitionId(partition), RaftGroupId(shard));
        apply(&mut machine, encode_adopt_partition(name, topic_id(id), place, 7))
    };
    for (partition, shard) in [(3, 1), (9, 0), (9, 9999), (u64::MAX, 1)] {
        let refused =
            ClusterError::NotAnOrphan { partition: PartitionId(partition), shard: RaftGroupId(shard) };
        assert_eq!(adopt("b", 2, partition, shard), Err(refused));
    }
    assert_eq!(adopt("a", 2, 9, 2), Err(ClusterError::TopicExists { name: "a".into() }));
    assert_eq!(created(adopt("b", 2, 9, 2)), [(9, 2)]);
    assert_eq!(created(create(&mut machine, "c", 3, 1))[0].0, 10);
    let topic = machine.topic("b").expect("it is there");
    assert_eq!((topic.partitions.len(), topic.created_ms), (1, 7));
}
