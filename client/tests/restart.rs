//! A broker that is killed and comes back, under a producer and a group that go on.

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use millstream_client::{
    ClientConfig, Cluster,
    admin::{Admin, NewTopic},
    consumer::{Assignor, Consumer, ConsumerConfig, GroupConfig, GroupConsumer, Start},
    producer::{DeliveryError, Producer, ProducerConfig, Record},
};
use support::{in_time, member, number, place};
use tokio::{
    net::TcpListener,
    sync::{
        oneshot::{self, error::TryRecvError},
        watch,
    },
};

const PARTITIONS: i32 = 3;
const KILLS: usize = 3;
/// Records that the group reads before each kill, and after the last one.
const RECORDS_BETWEEN_KILLS: u32 = 1000;

/// A broker of its own, killed at the end.
struct Broker {
    child: Child,
    address: String,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    fn start(folder: &Path, address: &str) -> Broker {
        let program = std::env::var("MILLSTREAM_BIN").expect("MILLSTREAM_BIN=the broker's program");
        let mut child = Command::new(program)
            .args(["serve", "--kafka-addr", address, "--http-addr", "127.0.0.1:0", "--data-dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let ready = |line: &String| {
            Some(line.strip_prefix("millstream ready kafka=")?.split(' ').next()?.to_string())
        };
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| ready(&line)).expect("ready");
        std::thread::spawn(move || lines.for_each(drop));
        Broker { child, address }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker's program: client/tests/run"]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing_and_gets_nothing_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut broker = Broker::start(&data, "127.0.0.1:0");
    let address = broker.address.clone();
    let cluster = || Cluster::new(ClientConfig::new(&address));
    let new = NewTopic { name: "t".into(), partitions: Some(PARTITIONS), ..NewTopic::default() };
    Admin::new(cluster()).create_topic(&new, false).await.expect("created");

    let ((stop_tx, stop_rx), (read_tx, mut read_rx)) = (oneshot::channel(), watch::channel(0));
    let (total_tx, total_rx) = watch::channel(None);
    let producing = tokio::spawn(produce(cluster(), stop_rx));
    let reading = tokio::spawn(read_as_member(cluster(), read_tx, total_rx));
    for _ in 0..KILLS {
        more_is_read(&mut read_rx).await;
        drop(broker);
        broker = Broker::start(&data, &address);
    }
    more_is_read(&mut read_rx).await;
    drop(stop_tx);
    let total = in_time("all delivered", producing).await.expect("no panic");
    total_tx.send_replace(Some(total));
    let seen = in_time("all read", reading).await.expect("no panic");
    assert!((0..total).all(|n| seen.contains_key(&n)), "the group missed none");

    let mut log = BTreeMap::<i32, Vec<u32>>::new();
    let mut consumer = Consumer::new(cluster(), ConsumerConfig::default());
    consumer.assign((0..PARTITIONS).map(|partition| (place("t", partition), Start::Beginning)));
    while log.values().map(Vec::len).sum::<usize>() < total as usize {
        let chunk = in_time("records", consumer.next()).await.expect("records");
        let numbers = chunk.records.iter().map(|record| number(&record.value));
        log.entry(chunk.partition.partition).or_default().extend(numbers);
    }
    assert!(log.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "in order, none twice");
}

/// Waits until the group has read some more.
async fn more_is_read(read: &mut watch::Receiver<u32>) {
    let wanted = *read.borrow() + RECORDS_BETWEEN_KILLS;
    in_time("more is read", read.wait_for(|read| *read >= wanted)).await.expect("the group reads on");
}

/// Numbered records, some each millisecond until it is stopped, so that every kill hits some of them; their number.
async fn produce(cluster: Cluster, mut stop: oneshot::Receiver<()>) -> u32 {
    let producer = Producer::new(cluster, ProducerConfig::default());
    let (mut deliveries, mut n) = (Vec::new(), 0);
    while stop.try_recv() == Err(TryRecvError::Empty) {
        let partition = Some((n % PARTITIONS as u32) as i32);
        let record = Record { value: Some(n.to_string().into()), partition, ..Record::default() };
        deliveries.push(producer.send("t", record).await.expect("taken"));
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        n += 1;
    }
    for delivery in deliveries {
        delivery.await.expect("delivered");
    }
    producer.close().await;
    n
}

/// How often a group has read each record, once it has read `total` of them; `read` is their number so far.
async fn read_as_member(
    cluster: Cluster,
    read: watch::Sender<u32>,
    mut total: watch::Receiver<Option<u32>>,
) -> BTreeMap<u32, u32> {
    let mut member = GroupConsumer::new(cluster, member("g", "t", Assignor::CooperativeSticky));
    let mut seen = BTreeMap::new();
    while *total.borrow_and_update() != Some(seen.len() as u32) {
        tokio::select! {
            chunk = member.next() => {
                let records = chunk.expect("records").records;
                records.iter().for_each(|record| *seen.entry(number(&record.value)).or_default() += 1);
                read.send_replace(seen.len() as u32);
            }
            changed = total.changed() => changed.expect("the test goes on"),
        }
    }
    // The group's last offsets are committed, or it is said why not.
    member.close().await.expect("left");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker's program: client/tests/run"]
async fn a_member_that_closes_while_its_broker_that_is_killed_comes_back_notes_what_it_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let broker = Broker::start(&data, "127.0.0.1:0");
    let address = broker.address.clone();
    let cluster = || Cluster::new(ClientConfig::new(&address));
    let producer = Producer::new(cluster(), ProducerConfig::default());
    let written = producer.send("t", Record::default()).await.expect("taken").await.expect("delivered");
    let config =
        || GroupConfig { commit_every: Some(Duration::from_secs(60)), ..member("g", "t", Assignor::Range) };
    let mut member = GroupConsumer::new(cluster(), config());
    let read = in_time("records", member.next()).await.expect("records");
    drop(broker);
    let closing = tokio::spawn(member.close());
    // The member looks for its broker, and another program accepts the connection and closes it.
    let in_its_place = TcpListener::bind(&address).await.expect("its address is free");
    drop(in_time("an attempt", in_its_place.accept()).await.expect("accepted"));
    drop(in_its_place);
    let _broker = Broker::start(&data, &address);
    in_time("closed", closing).await.expect("no panic").expect("committed");
    let next = GroupConsumer::new(cluster(), config());
    let committed = next.committed(std::slice::from_ref(&read.partition)).await.expect("committed");
    assert_eq!(committed.get(&read.partition), Some(&(written.offset + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a broker's program: client/tests/run"]
async fn when_a_broker_that_is_killed_stays_away_delivery_ends_at_its_deadline() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::start(&folder.path().join("data"), "127.0.0.1:0");
    let delivery_timeout = Duration::from_secs(1);
    let config = ProducerConfig { delivery_timeout, ..ProducerConfig::default() };
    let producer = Producer::new(Cluster::new(ClientConfig::new(&broker.address)), config);
    producer.send("t", Record::default()).await.expect("taken").await.expect("delivered");
    drop(broker);
    let waiting = producer.send("t", Record::default()).await.expect("taken").wait();
    let result = tokio::time::timeout(delivery_timeout * 5, waiting).await.expect("in time");
    assert!(
        matches!(result, Err(DeliveryError::Expired { .. } | DeliveryError::Unknown { .. })),
        "{result:?}"
    );
    in_time("closed", producer.close()).await;
}
