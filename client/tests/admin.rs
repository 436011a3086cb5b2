//! The admin against a real broker.

mod support;

use std::{collections::BTreeMap, time::Duration};

use millstream_client::{
    ErrorCode,
    admin::{Admin, ConfigChange, ConfigOf, ConfigOrigin, NewTopic, OffsetAt},
    consumer::{Assignor, GroupConfig, GroupConsumer},
};
use support::{cluster, fill, in_time, member, place, topic, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn topics_are_made_grown_configured_cut_and_removed() {
    let admin = Admin::new(cluster());
    let name = topic("admin", 2, &[("retention.ms", "86400000")]).await;
    let again = NewTopic { name: name.clone(), ..NewTopic::default() };
    let refused = admin.create_topic(&again, false).await.expect_err("it is there");
    assert_eq!(refused.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    let only_checked = NewTopic { name: unique("checked"), partitions: Some(1), ..NewTopic::default() };
    admin.create_topic(&only_checked, true).await.expect("could be made");
    admin.grow_topic(&name, 4).await.expect("grown");
    // Kafka's brokers hear of it a little later.
    let grown = async {
        loop {
            let all = admin.cluster().topics().await.expect("topics");
            assert!(all.iter().all(|topic| topic.name != only_checked.name));
            if all.iter().any(|topic| topic.name == name && topic.partitions.len() == 4) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("four partitions", grown).await;

    let of = ConfigOf::Topic(name.clone());
    let change = ConfigChange::Set("max.message.bytes".into(), "123456".into());
    admin.alter_configs(&of, &[change], false).await.expect("changed");
    let changed = async {
        loop {
            let entries = admin.configs(&of).await.expect("described");
            let size = entries.iter().find(|entry| entry.name == "max.message.bytes").expect("it is listed");
            if size.value.as_deref() == Some("123456") {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let entries = in_time("the new value", changed).await;
    let entry = |key: &str| entries.iter().find(|entry| entry.name == key).expect("it is listed");
    assert_eq!(entry("max.message.bytes").origin, ConfigOrigin::Topic);
    assert_eq!(entry("retention.ms").origin, ConfigOrigin::Topic);

    fill(&name, 1, 0, 30).await;
    let one = place(&name, 0);
    assert_eq!(admin.delete_records(&one, 12).await.expect("cut"), 12);
    let found = admin.offsets(vec![one.clone()], OffsetAt::Earliest).await;
    assert_eq!(found[0].1.as_ref().expect("found").expect("an offset").offset, 12);
    let found = admin.offsets(vec![one], OffsetAt::Latest).await;
    assert_eq!(found[0].1.as_ref().expect("found").expect("an offset").offset, 30);
    admin.delete_topic(&name).await.expect("removed");
    let refused = admin.delete_topic(&name).await.expect_err("it is gone");
    assert_eq!(refused.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn groups_are_listed_described_moved_and_removed() {
    let admin = Admin::new(cluster());
    let (topic, group) = (topic("grouped", 1, &[]).await, unique("group"));
    fill(&topic, 1, 0, 10).await;
    let mut reader = GroupConsumer::new(cluster(), member(&group, &topic, Assignor::CooperativeSticky));
    in_time("records", reader.next()).await.expect("records");
    reader.commit().await.expect("committed");
    let described = admin.describe_group(&group).await.expect("described");
    assert_eq!((described.state.as_str(), described.protocol.as_str()), ("Stable", "cooperative-sticky"));
    assert_eq!(described.members[0].assignment, [place(&topic, 0)]);
    let refused = admin.delete_group(&group).await.expect_err("it has a member");
    assert_eq!(refused.code(), Some(ErrorCode::NON_EMPTY_GROUP));
    reader.close().await.expect("left");
    assert!(admin.groups().await.expect("listed").iter().any(|summary| summary.name == group));
    assert_eq!(admin.group_offsets(&group).await.expect("offsets"), BTreeMap::from([(place(&topic, 0), 10)]));
    let moved = BTreeMap::from([(place(&topic, 0), 4)]);
    admin.set_group_offsets(&group, &moved).await.expect("moved");
    assert_eq!(admin.group_offsets(&group).await.expect("offsets"), moved);
    admin.delete_group_offsets(&group, &[place(&topic, 0)]).await.expect("removed");
    assert!(admin.group_offsets(&group).await.expect("offsets").is_empty());

    // A member with a name stays in its group until it is taken out.
    let named = GroupConfig { instance: Some("one".into()), ..member(&group, &topic, Assignor::Range) };
    let mut reader = GroupConsumer::new(cluster(), named);
    in_time("records", reader.next()).await.expect("records");
    reader.close().await.expect("closed");
    let described = admin.describe_group(&group).await.expect("described");
    assert_eq!(described.members[0].instance.as_deref(), Some("one"));
    let refused = admin.remove_member(&group, "two").await.expect_err("there is none");
    assert_eq!(refused.code(), Some(ErrorCode::UNKNOWN_MEMBER_ID));
    admin.remove_member(&group, "one").await.expect("taken out");
    assert!(admin.describe_group(&group).await.expect("described").members.is_empty());
    admin.delete_group(&group).await.expect("removed");
    let gone = async {
        while admin.groups().await.expect("listed").iter().any(|summary| summary.name == group) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("gone", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_cluster_tells_its_brokers() {
    let (id, controller, brokers) = cluster().describe().await.expect("described");
    assert!(id.is_some_and(|id| !id.is_empty()) && controller.is_some());
    assert_eq!(brokers.len(), 1);
    assert_eq!(brokers[0].address, support::bootstrap());
}
