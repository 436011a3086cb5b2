//! Writing records: as fast as they are taken, or each at its moment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use millstream_client::producer::{Delivered, Delivery, DeliveryError, Producer, Record};
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

use super::{
    clock,
    error::BenchError,
    live::Live,
    meter::{Latencies, Series},
    topic::due,
};

/// Records whose results are not looked at yet.
const IN_FLIGHT_MAX: usize = 100_000;
/// Different values that records have in turn.
const VALUES: usize = 64;

/// What was written, and how long it took.
pub(super) struct Written {
    pub(super) records: u64,
    pub(super) took: Duration,
    pub(super) latencies: Latencies,
    pub(super) series: Series,
    pub(super) ended: Instant,
}

/// Where records go: topics in turn, and partitions of each in turn if they are named.
#[derive(Clone)]
pub(super) struct Targets {
    topics: Vec<String>,
    partitions: Option<i32>,
}

impl Targets {
    /// One topic; the producer chooses the partitions.
    pub(super) fn topic(name: &str) -> Targets {
        Targets { topics: vec![name.to_string()], partitions: None }
    }

    /// Every partition of these topics, one after the other.
    pub(super) fn every(topics: Vec<String>, partitions: i32) -> Targets {
        Targets { topics, partitions: Some(partitions) }
    }

    /// The place of the record with this number.
    fn place(&self, number: u64) -> (&str, Option<i32>) {
        let topics = self.topics.len() as u64;
        let partition = self.partitions.map(|count| (number / topics % count.max(1) as u64) as i32);
        (&self.topics[(number % topics) as usize], partition)
    }
}

/// Values that do not compress; the same in each run.
pub(super) fn values(size: usize) -> Vec<Bytes> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUES).map(|_| (0..size).map(|_| byte()).collect::<Vec<u8>>().into()).collect()
}

/// Writes as fast as records are taken. Their time counts from the call that takes them.
pub(super) async fn at_full_speed(
    producer: &Producer,
    targets: &Targets,
    values: &[Bytes],
    records: u64,
    live: Arc<Live>,
) -> Result<Written, BenchError> {
    live.begin("writing", records);
    let (hand_over, waiting) = mpsc::channel(IN_FLIGHT_MAX);
    let began = clock::monotonic();
    let settling = tokio::spawn(settle_in_order(waiting, began, records, live));
    for number in 0..records {
        let (topic, partition) = targets.place(number);
        let value = Some(values[number as usize % values.len()].clone());
        let taken = clock::monotonic();
        let delivery = producer.send(topic, Record { value, partition, ..Record::default() }).await?;
        if hand_over.send((taken, delivery)).await.is_err() {
            // A record has failed: the other task says which.
            break;
        }
    }
    drop(hand_over);
    joined(settling).await
}

/// Waits for results in the order of the records: one that comes late makes those behind it late too, as it does for
/// their reader.
async fn settle_in_order(
    mut waiting: mpsc::Receiver<(Instant, Delivery)>,
    began: Instant,
    all: u64,
    live: Arc<Live>,
) -> Result<Written, BenchError> {
    let (mut latencies, mut series, mut ended) = (Latencies::new(), Series::new(began), began);
    while let Some((taken, delivery)) = waiting.recv().await {
        delivery.wait().await.map_err(|first| BenchError::Delivery { all, first })?;
        ended = clock::monotonic();
        latencies.add(ended.saturating_duration_since(taken));
        series.add(ended, 1);
        live.add(1);
    }
    Ok(Written { records: all, took: ended.saturating_duration_since(began), latencies, series, ended })
}

/// When which record is due.
#[derive(Clone, Copy)]
pub(super) struct Timetable {
    /// When the first one is due.
    pub(super) began: Instant,
    /// Records in a second.
    pub(super) rate: u64,
    /// Records that do not count yet.
    pub(super) warmup_records: u64,
    /// Records in all.
    pub(super) records: u64,
}

impl Timetable {
    pub(super) fn due(&self, number: u64) -> Instant {
        due(self.began, number, self.rate)
    }

    /// When records begin to count.
    pub(super) fn counts_from(&self) -> Instant {
        self.due(self.warmup_records)
    }

