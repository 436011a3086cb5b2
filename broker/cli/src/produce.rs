//! `millstream produce`: one record per line.

use std::{collections::VecDeque, io::BufRead, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use millstream_bench::StallWatch;
use millstream_client::{
    Cluster, Codec, ErrorCode,
    admin::{Admin, ConfigOf},
    producer::{Acks, Delivered, Delivery, DeliveryError, Producer, ProducerConfig, Record},
};
use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    connect::{Common, Output, TopicName, runtime, separator},
    consume::chosen,
    error::{CliError, SoFar, TooLarge},
    find,
    line_record::{self, LineFormat},
    number::number,
    output::{Out, counted},
    pace::Pace,
    progress::{Progress, When},
    source::{Source, Stop, sources},
};
use millstream::console;
use millstream::signals::ShutdownSignals;

/// After this long from the first Ctrl-C, the command prints what it is waiting for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records whose results are pending.
const IN_FLIGHT_MAX: usize = 10_000;

/// By name, or by the number that Kafka's clients use.
const ACKS: [(&str, &str, Acks); 6] = [
    ("all", "When every replica in sync has it", Acks::All),
    ("-1", "The same", Acks::All),
    ("leader", "When the leader has it", Acks::Leader),
    ("1", "The same", Acks::Leader),
    ("none", "When it is on its way", Acks::None),
    ("0", "The same", Acks::None),
];

/// Parses [`ACKS`].
pub(super) fn acks() -> impl TypedValueParser<Value = Acks> {
    let named = ACKS.map(|(name, meaning, _)| PossibleValue::new(name).help(meaning));
    let find = |name: String| ACKS.iter().find(|(known, ..)| *known == name).map(|(.., acks)| *acks);
    PossibleValuesParser::new(named).try_map(move |name| find(name).ok_or("there is no such value"))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum CompressionArg {
    /// Uncompressed.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatArg {
    /// The line is the value, without the line feed at its end; --key-separator splits a key off.
    Text,
    /// The line is a JSON object: `value`, and if wanted `key`, `headers` and `timestamp_ms`. `consume --format json` writes
    /// such lines.
    Json,
}

/// One record per line of files or of standard input.
#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    topic: TopicName,
    /// Create the topic if it does not exist, with the broker's defaults.
    #[arg(long)]
    create: bool,
    /// Read this file, not standard input; may be given several times. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Input format.
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,
    /// The part of a line before this text is the key; a line without it has none.
    #[arg(long, value_name = "TEXT", value_parser = separator)]
    key_separator: Option<String>,
    /// A header for every record; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// The partition [default: by the key].
    ///
    /// Records without a key go to one partition until a batch is sent, then to the next one: a batch is sent
    /// at 128 KiB or after 5 ms. So a few lines that arrive together are in one partition, many are spread
    /// evenly, and typed lines go to each in turn.
    #[arg(long, value_name = "N", value_parser = number::<i32>(0..))]
    partition: Option<i32>,
    /// Maximum records per second [default: unlimited].
    #[arg(long, value_name = "RECORDS", value_parser = number::<u64>(1..))]
    rate: Option<u64>,
    /// When a record counts as delivered.
    #[arg(long, value_parser = acks(), default_value = "all")]
    acks: Acks,
    /// Delivery timeout of a record.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = number::<u64>(1..=86_400))]
    timeout: u64,
    /// Compression of batches.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    /// Whether to show progress on standard error.
    #[arg(long, value_enum, default_value = "auto")]
    progress: When,
    #[command(flatten)]
    common: Common,
}

/// What was produced.
#[derive(Debug, Default)]
struct Tally {
    all: u64,
    failed: u64,
    /// The first delivery error, and that record's size.
    first: Option<(DeliveryError, usize)>,
}

impl Tally {
    fn count(&mut self, result: Result<Delivered, DeliveryError>, bytes: usize) {
        self.all += 1;
        if let Err(error) = result {
            self.failed += 1;
            self.first.get_or_insert((error, bytes));
        }
    }
}

