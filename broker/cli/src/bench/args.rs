//! Arguments of `millstream bench`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use millstream_bench::{self as bench, Case, MARK_BYTES};
use millstream_client::producer::Acks;

pub(super) use crate::connect::Common;
use crate::{
    error::CliError,
    number::number,
    produce::{CompressionArg, acks},
    progress::When,
};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(super) command: BenchCommand,
}

/// What is measured, how, and where.
#[derive(Debug, Args)]
pub(super) struct CaseArgs<T: Args> {
    #[command(flatten)]
    pub(super) args: T,
    #[command(flatten)]
    pub(super) conditions: Conditions,
    #[command(flatten)]
    pub(super) common: Common,
}

/// What is recorded with a measurement, and how often it is made.
#[derive(Debug, Args)]
pub(super) struct Conditions {
    /// Name of the measured system in a report; runs with the same label are rounds of one measurement
    /// [default: the bootstrap address].
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,
    /// Build of the broker; kept with the result.
    #[arg(long, value_name = "TEXT")]
    pub(super) commit: Option<String>,
    /// Process id of the broker on this machine, whose CPU time is measured too.
    #[arg(long, value_name = "PID", value_parser = number::<u32>(0..))]
    pub(super) pid: Option<u32>,
    /// Number of rounds; a report shows the spread.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(1..=1000))]
    pub(super) rounds: u32,
    /// Append each result to this file, one JSON line each, for `bench report`.
    #[arg(long, value_name = "FILE")]
    pub(super) save: Option<PathBuf>,
    /// Whether to show progress on standard error.
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) progress: When,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Write records as fast as possible.
    Produce(CaseArgs<ProduceArgs>),
    /// Read a topic from its beginning to its end.
    Consume(CaseArgs<ConsumeArgs>),
    /// Write records at a fixed rate and measure how long each takes.
    ///
    /// A record is due at its time whether or not earlier ones were acknowledged, and its latency counts from
    /// that time: waiting behind a slow reply counts.
    Latency(CaseArgs<PacedArgs>),
    /// Write records at a fixed rate, read them at the same time, and measure the end-to-end latency.
    ///
    /// The latency counts from the time when a record is due to the time when the reader has it.
    EndToEnd(CaseArgs<PacedArgs>),
    /// Create many topics and partitions, then write to all of them in turn.
    Partitions(CaseArgs<PartitionsArgs>),
    /// Many consumer groups read the same topic at the same time.
    Groups(CaseArgs<GroupsArgs>),
    /// Compare results: one self-contained HTML page with plots.
    ///
    /// Results are files of `--save` or `--output json`. The other labels are compared with the first one.
    /// Runs with the same label and case are rounds of one measurement and show its spread.
    Report(ReportArgs),
}

impl BenchCommand {
    /// How and where it is measured; none where nothing is.
    pub(super) fn circumstances(&self) -> Option<(&Conditions, &Common)> {
        match self {
            BenchCommand::Produce(case) => Some((&case.conditions, &case.common)),
            BenchCommand::Consume(case) => Some((&case.conditions, &case.common)),
            BenchCommand::Latency(case) | BenchCommand::EndToEnd(case) => {
                Some((&case.conditions, &case.common))
            }
            BenchCommand::Partitions(case) => Some((&case.conditions, &case.common)),
            BenchCommand::Groups(case) => Some((&case.conditions, &case.common)),
            BenchCommand::Report(_) => None,
        }
    }

    /// What is measured; none where nothing is.
    pub(super) fn case(&self) -> Result<Option<Case>, CliError> {
        Ok(Some(match self {
            BenchCommand::Produce(case) => Case::Produce(case.args.case()),
            BenchCommand::Consume(case) => Case::Consume(case.args.case()),
            BenchCommand::Latency(case) => Case::Latency(case.args.case()),
            BenchCommand::EndToEnd(case) => Case::EndToEnd(case.args.marked_case()?),
            BenchCommand::Partitions(case) => Case::Partitions(case.args.case()),
            BenchCommand::Groups(case) => Case::Groups(case.args.case()),
            BenchCommand::Report(_) => return Ok(None),
        }))
    }
}

/// Where records are written to.
#[derive(Debug, Args)]
pub(super) struct TopicArgs {
    /// An existing topic [default: a new one, which is deleted at the end].
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Partitions of a new topic.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = number::<i32>(1..))]
    partitions: i32,
}

