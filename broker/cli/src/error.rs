//! Why a command failed, and advice.

use std::{fmt, io, path::PathBuf};

use millstream::{config::ServeConfigError, node::NodeError, signals::ShutdownSignal, suggest::any_of};
use millstream_bench::{BenchError, report::ReportError};
use millstream_client::{
    ClientError, ErrorCode,
    producer::{DeliveryError, SendError},
};
use millstream_store::doctor::DoctorError;

use super::{
    line_record::LineProblem,
    output::{counted, were},
};

/// The rule for topic names.
const TOPIC_NAME: &str = "1 to 249 ASCII letters, digits, '.', '_' and '-', and neither '.' nor '..'";

/// Each kind has an exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The broker's configuration is invalid.
    #[error(transparent)]
    Config(#[from] ServeConfigError),
    /// The broker could not start or had to stop.
    #[error("{0}{next}", next = after_start(.0))]
    Node(#[from] NodeError),
    /// The brokers could not be reached, or refused the request.
    #[error("{words}{next}", words = words(.0), next = next_step(.0))]
    Client(#[from] ClientError),
    /// A configuration key or value is invalid.
    #[error("{error}; {shown_by}")]
    Keys {
        /// The broker's error.
        error: ClientError,
        /// The command that lists the keys.
        shown_by: String,
    },
    /// A record was refused.
    #[error(transparent)]
    Send(SendError),
    /// Accepted records were not delivered.
    #[error("{}: {first}", undelivered(*failed, *all))]
    Delivery {
        /// Number of these.
        failed: u64,
        /// Total number of records.
        all: u64,
        /// The first error.
        first: DeliveryError,
    },
    /// The first of the records that were not delivered exceeds the topic's limit.
    #[error("{}: {size}", undelivered(*failed, *all))]
    TooLarge {
        /// Number of these.
        failed: u64,
        /// Total number of records.
        all: u64,
        /// The excess, and how to allow it.
        size: TooLarge,
    },
    /// An operation failed for some of several names.
    #[error("{failed} of {all} {kind}s {} not deleted; see above", were(*failed))]
    NotAll {
        /// Number of failures.
        failed: usize,
        /// Number of names.
        all: usize,
        /// What the names are of.
        kind: &'static str,
    },
    /// The named thing does not exist.
    #[error("{0}")]
    Missing(Missing),
    /// A flag has an invalid value.
    #[error("invalid value '{value}' for {flag}: {allowed}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// The given value.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// The group cannot be changed now.
    #[error(
        "group '{group}' has members; stop them first, `millstream group describe {group}` shows who they are"
    )]
    GroupBusy {
        /// The group.
        group: String,
    },
    /// A line of the input is not a record.
    #[error("line {line} of {source_name}: {problem}")]
    Line {
        /// Name of the input.
        source_name: String,
        /// Line number.
        line: u64,
        /// The problem.
        problem: LineProblem,
    },
    /// Interrupted and shut down cleanly: no accepted record is lost.
    #[error("interrupted{so_far}")]
    Interrupted {
        /// The signal.
        by: ShutdownSignal,
        /// What had been done.
        so_far: SoFar,
    },
    /// Some partitions are not available.
    #[error(
        "{} without a leader can be neither written nor read; are all brokers running?", counted(*partitions, "partition")
    )]
    Unhealthy {
        /// Number of these.
        partitions: usize,
    },
    /// Some brokers refuse records.
    #[error(
        "{} will take no records until there is room on the disk: delete topics or records, shorten retention, or enlarge the volume",
        counted(*brokers, "broker")
    )]
    RefusingWrites {
        /// Number of these.
        brokers: usize,
    },
    /// The HTTP port did not respond.
    #[error(
        "cannot read {url}: {source}; --http-addr names the broker's HTTP port, which `serve` prints when it is ready"
    )]
    Http {
        /// The request.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The broker does not report where its HTTP port is.
    #[error(
        "the broker at {broker} does not report an HTTP address, as only Millstream does; --http-addr names one"
    )]
    NoHttpAddr {
        /// Its Kafka address.
        broker: String,
    },
    /// The HTTP port refused the request.
    #[error("the broker answers {status}: {said}")]
    Answer {
        /// The status.
        status: u16,
        /// The response's error text.
        said: String,
    },
    /// A measurement failed.
    #[error(transparent)]
    Bench(BenchError),
    /// Results of measurements that cannot be compared.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The data directory could not be inspected or repaired.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// The data directory is damaged.
    #[error("{} is not sound; {}", dir.display(), if *repairable {
        format!("`millstream doctor --data-dir {} --repair` repairs its log", dir.display())
    } else {
        "no repair of the log helps: restore a backup".to_string()
    })]
    Unsound {
        /// The data directory.
        dir: PathBuf,
        /// Whether a repair of its log improves anything.
        repairable: bool,
    },
    /// An operation of the operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

