//! The cases: each makes its topics, measures, and removes them, whether or not it worked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_client::{
    Codec,
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
    producer::{Acks, Producer},
};
use serde_json::{Value, json};

use super::{
    case::{Case, Consume, Groups, Paced, Partitions, Produce, Records},
    clock,
    error::BenchError,
    load::{self, Targets, Timetable, Written, at_a_rate, at_full_speed, values},
    meter::{Meter, cpu_figures},
    read::{self, GroupsPlan, MARK_BYTES, Read},
    result::{Cpu, Figure, Latency, Rate},
    stall::StallWatch,
    topic::{Bench, Range, Topic},
};

/// How long a batch waits for more records when nothing else is said.
const LINGER: Duration = Duration::from_millis(5);
/// From the first record's moment back to now: everybody is ready by then.
const LEAD: Duration = Duration::from_millis(200);
const MIB: f64 = 1_048_576.0;

/// What a case gives.
pub(super) struct Measured {
    pub(super) parameters: BTreeMap<String, Value>,
    pub(super) figures: Vec<Figure>,
    pub(super) latency: Option<Latency>,
    pub(super) rate: Option<Rate>,
    pub(super) cpu: Cpu,
}

/// Runs the case.
pub(super) async fn measure(case: &Case, bench: &Bench) -> Result<Measured, BenchError> {
    match case {
        Case::Produce(args) => produce(bench, args).await,
        Case::Consume(args) => consume(bench, args).await,
        Case::Latency(args) => latency(bench, args).await,
        Case::EndToEnd(args) => end_to_end(bench, args).await,
        Case::Partitions(args) => partitions(bench, args).await,
        Case::Groups(args) => groups(bench, args).await,
    }
}

fn acks_name(acks: Acks) -> &'static str {
    match acks {
        Acks::All => "all",
        Acks::Leader => "leader",
        Acks::None => "none",
    }
}

fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "none",
        Codec::Gzip => "gzip",
        Codec::Snappy => "snappy",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
    }
}

fn parameters(record: &Records, linger: Duration, more: &[(&str, Value)]) -> BTreeMap<String, Value> {
    let common = [
        ("size_bytes", json!(record.size)),
        ("acks", json!(acks_name(record.acks))),
        ("compression", json!(codec_name(record.codec))),
        ("linger_ms", json!(record.linger(linger).as_millis() as u64)),
    ];
    common.iter().chain(more).map(|(name, value)| (name.to_string(), value.clone())).collect()
}

fn speed(records: u64, bytes: u64, took: Duration) -> Vec<Figure> {
    let seconds = took.as_secs_f64().max(1e-9);
    vec![
        Figure::higher("records_per_second", records as f64 / seconds, "records/s"),
        Figure::higher("mib_per_second", bytes as f64 / MIB / seconds, "MiB/s"),
    ]
}

/// What was made is removed, and the first error is the one that is returned.
async fn removing<T>(bench: &Bench, topics: &[Topic], done: Result<T, BenchError>) -> Result<T, BenchError> {
    let removed = bench.remove(topics).await;
    let done = done?;
    removed.map(|()| done)
}

/// The figures of what was written, and its processor time for each record that was sent.
fn of_written(
    written: &Written,
    size: u32,
    what: &str,
    cpu: Cpu,
    sent: u64,
    parameters: BTreeMap<String, Value>,
) -> Measured {
    let mut figures = speed(written.records, written.records * u64::from(size), written.took);
    figures.extend(written.latencies.figures());
    figures.extend(cpu_figures(&cpu, sent));
    let rate = written.series.rate(written.ended, "records/s");
    Measured { parameters, figures, latency: written.latencies.latency(what), rate, cpu }
}

/// Fills topics at full speed; the producer is closed before processor time is read.
async fn fill(
    bench: &Bench,
    targets: &Targets,
    record: &Records,
    records: u64,
) -> Result<(Written, Cpu), BenchError> {
    let (producer, watch) = watched_producer(bench, record, LINGER);
    let values = values(record.size as usize);
    let meter = Meter::begin(bench.pid)?;
    let written = at_full_speed(&producer, targets, &values, records, bench.live.clone()).await?;
    watch.end().await;
    if let Some(producer) = Arc::into_inner(producer) {
        producer.close().await;
    }
    Ok((written, meter.end()))
}

/// What there is to read in each partition of a topic, which is filled first if it is new.
async fn to_read(
    bench: &Bench,
    topic: &Topic,
    record: &Records,
    records: u64,
) -> Result<BTreeMap<TopicPartition, Range>, BenchError> {
    if topic.is_new() {
        fill(bench, &Targets::topic(&topic.name), record, records).await?;
    }
    Ok(bench.ranges(topic).await?)
}