impl TopicArgs {
    fn choice(&self) -> bench::TopicChoice {
        bench::TopicChoice { name: self.topic.clone(), partitions: self.partitions }
    }
}

/// What is written, and how.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Bytes of a record's value; incompressible.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = number::<u32>(1..=1_000_000))]
    size: u32,
    /// When a record counts as delivered.
    #[arg(long, value_parser = acks(), default_value = "all")]
    acks: Acks,
    /// Compression of batches.
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    /// Milliseconds that a batch waits for more records [default: 5; for a fixed rate 0].
    #[arg(long, value_name = "MS", value_parser = number::<u64>(0..=60_000))]
    linger_ms: Option<u64>,
    /// Delivery timeout of a record.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = number::<u64>(1..=86_400))]
    timeout: u64,
}

impl RecordArgs {
    fn records(&self) -> bench::Records {
        bench::Records {
            size: self.size,
            acks: self.acks,
            codec: self.compression.into(),
            linger: self.linger_ms.map(Duration::from_millis),
            delivery_timeout: Duration::from_secs(self.timeout),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// Number of records.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = number::<u64>(1..))]
    records: u64,
    #[command(flatten)]
    record: RecordArgs,
}

impl ProduceArgs {
    fn case(&self) -> bench::Produce {
        bench::Produce { topic: self.topic.choice(), records: self.records, record: self.record.records() }
    }
}

#[derive(Debug, Args)]
pub(super) struct ConsumeArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// Records written to a new topic before the measurement.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = number::<u64>(1..))]
    records: u64,
    #[command(flatten)]
    record: RecordArgs,
}

impl ConsumeArgs {
    fn case(&self) -> bench::Consume {
        bench::Consume { topic: self.topic.choice(), records: self.records, record: self.record.records() }
    }
}

#[derive(Debug, Args)]
pub(super) struct PacedArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// Records per second.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number::<u64>(1..=1_000_000))]
    rate: u64,
    /// Duration of the measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = number::<u64>(1..=86_400))]
    seconds: u64,
    /// Duration of the warm-up, whose records do not count.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = number::<u64>(0..=3_600))]
    warmup: u64,
    #[command(flatten)]
    record: RecordArgs,
}

impl PacedArgs {
    fn case(&self) -> bench::Paced {
        bench::Paced {
            topic: self.topic.choice(),
            rate: self.rate,
            seconds: self.seconds,
            warmup: self.warmup,
            record: self.record.records(),
        }
    }

    /// Where each record has to say which one it is.
    fn marked_case(&self) -> Result<bench::Paced, CliError> {
        let size = self.record.size;
        if (size as usize) < MARK_BYTES {
            let (flag, allowed) = ("--size", "at least 16 bytes, which say which record it is");
            return Err(CliError::Flag { flag, value: size.to_string(), allowed });
        }
        Ok(self.case())
    }
}

#[derive(Debug, Args)]
pub(super) struct PartitionsArgs {
    /// Number of topics.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>(1..=10_000))]
    topics: u32,
    /// Partitions of each topic.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number::<i32>(1..=100_000))]
    partitions: i32,
    /// Number of records, over all partitions in turn.
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = number::<u64>(1..))]
    records: u64,
    #[command(flatten)]
    record: RecordArgs,
}

impl PartitionsArgs {
    fn case(&self) -> bench::Partitions {
        bench::Partitions {
            topics: self.topics,
            partitions: self.partitions,
            records: self.records,
            record: self.record.records(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// Number of groups; each reads everything.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>(1..=1_000))]
    groups: u32,
    /// Members of each group.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = number::<u32>(1..=100))]
    members: u32,
    /// Records written to a new topic before the measurement.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = number::<u64>(1..))]
    records: u64,
    #[command(flatten)]
    record: RecordArgs,
}

impl GroupsArgs {
    fn case(&self) -> bench::Groups {
        bench::Groups {
            topic: self.topic.choice(),
            groups: self.groups,
            members: self.members,
            records: self.records,
            record: self.record.records(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Files of results; each holds one or more.
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Output file.
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// The page's title.
    #[arg(long, value_name = "TEXT", default_value = "Benchmark report")]
    pub(super) title: String,
}