/// What a command had done when it was interrupted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SoFar {
    /// Lines were sent.
    #[error(" behind line {line} of {source_name}; what was read until then was sent")]
    Sent {
        /// Name of the input.
        source_name: String,
        /// The last line that was read.
        line: u64,
    },
    /// Records were printed.
    #[error("; {}", printed(*records, *as_member))]
    Printed {
        /// Number of records.
        records: u64,
        /// Whether the group's offsets are committed.
        as_member: bool,
    },
    /// A measurement was interrupted.
    #[error(
        "; the measurement is not complete, so no result is shown; the topics that it created are deleted"
    )]
    Measured,
}

/// A record larger than its topic's limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// The topic.
    pub(super) topic: String,
    /// Size of the record, with its key and its headers.
    pub(super) bytes: usize,
    /// The topic's `max.message.bytes`, if known.
    pub(super) bytes_max: Option<usize>,
    /// Whether it was compressed.
    pub(super) compressed: bool,
}

/// At least the overhead of a batch around one record.
const AROUND_RECORD_BYTES: usize = 1024;

impl fmt::Display for TooLarge {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLarge { topic, bytes, bytes_max, compressed } = self;
        write!(text, "a record of {bytes} bytes is larger than topic '{topic}' takes")?;
        match bytes_max {
            Some(max) => write!(text, " (MESSAGE_TOO_LARGE: its max.message.bytes is {max})")?,
            None => write!(text, " (MESSAGE_TOO_LARGE)")?,
        }
        let needed = bytes + AROUND_RECORD_BYTES;
        match bytes_max.is_none_or(|max| max < needed) {
            true => write!(
                text,
                "; `millstream topic alter {topic} --set max.message.bytes={needed}` lets it take it"
            )?,
            false => write!(text, "; a broker with a larger --memory opens more at once")?,
        }
        text.write_str(if *compressed { "" } else { ", --compression zstd may make it small enough" })
    }
}

/// A named thing that does not exist.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// A topic.
    #[error("topic '{name}' does not exist; {}{next}", did_you_mean(near))]
    Topic {
        /// Topic name.
        name: String,
        /// Topics with similar names.
        near: Vec<String>,
        /// Advice.
        next: &'static str,
    },
    /// A partition of a topic.
    #[error("topic '{topic}' has no partition {partition}; {}", those_there_are(*partitions))]
    Partition {
        /// The topic.
        topic: String,
        /// The number of its partitions.
        partitions: usize,
        /// The requested partition.
        partition: i32,
    },
    /// A broker.
    #[error("the cluster has no broker {id}; `millstream cluster describe` shows which there are")]
    Broker {
        /// Broker id.
        id: i32,
    },
    /// A group.
    #[error("group '{name}' does not exist; {}{next}", did_you_mean(near))]
    Group {
        /// Group name.
        name: String,
        /// Groups with similar names.
        near: Vec<String>,
        /// Advice.
        next: &'static str,
    },
}

fn printed(records: u64, as_member: bool) -> String {
    let committed = if as_member { ", and the group goes on behind what was taken of them" } else { "" };
    format!("{} {} printed until then{committed}", counted(records, "record"), were(records))
}

fn undelivered(failed: u64, all: u64) -> String {
    format!("{failed} of {} {} not delivered", counted(all, "record"), were(failed))
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("did you mean {}? ", any_of(near)) }
}

fn those_there_are(partitions: usize) -> String {
    match partitions {
        0 | 1 => "its only one is 0".to_string(),
        n => format!("there are 0 to {}", n - 1),
    }
}

impl From<SendError> for CliError {
    fn from(error: SendError) -> CliError {
        match error {
            SendError::Topic(error) => CliError::Client(error),
            SendError::Partition { topic, partition, partitions } => {
                CliError::Missing(Missing::Partition { topic, partitions, partition })
            }
            other => CliError::Send(other),
        }
    }
}

impl CliError {
    /// 1: failed at run time. 2: wrong usage or configuration. From 128 on: ended by a signal.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Interrupted { by, .. } => by.exit_code(),
            CliError::Config(_) | CliError::Flag { .. } | CliError::Node(NodeError::Token(_)) => 2,
            _ => 1,
        }
    }

    /// Whether it ended cleanly: by a signal, or because the reader of its output has gone.
    pub(super) fn is_in_order(&self) -> bool {
        matches!(self, CliError::Interrupted { .. }) || self.is_closed_pipe()
    }

    /// Whether the reader of standard output has gone, which is not an error.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether it concerns only the named thing, so that other names may still succeed.
    pub(super) fn is_about_name(&self) -> bool {
        match self {
            CliError::Missing(_) | CliError::GroupBusy { .. } => true,
            CliError::Client(error) => error.code().is_some(),
            _ => false,
        }
    }

    /// A refusal, with the command that lists the keys if it concerns one.
    pub(super) fn about_keys(error: ClientError, shown_by: impl Into<String>) -> CliError {
        match error.code() {
            Some(ErrorCode::INVALID_CONFIG) => CliError::Keys { error, shown_by: shown_by.into() },
            _ => error.into(),
        }
    }

    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> CliError {
        let what = what.into();
        move |source| CliError::Io { what, source }
    }
}

