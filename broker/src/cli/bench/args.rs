//! What `millstream bench` is told.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use millstream_client::producer::{Acks, ProducerConfig};

pub(super) use crate::cli::connect::Common;
use crate::cli::{
    number::number,
    produce::{CompressionArg, acks},
    progress::When,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    #[command(subcommand)]
    pub(super) command: BenchCommand,
}

/// What is measured, how, and where.
#[derive(Debug, Args)]
pub(super) struct Case<T: Args> {
    #[command(flatten)]
    pub(super) args: T,
    #[command(flatten)]
    pub(super) conditions: Conditions,
    #[command(flatten)]
    pub(super) common: Common,
}

/// What is noted with a measurement, and how often it is made.
#[derive(Debug, Args)]
pub(super) struct Conditions {
    /// What is measured is called so in a report; runs with the same label repeat each other [default: the bootstrap address].
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,
    /// What the broker was built from; kept with the result.
    #[arg(long, value_name = "TEXT")]
    pub(super) commit: Option<String>,
    /// The broker's process on this machine, whose processor time is measured too.
    #[arg(long, value_name = "PID", value_parser = number::<u32>(0..))]
    pub(super) pid: Option<u32>,
    /// How many times it is measured; a report shows the spread.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(1..=1000))]
    pub(super) rounds: u32,
    /// Add each result to this file, a line of JSON each, for `bench report`.
    #[arg(long, value_name = "FILE")]
    pub(super) save: Option<PathBuf>,
    /// Whether standard error shows how far it has come.
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) progress: When,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Write records as fast as they are taken.
    Produce(Case<ProduceArgs>),
    /// Read a topic from its beginning to its end.
    Consume(Case<ConsumeArgs>),
    /// Write records at a fixed rate and measure how long each takes.
    ///
    /// A record is due at its moment whether or not earlier ones were answered, and its time counts from that moment: what
    /// had to wait behind a slow answer counts as slow.
    Latency(Case<PacedArgs>),
    /// Write records at a fixed rate, read them at the same time, and measure how long each is on its way.
    ///
    /// The time counts from the moment at which a record is due to the moment at which the reader has it.
    EndToEnd(Case<PacedArgs>),
    /// Make many topics and partitions, then write to all of them in turn.
    Partitions(Case<PartitionsArgs>),
    /// Many consumer groups read the same topic at the same time.
    Groups(Case<GroupsArgs>),
    /// Compare results: one HTML page with plots that needs nothing else.
    ///
    /// Results are files of `--save` or `--output json`. The first label is what the others are compared with. Runs with
    /// the same label and case are rounds of one measurement and show its spread.
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
}

/// Where records are written to.
#[derive(Debug, Args)]
pub(super) struct TopicArgs {
    /// A topic that there is [default: a new one, which is removed at the end].
    #[arg(long, value_name = "NAME")]
    pub(super) topic: Option<String>,
    /// Partitions of a new topic.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = number::<i32>(1..))]
    pub(super) partitions: i32,
}

/// What is written, and how.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Bytes of a record's value; they do not compress.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = number::<u32>(1..=1_000_000))]
    pub(super) size: u32,
    /// When a record counts as delivered.
    #[arg(long, value_parser = acks(), default_value = "all")]
    pub(super) acks: Acks,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    pub(super) compression: CompressionArg,
    /// Milliseconds that a batch waits for more records [default: 5; for a fixed rate 0].
    #[arg(long, value_name = "MS", value_parser = number::<u64>(0..=60_000))]
    pub(super) linger_ms: Option<u64>,
    /// How long a record is tried.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = number::<u64>(1..=86_400))]
    pub(super) timeout: u64,
}

impl RecordArgs {
    pub(super) fn linger(&self, otherwise: Duration) -> Duration {
        self.linger_ms.map_or(otherwise, Duration::from_millis)
    }

    pub(super) fn producer(&self, linger: Duration) -> ProducerConfig {
        ProducerConfig {
            acks: self.acks,
            codec: self.compression.into(),
            linger: self.linger(linger),
            delivery_timeout: Duration::from_secs(self.timeout),
            // Topics that are removed when it is interrupted are not made anew.
            create_topics: false,
            ..ProducerConfig::default()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    pub(super) topic: TopicArgs,
    /// How many records.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = number::<u64>(1..))]
    pub(super) records: u64,
    #[command(flatten)]
    pub(super) record: RecordArgs,
}

#[derive(Debug, Args)]
pub(super) struct ConsumeArgs {
    #[command(flatten)]
    pub(super) topic: TopicArgs,
    /// Records that a new topic is filled with before it is measured.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = number::<u64>(1..))]
    pub(super) records: u64,
    #[command(flatten)]
    pub(super) record: RecordArgs,
}

#[derive(Debug, Args)]
pub(super) struct PacedArgs {
    #[command(flatten)]
    pub(super) topic: TopicArgs,
    /// Records per second.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number::<u64>(1..=1_000_000))]
    pub(super) rate: u64,
    /// How long is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = number::<u64>(1..=86_400))]
    pub(super) seconds: u64,
    /// How long records are written before that; they do not count.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = number::<u64>(0..=3_600))]
    pub(super) warmup: u64,
    #[command(flatten)]
    pub(super) record: RecordArgs,
}

#[derive(Debug, Args)]
pub(super) struct PartitionsArgs {
    /// How many topics.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>(1..=10_000))]
    pub(super) topics: u32,
    /// Partitions of each topic.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number::<i32>(1..=100_000))]
    pub(super) partitions: i32,
    /// How many records, over all partitions in turn.
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = number::<u64>(1..))]
    pub(super) records: u64,
    #[command(flatten)]
    pub(super) record: RecordArgs,
}

#[derive(Debug, Args)]
pub(super) struct GroupsArgs {
    #[command(flatten)]
    pub(super) topic: TopicArgs,
    /// How many groups; each reads everything.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>(1..=1_000))]
    pub(super) groups: u32,
    /// Members of each group.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = number::<u32>(1..=100))]
    pub(super) members: u32,
    /// Records that a new topic is filled with before it is measured.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = number::<u64>(1..))]
    pub(super) records: u64,
    #[command(flatten)]
    pub(super) record: RecordArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Files of results; each holds one or more.
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Where the page is written.
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// The page's title.
    #[arg(long, value_name = "TEXT", default_value = "Benchmark report")]
    pub(super) title: String,
}