async fn produce(bench: &Bench, args: &Produce) -> Result<Measured, BenchError> {
    let topic = bench.topic(&args.topic).await?;
    let count = bench.admin.cluster().topic(&topic.name, false).await?.partitions.len();
    let filled = fill(bench, &Targets::topic(&topic.name), &args.record, args.records).await;
    let (written, cpu) = removing(bench, &[topic], filled).await?;
    let more = [("records", json!(args.records)), ("partitions", json!(count))];
    let parameters = parameters(&args.record, LINGER, &more);
    let what = "from a record's taking to its result, read in the order of the records";
    Ok(of_written(&written, args.record.size, what, cpu, args.records, parameters))
}

async fn consume(bench: &Bench, args: &Consume) -> Result<Measured, BenchError> {
    let topic = bench.topic(&args.topic).await?;
    let done = async {
        let ranges = to_read(bench, &topic, &args.record, args.records).await?;
        let meter = Meter::begin(bench.pid)?;
        let read = read::everything(bench.admin.cluster().clone(), &ranges, &bench.live).await?;
        Ok((read, meter.end(), ranges.len()))
    };
    let (done, is_new) = (done.await, topic.is_new());
    let (read, cpu, count) = removing(bench, &[topic], done).await?;
    let mut figures = speed(read.records, read.bytes, read.took);
    figures.extend(cpu_figures(&cpu, read.records));
    let mut named = BTreeMap::from([
        ("records".to_string(), json!(read.records)),
        ("partitions".to_string(), json!(count)),
    ]);
    if is_new {
        named.extend(parameters(&args.record, LINGER, &[]));
    }
    let rate = read.series.rate(read.ended, "records/s");
    Ok(Measured { parameters: named, figures, latency: None, rate, cpu })
}

fn timetable(args: &Paced) -> Timetable {
    Timetable {
        began: clock::deadline(LEAD),
        rate: args.rate,
        warmup_records: args.rate * args.warmup,
        records: args.rate * (args.warmup + args.seconds),
    }
}

fn paced_parameters(args: &Paced, partitions: usize) -> BTreeMap<String, Value> {
    let more = [
        ("rate_per_second", json!(args.rate)),
        ("seconds", json!(args.seconds)),
        ("warmup_seconds", json!(args.warmup)),
        ("partitions", json!(partitions)),
    ];
    parameters(&args.record, Duration::ZERO, &more)
}

/// A producer, and what tells when its records do not get through.
fn watched_producer(bench: &Bench, record: &Records, linger: Duration) -> (Arc<Producer>, StallWatch) {
    let config = record.producer(linger);
    let tried = config.delivery_timeout;
    let producer = Arc::new(Producer::new(bench.admin.cluster().clone(), config));
    (producer.clone(), StallWatch::new(producer, tried))
}

async fn latency(bench: &Bench, args: &Paced) -> Result<Measured, BenchError> {
    let topic = bench.topic(&args.topic).await?;
    let count = bench.admin.cluster().topic(&topic.name, false).await?.partitions.len();
    let values = values(args.record.size as usize);
    let (producer, watch) = watched_producer(bench, &args.record, Duration::ZERO);
    let (meter, timetable) = (Meter::begin(bench.pid)?, timetable(args));
    let value = move |number: u64| values[number as usize % values.len()].clone();
    let written =
        at_a_rate(producer, Targets::topic(&topic.name), timetable, value, bench.live.clone()).await;
    watch.end().await;
    let cpu = meter.end();
    let written = removing(bench, &[topic], written).await?;
    let what = "from the moment at which a record was due to its acknowledgement";
    let parameters = paced_parameters(args, count);
    Ok(of_written(&written, args.record.size, what, cpu, timetable.records, parameters))
}

async fn end_to_end(bench: &Bench, args: &Paced) -> Result<Measured, BenchError> {
    assert!(args.record.size as usize >= MARK_BYTES, "{} bytes have no room for a mark", args.record.size);
    let topic = bench.topic(&args.topic).await?;
    let done = on_its_way(bench, args, &topic).await;
    let (read, cpu, count) = removing(bench, &[topic], done).await?;
    let mut figures = speed(read.records, read.bytes, read.took);
    figures.extend(read.latencies.figures());
    figures.extend(cpu_figures(&cpu, args.rate * (args.warmup + args.seconds)));
    let what = "from the moment at which a record was due to its being read";
    let (latency, rate) = (read.latencies.latency(what), read.series.rate(read.ended, "records/s"));
    Ok(Measured { parameters: paced_parameters(args, count), figures, latency, rate, cpu })
}

