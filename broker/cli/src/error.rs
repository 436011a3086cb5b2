//! Why a command failed, and what to do next.

use std::{fmt, io, path::PathBuf};

use millstream::{config::ServeConfigError, node::NodeError, signals::ShutdownSignal, suggest::any_of};
use millstream_bench::{BenchError, report::ReportError};
use millstream_client::{
    ClientError, ErrorCode,
    producer::{DeliveryError, SendError},
};
use millstream_model::limits::BATCH_BYTES_MAX;
use millstream_store::doctor::DoctorError;

use super::{
    line_record::LineProblem,
    output::{counted, were},
};

/// What a topic may be called.
const TOPIC_NAME: &str = "1 to 249 ASCII letters, digits, '.', '_' and '-', and neither '.' nor '..'";

/// Each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A configuration that cannot be served with.
    #[error(transparent)]
    Config(#[from] ServeConfigError),
    /// The broker could not start or had to stop.
    #[error("{0}{next}", next = after_start(.0))]
    Node(#[from] NodeError),
    /// The brokers could not be asked, or said no.
    #[error("{words}{next}", words = words(.0), next = next_step(.0))]
    Client(#[from] ClientError),
    /// A key or a value that cannot be configured.
    #[error("{error}; {shown_by}")]
    Keys {
        /// What the broker said.
        error: ClientError,
        /// What shows the keys that there are.
        shown_by: String,
    },
    /// A record was not taken.
    #[error(transparent)]
    Send(SendError),
    /// Records that were taken were not delivered.
    #[error("{}: {first}", undelivered(*failed, *all))]
    Delivery {
        /// How many.
        failed: u64,
        /// Out of how many.
        all: u64,
        /// Why the first one was not.
        first: DeliveryError,
    },
    /// The first of the records that were not delivered is larger than the topic takes.
    #[error("{}: {size}", undelivered(*failed, *all))]
    TooLarge {
        /// How many.
        failed: u64,
        /// Out of how many.
        all: u64,
        /// By how much, and what takes such a record.
        size: TooLarge,
    },
    /// Some of what several names were given for could not be done.
    #[error("{failed} of {all} {kind}s {} not deleted; see above", were(*failed))]
    NotAll {
        /// How many.
        failed: usize,
        /// Out of how many.
        all: usize,
        /// What the names are of.
        kind: &'static str,
    },
    /// What was asked for is not there.
    #[error("{0}")]
    Missing(Missing),
    /// A flag's value is not allowed.
    #[error("invalid value '{value}' for {flag}: {allowed}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be allowed.
        allowed: &'static str,
    },
    /// A group that cannot be changed now.
    #[error(
        "group '{group}' has members; stop them first, `millstream group describe {group}` shows who they are"
    )]
    GroupBusy {
        /// The group.
        group: String,
    },
    /// A line of the input is no record.
    #[error("line {line} of {source_name}: {problem}")]
    Line {
        /// Where the line is.
        source_name: String,
        /// Its number.
        line: u64,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// It was interrupted and shut down cleanly: nothing that it accepted is lost.
    #[error("interrupted{so_far}")]
    Interrupted {
        /// By which signal.
        by: ShutdownSignal,
        /// What is done.
        so_far: SoFar,
    },
    /// Partitions cannot be written and read.
    #[error(
        "{} without a leader can be neither written nor read; are all brokers running?", counted(*partitions, "partition")
    )]
    Unhealthy {
        /// How many.
        partitions: usize,
    },
    /// Brokers take no records.
    #[error(
        "{} will take no records until there is room on the disk: delete topics or records, shorten retention, or enlarge the volume",
        counted(*brokers, "broker")
    )]
    RefusingWrites {
        /// How many.
        brokers: usize,
    },
    /// The HTTP port does not answer.
    #[error(
        "cannot read {url}: {source}; --http-addr names the broker's HTTP port, which `serve` prints when it is ready"
    )]
    Http {
        /// What was asked for.
        url: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The HTTP port says no.
    #[error("the broker answers {status}: {said}")]
    Answer {
        /// The status.
        status: u16,
        /// In its words.
        said: String,
    },
    /// A measurement failed.
    #[error(transparent)]
    Bench(BenchError),
    /// Results of measurements that cannot be shown together.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The data directory could not be looked at or repaired.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// Something is wrong with a data directory.
    #[error("{} is not sound; {}", dir.display(), if *repairable {
        format!("`millstream doctor --data-dir {} --repair` repairs its log", dir.display())
    } else {
        "no repair of the log helps: restore a backup".to_string()
    })]
    Unsound {
        /// The data directory.
        dir: PathBuf,
        /// Whether a repair of its log makes anything better.
        repairable: bool,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// What a command had done when it was interrupted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SoFar {
    /// Lines were sent.
    #[error(" behind line {line} of {source_name}; what was read until then was sent")]
    Sent {
        /// Where the line is.
        source_name: String,
        /// The last line that was read.
        line: u64,
    },
    /// Records were printed.
    #[error("; {}", printed(*records, *as_member))]
    Printed {
        /// How many.
        records: u64,
        /// Whether a group has committed it.
        as_member: bool,
    },
    /// Something was measured.
    #[error(
        "; the measurement is not complete, so no result is shown; the topics that it created are deleted"
    )]
    Measured,
}

