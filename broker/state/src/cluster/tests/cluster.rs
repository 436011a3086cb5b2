//! Bootstrap, brokers, producer ids, configurations, features.

use millstream_model::NodeId;

use super::*;
use crate::cluster::{
    Broker, ClusterError, SHARDS_MAX, encode_allocate_producer_ids, encode_alter_broker_configs,
    encode_register_broker, encode_unregister_broker, encode_update_features,
};

fn broker(host: &str) -> Broker {
    Broker { host: host.into(), port: 9092, rack: Some("r1".into()) }
}

#[test]
fn a_cluster_is_bootstrapped_once() {
    let mut machine = ClusterMachine::new();
    assert!(!machine.is_bootstrapped());
    let bootstrapped = Ok(ClusterReply::Bootstrapped { cluster_id: "first".into() });
    assert_eq!(apply(&mut machine, encode_bootstrap("first", 4)), bootstrapped);
    assert_eq!(
        apply(&mut machine, encode_bootstrap("second", 8)),
        bootstrapped,
        "the reply has the existing id"
    );
    assert_eq!((machine.cluster_id(), machine.shard_count()), ("first", 4));
}

#[test]
fn a_cluster_has_shards_but_not_too_many() {
    for shards in [0, SHARDS_MAX + 1] {
        let refused = apply(&mut ClusterMachine::new(), encode_bootstrap("c", shards));
        assert_eq!(refused, Err(ClusterError::InvalidShards { shards, shards_max: SHARDS_MAX }));
    }
    apply(&mut ClusterMachine::new(), encode_bootstrap("c", SHARDS_MAX)).expect("bootstrapped");
}

#[test]
fn brokers_come_change_and_go() {
    let mut machine = cluster();
    for (node, host) in [(3, "c"), (1, "a"), (3, "d")] {
        apply(&mut machine, encode_register_broker(NodeId(node), &broker(host))).expect("registered");
    }
    let listed: Vec<_> = machine.brokers().map(|(node, broker)| (node.0, broker.host.as_str())).collect();
    assert_eq!(listed, [(1, "a"), (3, "d")]);
    apply(&mut machine, encode_unregister_broker(NodeId(3))).expect("there");
    let again = apply(&mut machine, encode_unregister_broker(NodeId(3)));
    assert_eq!(again, Err(ClusterError::UnknownBroker { node: NodeId(3) }));
    assert_eq!(machine.brokers().len(), 1);
}

#[test]
fn blocks_of_producer_ids_do_not_overlap() {
    let mut machine = cluster();
    let mut next = |count| match apply(&mut machine, encode_allocate_producer_ids(count)) {
        Ok(ClusterReply::ProducerIds { first }) => first,
        other => panic!("{other:?}"),
    };
    assert_eq!([next(1000), next(1), next(1000)], [0, 1000, 1001]);
    let mut restored =
        ClusterMachine::restore(&machine.snapshot().into_bytes()[..]).expect("our own snapshot");
    let after = apply(&mut restored, encode_allocate_producer_ids(5));
    assert_eq!(after, Ok(ClusterReply::ProducerIds { first: 2001 }));
}

#[test]
fn producer_ids_end_without_going_round() {
    let mut machine = cluster();
    machine.next_producer = i64::MAX - 10;
    assert_eq!(apply(&mut machine, encode_allocate_producer_ids(11)), Err(ClusterError::NoProducerIds));
    apply(&mut machine, encode_allocate_producer_ids(10)).expect("enough are left");
}

#[test]
fn configurations_of_all_brokers_and_of_one_are_apart() {
    let mut machine = cluster();
    let mut alter = |node: Option<u64>, pairs: &[(&str, Option<&str>)]| {
        let command = encode_alter_broker_configs(node.map(NodeId), &changes(pairs));
        assert_eq!(apply(&mut machine, command), Ok(ClusterReply::Done));
        machine.broker_configs(node.map(NodeId)).cloned()
    };
    assert_eq!(alter(None, &[("k", Some("1"))]), Some(texts(&[("k", "1")])));
    assert_eq!(alter(Some(0), &[("k", Some("2")), ("l", Some("3"))]), Some(texts(&[("k", "2"), ("l", "3")])));
    assert_eq!(alter(None, &[("x", None)]), Some(texts(&[("k", "1")])));
    assert_eq!(alter(None, &[("k", None)]), None, "nothing is kept of what has no key left");
    assert_eq!(machine.broker_configs(Some(NodeId(0))), Some(&texts(&[("k", "2"), ("l", "3")])));
}

#[test]
fn a_broker_that_goes_takes_its_configuration_along() {
    let mut machine = cluster();
    apply(&mut machine, encode_register_broker(NodeId(2), &broker("b"))).expect("registered");
    let set = changes(&[("k", Some("1"))]);
    apply(&mut machine, encode_alter_broker_configs(Some(NodeId(2)), &set)).expect("set");
    apply(&mut machine, encode_unregister_broker(NodeId(2))).expect("there");
    assert_eq!(machine.broker_configs(Some(NodeId(2))), None);
}

#[test]
fn features_have_levels_and_zero_takes_one_away() {
    let mut machine = cluster();
    let levels = [("metadata.version".to_string(), 25), ("group.version".to_string(), 1)];
    apply(&mut machine, encode_update_features(&levels)).expect("set");
    assert_eq!(machine.features().collect::<Vec<_>>(), [("group.version", 1), ("metadata.version", 25)]);
    apply(&mut machine, encode_update_features(&[("group.version".into(), 0)])).expect("taken away");
    assert_eq!(machine.features().collect::<Vec<_>>(), [("metadata.version", 25)]);
}