/// Writes at a rate and reads at the same time, from where the topic ends now.
async fn on_its_way(bench: &Bench, args: &Paced, topic: &Topic) -> Result<(Read, Cpu, usize), BenchError> {
    let ranges = bench.ranges(topic).await?;
    let mut consumer = Consumer::new(bench.admin.cluster().clone(), ConsumerConfig::default());
    consumer.assign(ranges.iter().map(|(place, (_, end))| (place.clone(), Start::Offset(*end))));
    let values = values(args.record.size as usize);
    let run = clock::random_u64();
    let value = move |number: u64| {
        let mut value = values[number as usize % values.len()].to_vec();
        value[..MARK_BYTES].copy_from_slice(&read::mark(run, number));
        value.into()
    };
    let (producer, watch) = watched_producer(bench, &args.record, Duration::ZERO);
    let (meter, timetable) = (Meter::begin(bench.pid)?, timetable(args));
    let reading = load::joined(tokio::spawn(read::as_they_come(consumer, run, timetable)));
    let writing = at_a_rate(producer, Targets::topic(&topic.name), timetable, value, bench.live.clone());
    let (_, read) = tokio::try_join!(writing, reading)?;
    watch.end().await;
    Ok((read, meter.end(), ranges.len()))
}

async fn partitions(bench: &Bench, args: &Partitions) -> Result<Measured, BenchError> {
    let run = clock::random_u64();
    let topics: Vec<Topic> =
        (0..args.topics).map(|at| Topic::named(&format!("bench-{run:016x}-{at}"))).collect();
    let done = over_many(bench, args, &topics).await;
    let (made, written, cpu) = removing(bench, &topics, done).await?;
    let more = [
        ("records", json!(args.records)),
        ("topics", json!(args.topics)),
        ("partitions_per_topic", json!(args.partitions)),
    ];
    let parameters = parameters(&args.record, LINGER, &more);
    let what = "from a record's taking to its result, read in the order of the records";
    let mut measured = of_written(&written, args.record.size, what, cpu, args.records, parameters);
    measured.figures.push(Figure::lower("create_seconds", made.as_secs_f64(), "s"));
    Ok(measured)
}

/// Makes all topics, waits for their leaders, and writes to each partition in turn.
async fn over_many(
    bench: &Bench,
    args: &Partitions,
    topics: &[Topic],
) -> Result<(Duration, Written, Cpu), BenchError> {
    let began = clock::monotonic();
    for topic in topics {
        bench.make(topic, args.partitions).await?;
    }
    for topic in topics {
        bench.wait_for_leaders(topic).await?;
    }
    let made = clock::monotonic().saturating_duration_since(began);
    let names = topics.iter().map(|topic| topic.name.clone()).collect();
    let targets = Targets::every(names, args.partitions);
    let (written, cpu) = fill(bench, &targets, &args.record, args.records).await?;
    Ok((made, written, cpu))
}

async fn groups(bench: &Bench, args: &Groups) -> Result<Measured, BenchError> {
    let topic = bench.topic(&args.topic).await?;
    let done = async {
        let ranges = to_read(bench, &topic, &args.record, args.records).await?;
        let meter = Meter::begin(bench.pid)?;
        let plan = GroupsPlan { groups: args.groups, members: args.members };
        let cluster = bench.admin.cluster();
        let (read, names) = read::in_groups(cluster, &topic.name, &ranges, plan, &bench.live).await?;
        let cpu = meter.end();
        for name in names {
            bench.admin.delete_group(&name).await?;
        }
        Ok((read, cpu, ranges.len()))
    };
    let done = done.await;
    let (all, cpu, count) = removing(bench, &[topic], done).await?;
    let read = all.read;
    let mut figures = speed(read.records, read.bytes, read.took);
    figures.push(Figure::lower("all_members_ready_seconds", all.ready.as_secs_f64(), "s"));
    figures.extend(read.latencies.figures());
    figures.extend(cpu_figures(&cpu, read.records));
    let more = [
        ("groups", json!(args.groups)),
        ("members_per_group", json!(args.members)),
        ("partitions", json!(count)),
        ("records_read", json!(read.records)),
    ];
    let what = "from a member's start to its first partitions";
    let (latency, rate) = (read.latencies.latency(what), read.series.rate(read.ended, "records/s"));
    Ok(Measured { parameters: parameters(&args.record, LINGER, &more), figures, latency, rate, cpu })
}
