//! `millstream bench`: how fast records are written and read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use millstream_client::{
    admin::{Admin, OffsetAt},
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
    producer::{Delivery, Producer, ProducerConfig, Record},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    connect::{Common, Output, runtime},
    error::CliError,
    output::Out,
    produce::{AcksArg, CompressionArg},
};
use crate::clock;

/// Records whose results are not looked at yet.
const IN_FLIGHT_MAX: usize = 100_000;
/// While nothing comes it is looked so often whether there is anything left to come.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Different values that records have in turn.
const VALUES: usize = 64;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Write records as fast as they are taken, or at a given rate.
    Produce(ProduceBench),
    /// Read a topic from its beginning to its end.
    Consume {
        /// The topic.
        #[arg(long, value_name = "NAME")]
        topic: String,
    },
}

#[derive(Debug, Args)]
struct ProduceBench {
    /// The topic; made if it is not there and the broker allows that.
    #[arg(long, value_name = "NAME")]
    topic: String,
    /// How many records.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Bytes of a record's value.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    size: u32,
    /// Records per second [default: as many as are taken].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// When a record counts as delivered.
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
}

/// Does what the command line says.
pub(super) fn run(args: BenchArgs) -> Result<(), CliError> {
    let common = args.common;
    runtime()?.block_on(async move {
        match args.command {
            BenchCommand::Produce(bench) => produce(&common, &bench).await,
            BenchCommand::Consume { topic } => consume(&common, &topic).await,
        }
    })
}

/// How many bytes in how much time.
struct Speed {
    records: u64,
    bytes: u64,
    took: Duration,
}

impl Speed {
    fn records_per_second(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn mib_per_second(&self) -> f64 {
        self.bytes as f64 / (1 << 20) as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn line(&self) -> String {
        let (seconds, records, mib) =
            (self.took.as_secs_f64(), self.records_per_second(), self.mib_per_second());
        format!("{} records in {seconds:.2} s: {records:.0} records/s, {mib:.1} MiB/s", self.records)
    }
}

/// The value below which the given share of the sorted values lies.
fn percentile(sorted: &[u32], share: f64) -> u32 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Values that do not compress; the same in each run.
fn values(size: usize) -> Vec<Bytes> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUES).map(|_| (0..size).map(|_| byte()).collect::<Vec<u8>>().into()).collect()
}

