//! Members that come, stay away and go while their groups change, and members that read whatever matches, against a real
//! broker.

mod support;

use std::{collections::BTreeSet, time::Duration};

use millstream_client::{
    ClientConfig, ClientError, Cluster, ErrorCode,
    consumer::{Assignor, Event, GroupConfig, GroupConsumer, Start, TopicPattern},
};
use support::{
    bootstrap, cluster, fill, in_time, member,
    reader::{Reader, until},
    topic, topic_named, unique,
};

const PARTITIONS: i32 = 6;
/// Members that come and go in the test of closing.
const COMINGS: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_member_that_closes_at_any_moment_of_a_rebalance_notes_what_it_read() {
    let (topic, group) = (topic("closing", PARTITIONS, &[]).await, unique("group"));
    fill(&topic, PARTITIONS, 0, 200).await;
    let staying = Reader::start(member(&group, &topic, Assignor::CooperativeSticky));
    until("it reads", || !staying.has().is_empty()).await;
    for n in 0..COMINGS {
        let config = GroupConfig {
            heartbeat_interval: Duration::from_millis(50),
            ..member(&group, &topic, Assignor::CooperativeSticky)
        };
        let mut leaving = GroupConsumer::new(cluster(), config.clone());
        while !matches!(in_time("assigned", leaving.event()).await.expect("a member"), Event::Assigned(_)) {}
        // Its group changes while it reads: what it has read since is to be committed when it closes.
        let coming = Reader::start(config);
        for partition in leaving.assignment() {
            leaving.seek(&partition, Start::Beginning);
        }
        let until_it_leaves = tokio::time::sleep(Duration::from_millis(n * 3));
        let reading = async {
            loop {
                leaving.event().await.expect("a member");
            }
        };
        tokio::select! {
            () = until_it_leaves => {}
            () = reading => {}
        }
        in_time("closed", leaving.close()).await.unwrap_or_else(|error| panic!("close {n}: {error}"));
        coming.stop().await;
    }
    staying.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn an_application_that_asks_for_nothing_loses_its_place_and_gets_one_again_when_it_asks() {
    for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
        let (topic, group) = (topic("away", PARTITIONS, &[]).await, unique("group"));
        fill(&topic, PARTITIONS, 0, 5).await;
        let config = GroupConfig {
            poll_interval_max: Duration::from_secs(1),
            commit_every: None,
            ..member(&group, &topic, assignor)
        };
        let mut away = GroupConsumer::new(cluster(), config.clone());
        assert!(matches!(in_time("assigned", away.event()).await, Ok(Event::Assigned(_))));
        let read = in_time("records", away.next()).await.expect("records");
        // Others wait for their events for as long as they like: that is no absence.
        let other = Reader::start(config);
        until("the other one has all", || other.has().len() == PARTITIONS as usize).await;
        let refused = away.commit().await.expect_err("it is no member");
        assert_eq!(refused.code(), Some(ErrorCode::UNKNOWN_MEMBER_ID), "{refused}");
        let Ok(Event::Overdue { away: time, lost }) = in_time("reported", away.event()).await else {
            panic!("{assignor:?}: nothing reported")
        };
        assert!(time >= Duration::from_secs(1) && time < Duration::from_secs(60), "{time:?}");
        assert!(lost.contains(&read.partition), "{assignor:?}: {lost:?}");
        assert!(away.assignment().is_empty());
        let again = in_time("assigned again", away.event()).await;
        assert!(matches!(&again, Ok(Event::Assigned(partitions)) if !partitions.is_empty()), "{again:?}");
        away.close().await.expect("left");
        other.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn settings_that_cannot_be_are_told_by_the_first_call() {
    let config = GroupConfig { poll_interval_max: Duration::ZERO, ..member("g", "t", Assignor::Range) };
    let error = in_time("reported", GroupConsumer::new(cluster(), config).event()).await;
    assert!(matches!(error, Err(ClientError::Setting { key: "poll_interval_max", .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn topics_that_match_are_read_those_that_are_made_later_too() {
    for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
        let (prefix, group) = (unique("pattern"), unique("group"));
        let config = || GroupConfig {
            pattern: Some(TopicPattern::new(&format!(r"{prefix}\.\d+|__.*")).expect("a pattern")),
            topics: BTreeSet::new(),
            ..member(&group, "", assignor)
        };
        let client = || ClientConfig {
            metadata_age_max: Duration::from_millis(500),
            ..ClientConfig::new(&bootstrap())
        };
        // Neither finds anything yet.
        let (one, two) = (
            Reader::start_in(Cluster::new(client()), config()),
            Reader::start_in(Cluster::new(client()), config()),
        );
        let have = |topics: &[&String]| {
            let mut all = [one.topics(), two.topics()].concat();
            all.sort();
            all.iter().eq(topics.iter().copied())
        };
        let named =
            async |name: &str, partitions| topic_named(&format!("{prefix}.{name}"), partitions, &[]).await;
        let first = named("1", 2).await;
        named("one", 1).await;
        named("12.bak", 1).await;
        until("the first topic is found", || have(&[&first, &first])).await;
        fill(&first, 2, 0, 10).await;
        let second = named("2", 1).await;
        fill(&second, 1, 0, 10).await;
        until("the second one too", || have(&[&first, &first, &second])).await;
        until("all is read", || one.count() + two.count() == 30).await;
        one.stop().await;
        two.stop().await;
    }
}
