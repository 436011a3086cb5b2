//! Topics that grow, go and come back, and lose their beginning, under those who read them, against a real broker.

mod support;

use std::time::Duration;

use millstream_client::{
    ClientConfig, Cluster, ErrorCode,
    admin::Admin,
    consumer::{Assignor, Consumer, ConsumerConfig, GroupConfig, Start, TopicPattern},
};
use support::{
    bootstrap, cluster, fill, in_time, member, place,
    reader::{Reader, until},
    topic, topic_named, unique,
};

/// Records below are removed in the tests of a log that lost its beginning.
const LOG_START: i64 = 10;

/// The same member, which asks for the topic by a pattern.
fn asked_by_pattern(by_name: GroupConfig, topic: &str) -> GroupConfig {
    let pattern = Some(TopicPattern::new(topic).expect("a pattern"));
    GroupConfig { pattern, topics: [].into(), ..by_name }
}

/// A cluster whose topics are looked at often.
fn curious() -> Cluster {
    let metadata_age_max = Duration::from_millis(500);
    Cluster::new(ClientConfig { metadata_age_max, ..ClientConfig::new(&bootstrap()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn partitions_that_are_added_are_read_by_name_and_by_pattern() {
    for by_pattern in [false, true] {
        let (topic, group) = (topic("grows", 1, &[]).await, unique("group"));
        let by_name = member(&group, &topic, Assignor::CooperativeSticky);
        let config = if by_pattern { asked_by_pattern(by_name, &topic) } else { by_name };
        let reader = Reader::start_in(curious(), config);
        fill(&topic, 1, 0, 5).await;
        until("the first is read", || reader.count() == 5).await;
        Admin::new(cluster()).grow_topic(&topic, 3).await.expect("grown");
        until("all are assigned", || reader.has().len() == 3).await;
        fill(&topic, 3, 5, 10).await;
        until("all are read", || reader.count() == 5 + 3 * 5).await;
        let notes = reader.stop().await;
        assert!(notes.read.0.values().all(|times| *times == 1), "by pattern {by_pattern}: none twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_topic_that_is_removed_and_made_again_is_read_from_its_new_beginning() {
    for by_pattern in [false, true] {
        let (topic, group) = (topic("again", 2, &[]).await, unique("group"));
        let consumer = ConsumerConfig { reset: Some(Start::Beginning), ..ConsumerConfig::default() };
        let by_name = GroupConfig { consumer, ..member(&group, &topic, Assignor::Range) };
        let config = if by_pattern { asked_by_pattern(by_name, &topic) } else { by_name };
        let reader = Reader::start_in(curious(), config);
        fill(&topic, 2, 0, 20).await;
        until("all is read", || reader.count() == 40).await;
        let admin = Admin::new(cluster());
        admin.delete_topic(&topic).await.expect("removed");
        // The member hears of it: nothing is left to read.
        until("nothing is read", || reader.has().is_empty()).await;
        topic_named(&topic, 2, &[]).await;
        fill(&topic, 2, 100, 105).await;
        until("what is new is read", || reader.count() == 50).await;
        reader.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn an_offset_before_the_logs_start_is_treated_as_the_policy_says() {
    let topic = topic("cut", 1, &[]).await;
    fill(&topic, 1, 0, 20).await;
    let partition = place(&topic, 0);
    let low = Admin::new(cluster()).delete_records(&partition, LOG_START).await.expect("removed");
    assert_eq!(low, LOG_START);
    for (reset, first) in [
        (Start::Beginning, Some(LOG_START)),
        (Start::Time(0), Some(LOG_START)),
        (Start::Offset(15), Some(15)),
        (Start::End, None),
    ] {
        let mut consumer = reading(&topic, Some(reset));
        assert!(consumer.seek(&partition, Start::Offset(3)));
        let end = if first.is_none() {
            // It goes on with what is written from now on.
            in_time("where it goes on", async {
                while consumer.position(&partition) == Some(3) {
                    let _ = tokio::time::timeout(Duration::from_millis(20), consumer.next()).await;
                }
            })
            .await;
            let end = consumer.position(&partition);
            fill(&topic, 1, 100, 101).await;
            end
        } else {
            first
        };
        let chunk = in_time("records", consumer.next()).await.expect("records");
        assert_eq!(chunk.records.first().map(|record| record.offset), end, "{reset:?}");
    }
    let mut consumer = reading(&topic, None);
    assert!(consumer.seek(&partition, Start::Offset(3)));
    let refused = in_time("reported", consumer.next()).await.expect_err("there is no policy");
    assert_eq!(refused.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE), "{refused}");
    assert!(consumer.seek(&partition, Start::Offset(12)));
    loop {
        // The error may have been reported twice before the seek.
        if let Ok(chunk) = in_time("records", consumer.next()).await {
            assert_eq!(chunk.records[0].offset, 12);
            break;
        }
    }
}

fn reading(topic: &str, reset: Option<Start>) -> Consumer {
    let mut consumer = Consumer::new(cluster(), ConsumerConfig { reset, ..ConsumerConfig::default() });
    consumer.assign([(place(topic, 0), Start::End)]);
    consumer
}