/// Produces until the input ends.
pub(super) fn run(args: ProduceArgs) -> Result<(), CliError> {
    let lines = line_format(&args)?;
    let (runtime, cluster, stop) = (runtime()?, args.common.cluster(), Stop::default());
    // Before the first line is read, so that nothing is typed in vain.
    let there = runtime.block_on(find::writable(&cluster, args.topic.name(), args.create))?;
    chosen(&there, args.partition.as_slice())?;
    stop_when_interrupted(&runtime, stop.clone());
    let sources = sources(&args.file, &stop)?;
    let (producer, watch) = {
        let (_on_runtime, cluster) = (runtime.enter(), cluster.clone());
        let config = config(&args);
        let tried = config.delivery_timeout;
        let producer = Arc::new(Producer::new(cluster, config));
        (producer.clone(), StallWatch::new(producer, tried))
    };
    let typed = sources.iter().any(|source| source.typed);
    let mut progress = Progress::new(args.progress, typed, sources.iter().map(|source| source.bytes).sum());
    let mut sending = Sending {
        runtime: &runtime,
        producer,
        watch,
        args: &args,
        lines,
        pace: args.rate.map(Pace::new),
        stop,
        waiting: VecDeque::new(),
        tally: Tally::default(),
    };
    let sent = sources.into_iter().try_for_each(|source| sending.send_all(source, &mut progress));
    let tally = sending.finish();
    progress.clear();
    match (sent, report(&args, &tally, || runtime.block_on(bytes_max(cluster, args.topic.name())))) {
        // A lost record matters more than the interrupt.
        (Err(CliError::Interrupted { .. }), Err(lost)) => Err(lost),
        (sent, ended) => sent.and(ended),
    }
}

/// The first signal ends reading, so that what was read is delivered and reported; the second one ends the
/// process.
fn stop_when_interrupted(runtime: &Runtime, stop: Stop) {
    let _on_runtime = runtime.enter();
    let mut signals = ShutdownSignals::new();
    runtime.spawn(async move {
        stop.set(signals.next().await);
        tokio::select! {
            never = signals.end_at_once() => never,
            () = tokio::time::sleep(PATIENCE) => {
                console::note(format_args!("millstream: waiting for what was read to be delivered; another Ctrl-C ends at once"));
            }
        }
        signals.end_at_once().await
    });
}

/// The topic's `max.message.bytes`, if the broker reports it.
async fn bytes_max(cluster: Cluster, topic: &str) -> Option<usize> {
    let configs = Admin::new(cluster).configs(&ConfigOf::Topic(topic.to_string())).await.ok()?;
    configs.into_iter().find(|entry| entry.name == "max.message.bytes")?.value?.parse().ok()
}

fn report(
    args: &ProduceArgs,
    tally: &Tally,
    bytes_max: impl FnOnce() -> Option<usize>,
) -> Result<(), CliError> {
    let (delivered, topic, failed) = (tally.all - tally.failed, args.topic.name(), tally.failed);
    let mut out = Out::new();
    match args.common.output {
        Output::Json => {
            out.json(&json!({ "topic": topic, "delivered": delivered, "failed": tally.failed }))?
        }
        // The error says it already.
        Output::Table if delivered == 0 && tally.failed > 0 => {}
        Output::Table => {
            console::note(format_args!("{} produced to '{topic}'", counted(delivered, "record")))
        }
    }
    out.flush()?;
    match &tally.first {
        Some((DeliveryError::Refused { code: ErrorCode::MESSAGE_TOO_LARGE, .. }, bytes)) => {
            let (topic, compressed) = (topic.to_string(), !matches!(args.compression, CompressionArg::None));
            let size = TooLarge { topic, bytes: *bytes, bytes_max: bytes_max(), compressed };
            Err(CliError::TooLarge { failed, all: tally.all, size })
        }
        Some((first, _)) => Err(CliError::Delivery { failed, all: tally.all, first: first.clone() }),
        None => Ok(()),
    }
}

fn line_format(args: &ProduceArgs) -> Result<LineFormat, CliError> {
    let headers = args.header.iter().map(|header| line_record::header(header)).collect::<Result<_, _>>()?;
    Ok(match (args.format, &args.key_separator) {
        (FormatArg::Json, Some(separator)) => {
            return Err(CliError::Flag {
                flag: "--key-separator",
                value: separator.clone(),
                allowed: "not with --format json, where lines name their keys",
            });
        }
        (FormatArg::Json, None) => LineFormat::Json { headers },
        (FormatArg::Text, separator) => LineFormat::Text { separator: separator.clone(), headers },
    })
}

