//! `millstream log`: shows the write-ahead log of a stopped broker.

use clap::{Args, Subcommand};
use millstream_model::RaftGroupId;
use millstream_replica::REPLICAS;
use millstream_store::doctor::{self, FrameRecord, FrameState};
use serde_json::json;

use super::{
    doctor::{Local, LocalOutput, report_json, show_log, unsound},
    error::CliError,
    number::number,
    output::Out,
};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print the log's frames, one per line.
    Dump {
        /// Only frames of this Raft group; 0 is the metadata group.
        #[arg(long, value_name = "N", value_parser = number::<u32>(0..))]
        group: Option<u32>,
        /// Stop after N entries.
        #[arg(long, value_name = "N", value_parser = number::<u64>(0..))]
        limit: Option<u64>,
        #[command(flatten)]
        local: Local,
    },
    /// Check every frame; exits with 1 if the log is damaged.
    Verify {
        #[command(flatten)]
        local: Local,
    },
}

/// Runs the command.
pub(super) fn run(args: LogArgs) -> Result<(), CliError> {
    match args.command {
        LogCommand::Dump { group, limit, local } => dump(&local, group.map(RaftGroupId), limit),
        LogCommand::Verify { local } => verify(local),
    }
}

fn verify(local: Local) -> Result<(), CliError> {
    let (report, mut out) = (doctor::inspect(&local.data_dir, &REPLICAS)?, Out::new());
    match local.output {
        LocalOutput::Json => out.json(&report_json(&report)["log"])?,
        LocalOutput::Table => show_log(&report, &mut out)?,
    }
    out.flush()?;
    if report.log.is_sound() { Ok(()) } else { Err(unsound(&report, local)) }
}

fn dump(local: &Local, group: Option<RaftGroupId>, limit: Option<u64>) -> Result<(), CliError> {
    let (mut out, mut left, mut failed) = (Out::new(), limit.unwrap_or(u64::MAX), None);
    doctor::dump(&local.data_dir, &mut |frame: FrameRecord| {
        if group.is_some_and(|group| group != frame.group) {
            return true;
        }
        if left == 0 {
            return false;
        }
        left -= 1;
        let written = match local.output {
            LocalOutput::Table => out.line(&frame_line(&frame)),
            LocalOutput::Json => out.json(&frame_json(&frame)),
        };
        match written {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    out.flush()
}

fn state_text(state: FrameState) -> &'static str {
    match state {
        FrameState::Good => "good",
        FrameState::Bad => "bad",
        FrameState::WrongBit(..) => "one bit is wrong",
    }
}

fn frame_line(frame: &FrameRecord) -> String {
    let committed = frame.committed.map_or_else(|| "-".to_string(), |index| index.to_string());
    format!(
        "{}:{} {} {} index={} term={} committed={} detail={} payload={}B {}",
        frame.file,
        frame.offset,
        frame.group,
        frame.kind,
        frame.id.index,
        frame.id.term,
        committed,
        frame.detail,
        frame.payload.len(),
        state_text(frame.state)
    )
}

fn frame_json(frame: &FrameRecord) -> serde_json::Value {
    json!({
        "file": frame.file,
        "offset": frame.offset,
        "group": frame.group.0,
        "kind": frame.kind,
        "detail": frame.detail,
        "index": frame.id.index,
        "term": frame.id.term,
        "committed": frame.committed,
        "payload_bytes": frame.payload.len(),
        "state": state_text(frame.state),
    })
}