async fn produce(common: &Common, bench: &ProduceBench) -> Result<(), CliError> {
    let config = ProducerConfig {
        acks: bench.acks.into(),
        codec: bench.compression.into(),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(common.cluster(), config);
    let values = values(bench.size as usize);
    let (hand_over, waiting) = mpsc::channel(IN_FLIGHT_MAX);
    let settling = tokio::spawn(settle(waiting, bench.records));
    let began = clock::monotonic();
    for n in 0..bench.records {
        if let Some(rate) = bench.rate {
            let due = began + Duration::from_secs_f64(n as f64 / rate as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        let value = values[n as usize % VALUES].clone();
        let sent = clock::monotonic();
        let delivery =
            producer.send(&bench.topic, Record { value: Some(value), ..Record::default() }).await?;
        if hand_over.send((sent, delivery)).await.is_err() {
            // A record has failed: the other task says which.
            break;
        }
    }
    drop(hand_over);
    let settled =
        settling.await.map_err(|error| CliError::io("measuring failed")(std::io::Error::other(error)))?;
    let mut micros = settled?;
    let took = clock::monotonic().saturating_duration_since(began);
    producer.close().await;
    micros.sort_unstable();
    let speed = Speed { records: bench.records, bytes: bench.records * u64::from(bench.size), took };
    show_produce(common.output, &speed, &micros)
}

/// Waits for the results and says how many microseconds each took. They are looked at in the order of the records: one that
/// comes late makes those behind it late too, as it does for whoever reads them.
async fn settle(mut waiting: mpsc::Receiver<(Instant, Delivery)>, all: u64) -> Result<Vec<u32>, CliError> {
    let mut micros = Vec::new();
    while let Some((sent, delivery)) = waiting.recv().await {
        delivery.wait().await.map_err(|first| CliError::Delivery { failed: 1, all, first })?;
        let took = clock::monotonic().saturating_duration_since(sent);
        micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }
    Ok(micros)
}

fn show_produce(output: Output, speed: &Speed, sorted: &[u32]) -> Result<(), CliError> {
    let mut out = Out::new();
    let shares = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
    match output {
        Output::Table => {
            out.line(&speed.line())?;
            let texts = shares.map(|(name, share)| {
                format!("{name} {:.2} ms", f64::from(percentile(sorted, share)) / 1000.0)
            });
            out.line(&format!("from a record's taking to its result: {}", texts.join(", ")))?;
        }
        Output::Json => {
            let micros: serde_json::Map<String, serde_json::Value> = shares
                .iter()
                .map(|(name, share)| (name.to_string(), percentile(sorted, *share).into()))
                .collect();
            out.json(&json!({
                "records": speed.records,
                "seconds": speed.took.as_secs_f64(),
                "records_per_second": speed.records_per_second(),
                "mib_per_second": speed.mib_per_second(),
                "latency_micros": micros,
            }))?;
        }
    }
    out.flush()
}

async fn consume(common: &Common, topic: &str) -> Result<(), CliError> {
    let admin = Admin::new(common.cluster());
    let known = admin.cluster().topic(topic, false).await?;
    let name: Arc<str> = topic.into();
    let partitions: Vec<TopicPartition> =
        known.partitions.iter().map(|p| TopicPartition { topic: name.clone(), partition: p.index }).collect();
    let (mut left, mut starts) = (std::collections::BTreeMap::new(), Vec::new());
    let ends = admin.offsets(partitions.clone(), OffsetAt::Latest).await;
    let begins = admin.offsets(partitions, OffsetAt::Earliest).await;
    for ((partition, begin), (_, end)) in begins.into_iter().zip(ends) {
        let (begin, end) = (begin?.map_or(0, |b| b.offset), end?.map_or(0, |e| e.offset));
        if begin < end {
            left.insert(partition.clone(), end);
            starts.push((partition, Start::Offset(begin)));
        }
    }
    let mut consumer = Consumer::new(admin.cluster().clone(), ConsumerConfig::default());
    let began = clock::monotonic();
    consumer.assign(starts);
    let (mut records, mut bytes) = (0, 0);
    while !left.is_empty() {
        let chunk = match tokio::time::timeout(LOOK_EVERY, consumer.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => {
                left.retain(|partition, _| !consumer.is_drained(partition));
                continue;
            }
        };
        records += chunk.records.len() as u64;
        bytes += chunk
            .records
            .iter()
            .filter_map(|r| r.value.as_ref())
            .map(|value| value.len() as u64)
            .sum::<u64>();
        if left.get(&chunk.partition).is_some_and(|end| chunk.next_offset >= *end) {
            left.remove(&chunk.partition);
        }
    }
    let speed = Speed { records, bytes, took: clock::monotonic().saturating_duration_since(began) };
    let mut out = Out::new();
    match common.output {
        Output::Table => out.line(&speed.line())?,
        Output::Json => out.json(&json!({
            "records": speed.records,
            "seconds": speed.took.as_secs_f64(),
            "records_per_second": speed.records_per_second(),
            "mib_per_second": speed.mib_per_second(),
        }))?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let sorted: Vec<u32> = (1..=100).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(&sorted, share)), [50, 99, 100]);
        assert_eq!(percentile(&[7], 0.5), 7);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn values_are_the_same_in_each_run_and_differ_among_themselves() {
        let (one, two) = (values(100), values(100));
        assert_eq!(one, two);
        assert!(one.iter().all(|value| value.len() == 100) && one[0] != one[1]);
    }

    #[test]
    fn speeds_are_per_second() {
        let speed = Speed { records: 2048, bytes: 2 << 20, took: Duration::from_secs(2) };
        assert_eq!((speed.records_per_second(), speed.mib_per_second()), (1024.0, 1.0));
    }
}
