//! Members of groups against a real broker, alone, together, and together with Kafka's own consumer.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use millstream_client::{
    ClientError, ErrorCode,
    consumer::{Assignor, Event, GroupConfig, GroupConsumer, TopicPartition},
};
use support::{
    bootstrap, cluster, fill, in_time, member, number, place,
    reader::{Notes, Reader, until},
    topic, unique,
};

const PARTITIONS: i32 = 6;
/// A rebalance that nothing holds up is over by then.
const SOON: Duration = Duration::from_secs(5);

/// Whether members share all partitions, each as many.
fn share(all: &[BTreeSet<i32>]) -> bool {
    let together: Vec<i32> = all.iter().flatten().copied().collect();
    let each = PARTITIONS as usize / all.len();
    together.len() == PARTITIONS as usize
        && together.iter().collect::<BTreeSet<_>>().len() == together.len()
        && all.iter().all(|has| has.len() == each)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn every_assignor_shares_the_partitions_and_nothing_is_left_out() {
    for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky, Assignor::CooperativeSticky] {
        let (topic, group) = (topic("group", PARTITIONS, &[]).await, unique("group"));
        fill(&topic, PARTITIONS, 0, 50).await;
        let one = Reader::start(member(&group, &topic, assignor));
        until("one has all", || one.has().len() == PARTITIONS as usize).await;
        let two = Reader::start(member(&group, &topic, assignor));
        until("both share", || share(&[one.has(), two.has()])).await;
        let kept = one.has();
        fill(&topic, PARTITIONS, 50, 100).await;
        let read = |notes: &Notes, from, to| {
            (from..to).all(|n| {
                (0..PARTITIONS).all(|p| !notes.has.contains(&p) || notes.read.0.contains_key(&(p, n)))
            })
        };
        until("the rest is read", || {
            [&one, &two].iter().all(|reader| read(&reader.notes.lock().expect("not poisoned"), 50, 100))
        })
        .await;
        let first = one.stop().await;
        until("the other one has all", || two.has().len() == PARTITIONS as usize).await;
        fill(&topic, PARTITIONS, 100, 110).await;
        until("the last are read", || read(&two.notes.lock().expect("not poisoned"), 100, 110)).await;
        let second = two.stop().await;
        let mut all = first.read.0;
        second.read.0.into_iter().for_each(|(key, count)| *all.entry(key).or_default() += count);
        assert_eq!(all.len(), PARTITIONS as usize * 110, "{assignor:?}");
        assert!(
            all.values().all(|count| *count == 1),
            "{assignor:?}: what was read was committed before it moved"
        );
        if assignor == Assignor::CooperativeSticky {
            let revoked: Vec<i32> =
                first.events.iter().flatten().filter(|n| **n < 0).map(|n| -n - 1).collect();
            assert_eq!(revoked.len(), 3, "only what moved was given up: {:?}", first.events);
            assert!(revoked.iter().all(|n| !kept.contains(n)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn offsets_are_committed_on_request_and_read_on_from() {
    let (topic, group) = (topic("commit", 1, &[]).await, unique("group"));
    fill(&topic, 1, 0, 60).await;
    let quiet = || GroupConfig { commit_every: None, ..member(&group, &topic, Assignor::Range) };
    let one = place(&topic, 0);
    let committed =
        async |member: &GroupConsumer| member.committed(std::slice::from_ref(&one)).await.expect("committed");
    let mut first = GroupConsumer::new(cluster(), quiet());
    let chunk = in_time("records", first.next()).await.expect("records");
    assert!(committed(&first).await.is_empty());
    first.read_up_to(&chunk.partition, 7);
    first.commit().await.expect("committed");
    assert_eq!(committed(&first).await, BTreeMap::from([(one.clone(), 7)]));
    first.read_up_to(&chunk.partition, 9);
    first.commit_async().await.expect("on its way").wait().await.expect("committed");
    assert_eq!(committed(&first).await[&one], 7, "less was said to be read before");
    first.commit_offsets(BTreeMap::from([(one.clone(), 20)])).await.expect("committed");
    assert_eq!(committed(&first).await[&one], 20);
    first.close().await.expect("left");
    let mut second = GroupConsumer::new(cluster(), quiet());
    {
        let mut records = std::pin::pin!(second.records());
        let (_, record) = in_time("a record", records.next()).await.expect("goes on").expect("a record");
        assert_eq!(record.offset, 20, "nothing was committed at the end, as nothing is committed by itself");
        let (_, record) = in_time("a record", records.next()).await.expect("goes on").expect("a record");
        assert_eq!(record.offset, 21);
    }
    second.commit().await.expect("committed");
    assert_eq!(committed(&second).await[&one], 21, "the second record was given and is not read yet");
    assert!(second.seek(&one, millstream_client::consumer::Start::Offset(3)));
    second.commit().await.expect("committed");
    assert_eq!(committed(&second).await[&one], 3);
    let chunk = in_time("records", second.next()).await.expect("records");
    assert_eq!((number(&chunk.records[0].value), second.assignment()), (3, vec![one.clone()]));
    second.close().await.expect("left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn what_is_revoked_can_be_committed_before_it_goes_and_seeks_hold_before_the_first_record() {
    let (topic, group) = (topic("revoke", PARTITIONS, &[]).await, unique("group"));
    fill(&topic, PARTITIONS, 0, 30).await;
    let config = GroupConfig { commit_every: None, ..member(&group, &topic, Assignor::CooperativeSticky) };
    let mut first = GroupConsumer::new(cluster(), config);
    let Event::Assigned(assigned) = in_time("assigned", first.event()).await.expect("a member") else {
        panic!("records before they were assigned")
    };
    for partition in &assigned {
        first.seek(partition, millstream_client::consumer::Start::Offset(25));
    }
    let second = Reader::start(member(&group, &topic, Assignor::CooperativeSticky));
    let mut revoked = loop {
        match in_time("an event", first.event()).await.expect("a member") {
            Event::Records(chunk) => assert!(chunk.records.iter().all(|record| record.offset >= 25)),
            Event::Revoked(partitions) => break partitions,
            other => panic!("{other:?}"),
        }
    };
    // The others wait while this member makes up its mind: for three heartbeats nothing may happen.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(second.has().is_empty());
    let offsets: BTreeMap<_, _> = revoked.iter().map(|partition| (partition.clone(), 28)).collect();
    first.commit_offsets(offsets).await.expect("committed while it is still ours");
    let going_on = tokio::spawn(async move { while first.event().await.is_ok() {} });
    until("the other one has its share", || second.has().len() == revoked.len()).await;
    let read = |partition: &TopicPartition, n| {
        second.notes.lock().expect("not poisoned").read.0.contains_key(&(partition.partition, n))
    };
    until("the rest is read", || revoked.iter().all(|partition| read(partition, 29))).await;
    revoked.retain(|partition| read(partition, 27));
    assert_eq!(revoked, [], "the other one began with what was committed");
    going_on.abort();
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_member_with_a_name_comes_back_to_its_own_partitions_and_nobody_notices() {
    let (topic, group) = (topic("named", PARTITIONS, &[]).await, unique("group"));
    let named = |name: &str| GroupConfig {
        instance: Some(name.to_string()),
        ..member(&group, &topic, Assignor::Range)
    };
    let one = Reader::start(named("one"));
    let two = Reader::start(named("two"));
    until("both share", || share(&[one.has(), two.has()])).await;
    let (had, events) = (two.has(), one.notes.lock().expect("not poisoned").events.len());
    two.stop().await;
    let back = Reader::start(named("two"));
    until("it is back", || back.has() == had).await;
    fill(&topic, PARTITIONS, 0, 5).await;
    until("both read", || {
        let count = |reader: &Reader| reader.notes.lock().expect("not poisoned").read.0.len();
        count(&one) + count(&back) == PARTITIONS as usize * 5
    })
    .await;
    assert_eq!(
        one.notes.lock().expect("not poisoned").events.len(),
        events,
        "the other one was not disturbed"
    );
    one.stop().await;
    back.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn a_reader_that_is_too_slow_loses_its_place_and_hears_of_it() {
    for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
        let (topic, group) = (topic("slow", PARTITIONS, &[]).await, unique("group"));
        let hasty =
            GroupConfig { rebalance_timeout: Duration::from_secs(1), ..member(&group, &topic, assignor) };
        let mut slow = GroupConsumer::new(cluster(), hasty.clone());
        assert!(matches!(in_time("assigned", slow.event()).await, Ok(Event::Assigned(_))));
        let other = Reader::start(hasty);
        until("the other one has all", || other.has().len() == PARTITIONS as usize).await;
        in_time("the slow one learns that it is out", until_it_is_out(&mut slow, &topic)).await;
        match in_time("lost", slow.event()).await {
            Ok(Event::Lost(lost)) => assert_eq!(lost.len(), PARTITIONS as usize, "{assignor:?}"),
            other => panic!("{assignor:?}: {other:?}"),
        }
        let again = in_time("assigned again", slow.event()).await;
        assert!(matches!(&again, Ok(Event::Assigned(partitions)) if partitions.len() == 3), "{again:?}");
        slow.close().await.expect("left");
        other.stop().await;
    }
}

/// Waits until a member knows that its group goes on without it, without asking it for an event: from then on it refuses
/// commits itself. Before that the broker refuses them, without a reason.
async fn until_it_is_out(member: &mut GroupConsumer, topic: &str) {
    let is_own = |error: ClientError| {
        matches!(error, ClientError::Refused { code: ErrorCode::UNKNOWN_MEMBER_ID, reason: Some(_), .. })
    };
    while !member.commit_offsets(BTreeMap::from([(place(topic, 0), 0)])).await.is_err_and(is_own) {
        // Longer than the heartbeat interval: each commit begins it anew while partitions are being given up.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker: client/tests/run"]
async fn members_of_one_cluster_do_not_wait_for_each_others_joins() {
    let (topic, group, cluster) = (topic("one", PARTITIONS, &[]).await, unique("group"), cluster());
    let start = || Reader::start_in(cluster.clone(), member(&group, &topic, Assignor::Range));
    let one = start();
    until("one has all", || one.has().len() == PARTITIONS as usize).await;
    let (two, three) = (start(), start());
    let shared = || share(&[one.has(), two.has(), three.has()]);
    // Well within the session timeout, after which a group goes on without those that are stuck.
    let looking = tokio::time::timeout(SOON, until("all share", shared)).await;
    assert!(looking.is_ok(), "members of one cluster hold each other up");
    for reader in [one, two, three] {
        reader.stop().await;
    }
}

/// Kafka's own consumer, which tells what happens to it line by line.
struct Java {
    child: Child,
    notes: Arc<Mutex<JavaNotes>>,
}

#[derive(Default)]
struct JavaNotes {
    has: BTreeSet<i32>,
    revoked: usize,
    records: u64,
}

impl Drop for Java {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Java {
    fn start(group: &str, topic: &str, assignor: &str) -> Java {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/kafka/tool");
        let assignor = format!("org.apache.kafka.clients.consumer.{assignor}");
        let mut child = Command::new(tool)
            .args([
                "verifiable-consumer",
                "--bootstrap-server",
                &bootstrap(),
                "--topic",
                topic,
                "--group-id",
                group,
            ])
            .args([
                "--assignment-strategy",
                &assignor,
                "--session-timeout",
                "10000",
                "--reset-policy",
                "earliest",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Kafka's tools, which tests/install fetches");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let notes = Arc::<Mutex<JavaNotes>>::default();
        let shared = notes.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().expect("not poisoned").take(&line);
            }
        });
        Java { child, notes }
    }

    fn has(&self) -> BTreeSet<i32> {
        self.notes.lock().expect("not poisoned").has.clone()
    }
}

impl JavaNotes {
    /// A line of JSON, of which the event's name, the partitions' numbers and the count are looked for.
    fn take(&mut self, line: &str) {
        let partitions = || {
            line.split("\"partition\":")
                .skip(1)
                .filter_map(|rest| rest.split([',', '}']).next()?.trim().parse::<i32>().ok())
        };
        if line.contains("\"name\":\"partitions_assigned\"") {
            self.has.extend(partitions());
        } else if line.contains("\"name\":\"partitions_revoked\"") {
            self.has.retain(|n| !partitions().any(|revoked| revoked == *n));
            self.revoked += partitions().count();
        } else if line.contains("\"name\":\"records_consumed\"") {
            let count = line
                .split("\"count\":")
                .nth(1)
                .and_then(|rest| rest.split([',', '}']).next()?.parse::<u64>().ok());
            self.records += count.unwrap_or_default();
        }
    }
}

/// Ours and Kafka's consumers in one group, with each of them as the leader that gives the partitions out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker and Kafka's tools: client/tests/run"]
async fn a_group_can_mix_our_members_with_kafkas() {
    tokio::join!(
        mix(Assignor::CooperativeSticky, "CooperativeStickyAssignor"),
        mix(Assignor::RoundRobin, "RoundRobinAssignor"),
        mix(Assignor::Sticky, "StickyAssignor"),
        mix(Assignor::Range, "RangeAssignor"),
    );
}

async fn mix(assignor: Assignor, java_assignor: &str) {
    let (topic, group) = (topic("mixed", PARTITIONS, &[]).await, unique("mixed"));
    let first = Reader::start(member(&group, &topic, assignor));
    until("ours has all", || first.has().len() == PARTITIONS as usize).await;
    let java = Java::start(&group, &topic, java_assignor);
    until("both share, ours leads", || share(&[first.has(), java.has()])).await;
    let second = Reader::start(member(&group, &topic, assignor));
    until("three share", || share(&[first.has(), java.has(), second.has()])).await;
    fill(&topic, PARTITIONS, 0, 20).await;
    // The leader goes: Kafka's consumer or the other one of ours leads now.
    let notes = first.stop().await;
    until("two share", || share(&[java.has(), second.has()])).await;
    fill(&topic, PARTITIONS, 20, 40).await;
    until("all is read", || {
        let ours = second.notes.lock().expect("not poisoned").read.0.len() + notes.read.0.len();
        ours as u64 + java.notes.lock().expect("not poisoned").records >= PARTITIONS as u64 * 40
    })
    .await;
    let others = second.stop().await;
    if assignor == Assignor::CooperativeSticky {
        let revoked = |notes: &Notes| notes.events.iter().flatten().filter(|n| **n < 0).count();
        assert_eq!(revoked(&notes), 4, "three to Kafka's member, one to our other one: {:?}", notes.events);
        assert_eq!(revoked(&others), 0, "{:?}", others.events);
        assert_eq!(java.notes.lock().expect("not poisoned").revoked, 1, "Kafka's gave up one");
    }
    // Kafka's leads, and ours joins it.
    until("kafka's has all", || java.has().len() == PARTITIONS as usize).await;
    let third = Reader::start(member(&group, &topic, assignor));
    until("both share, kafka's leads", || share(&[java.has(), third.has()])).await;
    third.stop().await;
}
