//! `millstream produce`: one record for each line.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use millstream_client::{
    Codec,
    producer::{Acks, Delivery, DeliveryError, Producer, ProducerConfig, Record},
};
use serde_json::json;

use super::{
    connect::{Common, Output, runtime},
    error::CliError,
    output::Out,
};

/// Records whose results are not looked at yet.
const IN_FLIGHT_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum AcksArg {
    /// When every replica in sync has it.
    All,
    /// When the leader has it.
    Leader,
    /// When it is on its way.
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum CompressionArg {
    /// As it is.
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

/// One record for each line of a file or of standard input.
#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    /// The topic; made if it is not there and the broker allows that.
    #[arg(long, value_name = "NAME")]
    topic: String,
    /// Read this file, not standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What is in front of this text in a line is the key; a line without it has none.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// The partition [default: by the key, or in turn].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// When a record counts as delivered.
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    #[command(flatten)]
    common: Common,
}

/// What was produced.
#[derive(Debug, Default)]
struct Tally {
    all: u64,
    failed: u64,
    first: Option<DeliveryError>,
}

impl Tally {
    fn count(&mut self, result: Result<millstream_client::producer::Delivered, DeliveryError>) {
        self.all += 1;
        if let Err(error) = result {
            self.failed += 1;
            self.first.get_or_insert(error);
        }
    }
}

/// Produces until the input ends.
pub(super) fn run(args: ProduceArgs) -> Result<(), CliError> {
    let input: Box<dyn BufRead> = match &args.file {
        Some(path) => {
            let file = File::open(path).map_err(CliError::io(format!("cannot read {}", path.display())))?;
            Box::new(BufReader::new(file))
        }
        None => Box::new(io::stdin().lock()),
    };
    let runtime = runtime()?;
    let producer = {
        let _on_runtime = runtime.enter();
        Producer::new(args.common.cluster(), config(&args))
    };
    let tally = produce(&runtime, producer, &args, input)?;
    let mut out = Out::new();
    match args.common.output {
        Output::Json => out.json(&json!({
            "topic": args.topic,
            "delivered": tally.all - tally.failed,
            "failed": tally.failed,
        }))?,
        Output::Table => eprintln!("{} records produced to '{}'", tally.all - tally.failed, args.topic),
    }
    out.flush()?;
    match tally.first {
        Some(first) => Err(CliError::Delivery { failed: tally.failed, all: tally.all, first }),
        None => Ok(()),
    }
}

fn config(args: &ProduceArgs) -> ProducerConfig {
    ProducerConfig { acks: args.acks.into(), codec: args.compression.into(), ..ProducerConfig::default() }
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Acks {
        match acks {
            AcksArg::All => Acks::All,
            AcksArg::Leader => Acks::Leader,
            AcksArg::None => Acks::None,
        }
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

/// The input is read on this thread, which may wait for a person; connections go on behind it.
fn produce(
    runtime: &tokio::runtime::Runtime,
    producer: Producer,
    args: &ProduceArgs,
    mut input: Box<dyn BufRead>,
) -> Result<Tally, CliError> {
    let mut tally = Tally::default();
    let mut waiting: VecDeque<Delivery> = VecDeque::new();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).map_err(CliError::io("cannot read the input"))? > 0 {
        let (key, value) = split(&line, args.key_separator.as_deref());
        let record = Record { key, value: Some(value), partition: args.partition, ..Record::default() };
        waiting.push_back(runtime.block_on(producer.send(&args.topic, record))?);
        if waiting.len() >= IN_FLIGHT_MAX
            && let Some(oldest) = waiting.pop_front()
        {
            tally.count(runtime.block_on(oldest.wait()));
        }
        line.clear();
    }
    runtime.block_on(async {
        producer.close().await;
        for delivery in waiting {
            tally.count(delivery.wait().await);
        }
    });
    Ok(tally)
}

/// Key and value of a line, without its end.
fn split(line: &[u8], separator: Option<&str>) -> (Option<Bytes>, Bytes) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let copy = Bytes::copy_from_slice;
    let Some(separator) = separator.map(str::as_bytes).filter(|separator| !separator.is_empty()) else {
        return (None, copy(line));
    };
    match line.windows(separator.len()).position(|at| at == separator) {
        Some(at) => (Some(copy(&line[..at])), copy(&line[at + separator.len()..])),
        None => (None, copy(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_value_with_a_key_in_front_of_the_separator() {
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        for (line, separator, key, value) in [
            ("a\n", None, None, "a"),
            ("a:b\r\n", None, None, "a:b"),
            ("a:b:c\n", Some(":"), Some("a"), "b:c"),
            ("a::b", Some("::"), Some("a"), "b"),
            ("none\n", Some(":"), None, "none"),
            (":v\n", Some(":"), Some(""), "v"),
            ("\n", Some(":"), None, ""),
        ] {
            let (k, v) = split(line.as_bytes(), separator);
            assert_eq!((k.map(text).as_deref(), text(v).as_str()), (key, value), "{line:?}");
        }
    }
}