    /// Records that count.
    pub(super) fn counted(&self) -> u64 {
        self.records - self.warmup_records
    }
}

/// Writes each record at its moment, whether or not earlier ones were answered. Times count from that moment.
pub(super) async fn at_a_rate(
    producer: Arc<Producer>,
    targets: Targets,
    timetable: Timetable,
    value: impl Fn(u64) -> Bytes + Send + 'static,
    live: Arc<Live>,
) -> Result<Written, BenchError> {
    live.begin("writing at a fixed rate", timetable.records);
    let (hand_over, waiting) = mpsc::channel(IN_FLIGHT_MAX);
    let settling = tokio::spawn(settle_as_they_come(waiting, timetable, live));
    let (runtime, sender) = (Handle::current(), producer.clone());
    // A thread of its own: it wakes within microseconds, a task's timer only within milliseconds.
    let sending = tokio::task::spawn_blocking(move || {
        for number in 0..timetable.records {
            let due = timetable.due(number);
            std::thread::sleep(due.saturating_duration_since(clock::monotonic()));
            let (topic, partition) = targets.place(number);
            let record = Record { value: Some(value(number)), partition, ..Record::default() };
            let delivery = runtime.block_on(sender.send(topic, record))?;
            if hand_over.blocking_send((number, delivery)).is_err() {
                break;
            }
        }
        Ok::<(), BenchError>(())
    });
    let (sent, settled) = tokio::join!(joined(sending), joined(settling));
    // Not before: a producer that is dropped gives up what it has.
    drop(producer);
    // The first record that was not delivered says more than what became of the sender after it.
    let written = settled?;
    sent.map(|()| written)
}

async fn settle_as_they_come(
    mut waiting: mpsc::Receiver<(u64, Delivery)>,
    timetable: Timetable,
    live: Arc<Live>,
) -> Result<Written, BenchError> {
    let began = timetable.counts_from();
    let (mut latencies, mut series, mut ended) = (Latencies::new(), Series::new(began), began);
    let (mut pending, mut open) = (FuturesUnordered::new(), true);
    loop {
        tokio::select! {
            Some(settled) = pending.next() => {
                let (number, result, now): (u64, Result<Delivered, DeliveryError>, Instant) = settled;
                let all = timetable.records;
                result.map_err(|first| BenchError::Delivery { all, first })?;
                live.add(1);
                if number >= timetable.warmup_records {
                    latencies.add(now.saturating_duration_since(timetable.due(number)));
                    series.add(now, 1);
                    ended = now;
                }
            }
            got = waiting.recv(), if open => match got {
                Some((number, delivery)) => {
                    pending.push(async move { (number, delivery.wait().await, clock::monotonic()) });
                }
                None => open = false,
            },
            else => break,
        }
    }
    let took = ended.saturating_duration_since(began);
    Ok(Written { records: timetable.counted(), took, latencies, series, ended })
}

/// What a task gave; one that broke is an error.
pub(super) async fn joined<T>(task: JoinHandle<Result<T, BenchError>>) -> Result<T, BenchError> {
    task.await.map_err(|error| BenchError::Task(std::io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_in_each_run_and_differ_among_themselves() {
        let (one, two) = (values(100), values(100));
        assert_eq!(one, two);
        assert!(one.iter().all(|value| value.len() == 100) && one[0] != one[1]);
    }

    #[test]
    fn every_partition_of_every_topic_has_its_turn() {
        let targets = Targets::every(vec!["a".to_string(), "b".to_string()], 3);
        let places: std::collections::BTreeSet<_> = (0..6).map(|number| targets.place(number)).collect();
        assert_eq!(places.len(), 6);
        assert_eq!(targets.place(6), targets.place(0));
        assert_eq!(Targets::topic("a").place(5), ("a", None));
    }

    #[test]
    fn records_count_from_the_end_of_the_warm_up() {
        let began = clock::monotonic();
        let timetable = Timetable { began, rate: 100, warmup_records: 200, records: 500 };
        assert_eq!(timetable.counts_from() - began, Duration::from_secs(2));
        assert_eq!(timetable.counted(), 300);
    }
}