/// Advice for a broker that does not start.
fn after_start(error: &NodeError) -> &'static str {
    match error {
        NodeError::Listen { source, .. } => match source.kind() {
            io::ErrorKind::AddrInUse => {
                "; stop what has the port, or choose another one with --kafka-addr or --http-addr (port 0 takes any free one)"
            }
            io::ErrorKind::PermissionDenied => {
                "; choose a port from 1024 on with --kafka-addr or --http-addr"
            }
            _ => "; choose an address of this machine with --kafka-addr or --http-addr, like 127.0.0.1:9092",
        },
        NodeError::DataDir { .. } => "; name a directory that this user can make and write with --data-dir",
        NodeError::InUse(_) => "; stop that one, or choose another directory with --data-dir",
        _ => "",
    }
}

/// What went wrong, where Kafka's own error text is not clear enough.
fn words(error: &ClientError) -> String {
    match error {
        ClientError::Refused { what, code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, .. } => {
            format!("{what}: there is no such topic or partition (UNKNOWN_TOPIC_OR_PARTITION)")
        }
        ClientError::Refused { what, code: ErrorCode::INVALID_TOPIC_EXCEPTION, reason: None } => {
            format!("{what}: a topic's name is {TOPIC_NAME} (INVALID_TOPIC_EXCEPTION)")
        }
        ClientError::Refused { what, code: ErrorCode::TOPIC_ALREADY_EXISTS, .. } => {
            format!("{what}: it is there already (TOPIC_ALREADY_EXISTS)")
        }
        other => other.to_string(),
    }
}

/// Advice.
fn next_step(error: &ClientError) -> &'static str {
    if let ClientError::Unreachable { .. } = error {
        return " Start one with `millstream serve`, or name its address with --bootstrap";
    }
    if let ClientError::NotKafka { .. } = error {
        return "; the Kafka port is another one: `millstream serve` prints both when it is ready";
    }
    match error.code() {
        Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
            "; `millstream topic list` shows what there is, `millstream topic create` makes one"
        }
        Some(ErrorCode::CORRUPT_MESSAGE) => {
            "; what is stored there is damaged: the broker's log names the file, `millstream doctor --data-dir DIR` says more when the broker is stopped, and `consume --offset N` reads what is behind it"
        }
        Some(ErrorCode::TOPIC_ALREADY_EXISTS) => "; `millstream topic describe` shows it",
        Some(ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) => {
            "; try again in a moment"
        }
        Some(ErrorCode::LEADER_NOT_AVAILABLE | ErrorCode::NOT_LEADER_OR_FOLLOWER) => {
            "; `millstream cluster status` shows what is without a leader"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do_next() {
        let error =
            CliError::from(ClientError::Unreachable { addresses: "a:1".into(), reason: "refused".into() });
        assert!(error.to_string().contains("--bootstrap") && error.exit_code() == 1);
        let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let error = CliError::from(ClientError::Refused { what: "topic 'a'".into(), code, reason: None });
        assert!(error.to_string().contains("topic create"), "{error}");
        let (what, code) = ("fetch a-0 from offset 0".into(), ErrorCode::CORRUPT_MESSAGE);
        let error = CliError::from(ClientError::Refused { what, code, reason: None }).to_string();
        assert!(error.contains("millstream doctor") && error.contains("consume --offset N"), "{error}");
        let closed = CliError::io("write")(io::ErrorKind::BrokenPipe.into());
        assert!(closed.is_closed_pipe());
    }

    #[test]
    fn a_record_that_is_too_large_says_what_would_take_it() {
        let size = |bytes, bytes_max, compressed| {
            TooLarge { topic: "a".to_string(), bytes, bytes_max, compressed }.to_string()
        };
        let said = size(2_000_000, Some(1_048_588), false);
        assert_eq!(
            said,
            "a record of 2000000 bytes is larger than topic 'a' takes (MESSAGE_TOO_LARGE: its max.message.bytes is 1048588); `millstream topic alter a --set max.message.bytes=2001024` lets it take it, --compression zstd may make it small enough"
        );
        assert!(!size(2_000_000, None, true).contains("--compression"));
        assert!(size(1_000, Some(1_048_588), true).ends_with("opens more at once"));
    }

    #[test]
    fn an_interrupt_says_what_is_done() {
        let printed = |records, as_member| {
            let so_far = SoFar::Printed { records, as_member };
            CliError::Interrupted { by: ShutdownSignal::Interrupt, so_far }
        };
        assert_eq!(printed(1, false).to_string(), "interrupted; 1 record was printed until then");
        let message = printed(7, true).to_string();
        assert_eq!(
            message,
            "interrupted; 7 records were printed until then, and the group goes on behind what was taken of them"
        );
        assert_eq!((printed(1, true).exit_code(), printed(1, true).is_in_order()), (130, true));
        let by_supervisor = CliError::Interrupted { by: ShutdownSignal::Terminate, so_far: SoFar::Measured };
        assert_eq!(by_supervisor.exit_code(), 143);
    }
}