fn config(args: &ProduceArgs) -> ProducerConfig {
    ProducerConfig {
        acks: args.acks,
        codec: args.compression.into(),
        delivery_timeout: Duration::from_secs(args.timeout),
        // A topic that is deleted meanwhile is not created again.
        create_topics: false,
        ..ProducerConfig::default()
    }
}

impl From<CompressionArg> for Codec {
    fn from(compression: CompressionArg) -> Codec {
        match compression {
            CompressionArg::None => Codec::None,
            CompressionArg::Gzip => Codec::Gzip,
            CompressionArg::Snappy => Codec::Snappy,
            CompressionArg::Lz4 => Codec::Lz4,
            CompressionArg::Zstd => Codec::Zstd,
        }
    }
}

/// Turns lines into records on this thread, which may wait for a person; connections run in the background.
struct Sending<'a> {
    runtime: &'a Runtime,
    producer: Arc<Producer>,
    watch: StallWatch,
    args: &'a ProduceArgs,
    lines: LineFormat,
    pace: Option<Pace>,
    stop: Stop,
    /// Records whose results are pending, with their sizes.
    waiting: VecDeque<(Delivery, usize)>,
    tally: Tally,
}

impl Sending<'_> {
    fn send_all(&mut self, mut source: Source, progress: &mut Progress) -> Result<(), CliError> {
        let in_flight_max = if source.typed { 1 } else { IN_FLIGHT_MAX };
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            let bytes = match self.stop.signal() {
                Some(_) => 0,
                None => source
                    .input
                    .read_until(b'\n', &mut line)
                    .map_err(CliError::io(format!("cannot read {}", source.name)))?,
            };
            // A partial line at the interrupt is dropped.
            if let Some(by) = self.stop.signal().filter(|_| !line.ends_with(b"\n")) {
                let so_far = SoFar::Sent { source_name: source.name, line: number };
                return Err(CliError::Interrupted { by, so_far });
            }
            if bytes == 0 {
                return Ok(());
            }
            number += 1;
            let mut record = self.lines.record(&line).map_err(|problem| CliError::Line {
                source_name: source.name.clone(),
                line: number,
                problem,
            })?;
            record.partition = self.args.partition;
            self.send(record, in_flight_max)?;
            if source.typed && self.tally.first.is_some() {
                return Ok(());
            }
            progress.add(1, bytes as u64);
        }
    }

    fn send(&mut self, record: Record, in_flight_max: usize) -> Result<(), CliError> {
        if let Some(pace) = &mut self.pace {
            pace.wait();
        }
        let bytes = record_bytes(&record);
        let sent = self.runtime.block_on(self.producer.send(self.args.topic.name(), record));
        self.waiting.push_back((sent?, bytes));
        if self.waiting.len() >= in_flight_max
            && let Some((oldest, bytes)) = self.waiting.pop_front()
        {
            self.tally.count(self.runtime.block_on(oldest.wait()), bytes);
        }
        Ok(())
    }

    /// Waits until every accepted record has its result.
    fn finish(self) -> Tally {
        let Sending { runtime, producer, watch, waiting, mut tally, .. } = self;
        runtime.block_on(async {
            producer.flush().await;
            watch.end().await;
            for (delivery, bytes) in waiting {
                tally.count(delivery.wait().await, bytes);
            }
        });
        tally
    }
}

/// The total size of a record.
fn record_bytes(record: &Record) -> usize {
    let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + bytes(value));
    bytes(&record.key) + bytes(&record.value) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_says_when_records_without_a_key_change_their_partition() {
        let ProducerConfig { batch_bytes, linger, .. } = ProducerConfig::default();
        let command = ProduceArgs::augment_args(clap::Command::new("produce"));
        let partition = command.get_arguments().find(|arg| arg.get_id() == "partition").expect("the flag");
        let help = partition.get_long_help().expect("a text").to_string();
        assert!(help.contains(&format!("{} KiB", batch_bytes >> 10)), "{help}");
        assert!(help.contains(&format!("{} ms", linger.as_millis())), "{help}");
    }
}