/// A record that is larger than its topic takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// The topic.
    pub(super) topic: String,
    /// What the record has, with its key and its headers.
    pub(super) bytes: usize,
    /// The topic's `max.message.bytes`, where it is known.
    pub(super) bytes_max: Option<usize>,
    /// Whether it was compressed.
    pub(super) compressed: bool,
}

/// More than the fields of a batch take around one record.
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
        let raised = match needed <= BATCH_BYTES_MAX && bytes_max.is_none_or(|max| max < needed) {
            true => {
                format!("`millstream topic alter {topic} --set max.message.bytes={needed}` lets it take it")
            }
            false => format!("no topic takes more than {BATCH_BYTES_MAX} bytes at once"),
        };
        write!(
            text,
            "; {raised}{}",
            if *compressed { "" } else { ", --compression zstd may make it small enough" }
        )
    }
}

/// Something that is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// A topic.
    #[error("topic '{name}' does not exist; {}{next}", did_you_mean(near))]
    Topic {
        /// Its name.
        name: String,
        /// Topics that are called nearly so.
        near: Vec<String>,
        /// What one can do.
        next: &'static str,
    },
    /// A partition of a topic.
    #[error("topic '{topic}' has no partition {partition}; {}", those_there_are(*partitions))]
    Partition {
        /// The topic.
        topic: String,
        /// How many it has.
        partitions: usize,
        /// What was asked for.
        partition: i32,
    },
    /// A broker.
    #[error("the cluster has no broker {id}; `millstream cluster describe` shows which there are")]
    Broker {
        /// Its id.
        id: i32,
    },
    /// A group.
    #[error("group '{name}' does not exist; {}{next}", did_you_mean(near))]
    Group {
        /// Its name.
        name: String,
        /// Groups that are called nearly so.
        near: Vec<String>,
        /// What one can do.
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

    /// Whether it ended cleanly: by a signal, or because its reader has gone.
    pub(super) fn is_in_order(&self) -> bool {
        matches!(self, CliError::Interrupted { .. }) || self.is_closed_pipe()
    }

    /// Whether the reader of standard output has gone, which is its right.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether it is about what was named, and says nothing about any other name.
    pub(super) fn is_about_name(&self) -> bool {
        match self {
            CliError::Missing(_) | CliError::GroupBusy { .. } => true,
            CliError::Client(error) => error.code().is_some(),
            _ => false,
        }
    }

    /// A refusal, with what shows the keys that there are if it is about one of them.
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

/// What one can do about a broker that does not start.
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

/// What went wrong. Kafka's own words for what happens most do not say it.
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

/// What one can do about it.
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
        assert!(size(BATCH_BYTES_MAX, Some(1_048_588), true).ends_with("bytes at once"));
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
