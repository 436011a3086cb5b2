//! `millstream bench`: measures throughput and latency.
//!
//! This is the command line; `millstream-bench` measures.

mod args;
mod show;

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    path::Path,
    sync::Arc,
};

use args::{BenchCommand, Common, Conditions};
use millstream::console;
use millstream::signals::{ShutdownSignal, ShutdownSignals};
use millstream_bench::{Bench, BenchError, Case, Live, report, result::Run};

pub(super) use args::BenchArgs;

use super::{
    connect::runtime,
    error::{CliError, SoFar},
    find,
    progress::When,
};

/// Advice for a missing topic.
const NEXT: &str = "without --topic a new one is made, and removed at the end";

/// Runs the command.
pub(super) fn run(args: BenchArgs) -> Result<(), CliError> {
    let (case, (conditions, common)) =
        match (&args.command, args.command.case()?.zip(args.command.circumstances())) {
            (_, Some(measured)) => measured,
            (BenchCommand::Report(args), None) => {
                return Ok(report::write(&args.files, &args.out, &args.title)?);
            }
            (_, None) => unreachable!("only a report measures nothing"),
        };
    let shown = match conditions.progress {
        When::Auto => io::stderr().is_terminal(),
        When::Always => true,
        When::Never => false,
    };
    let (runtime, live) = (runtime()?, Arc::new(Live::new(shown)));
    let done = runtime.block_on(async {
        let mut endings = ShutdownSignals::new();
        let done = tokio::select! {
            done = rounds(&case, common, conditions, &live) => done,
            () = live.show() => Ok(()),
            by = endings.next() => interrupted(by, common, &live, endings).await,
        };
        live.clear();
        done
    });
    // A thread that writes at a fixed rate does not see the interrupt.
    runtime.shutdown_background();
    done
}

/// Deletes what was created, unless it is interrupted again.
async fn interrupted(
    by: ShutdownSignal,
    common: &Common,
    live: &Arc<Live>,
    mut endings: ShutdownSignals,
) -> Result<(), CliError> {
    live.clear();
    console::note(format_args!("millstream: interrupted; removing what was made"));
    let bench = Bench::new(common.cluster(), None, live.clone());
    tokio::select! {
        removed = bench.remove_left() => {
            removed?;
            Err(CliError::Interrupted { by, so_far: SoFar::Measured })
        }
        never = endings.end_at_once() => never,
    }
}

async fn rounds(
    case: &Case,
    common: &Common,
    conditions: &Conditions,
    live: &Arc<Live>,
) -> Result<(), CliError> {
    for round in 1..=conditions.rounds {
        let run = measure(case, common, conditions, live).await?;
        if let Some(path) = &conditions.save {
            save(path, &run)?;
        }
        live.clear();
        show::run(common.output, &run, (round, conditions.rounds))?;
        if let Some(ms) = run.client_stood_still_ms {
            console::note(format_args!(
                "millstream: warning: this process did not run for {ms} ms while it measured, which its times include; was the machine busy or suspended?"
            ));
        }
    }
    Ok(())
}

/// One round of a case.
async fn measure(
    case: &Case,
    common: &Common,
    conditions: &Conditions,
    live: &Arc<Live>,
) -> Result<Run, CliError> {
    let cluster = common.cluster();
    if let Some(topic) = case.topic() {
        find::topic_or(&cluster, topic, NEXT).await?;
    }
    let recorded = millstream_bench::Conditions {
        label: conditions.label.clone().unwrap_or_else(|| common.bootstrap.clone()),
        commit: conditions.commit.clone(),
        bootstrap: common.bootstrap.clone(),
    };
    let bench = Bench::new(cluster, conditions.pid, live.clone());
    Ok(millstream_bench::measure(case, &bench, &recorded).await?)
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> CliError {
        match error {
            BenchError::Client(error) => error.into(),
            BenchError::Send(error) => error.into(),
            BenchError::Delivery { all, first } => CliError::Delivery { failed: 1, all, first },
            BenchError::Leaderless { partitions } => CliError::Unhealthy { partitions },
            other => CliError::Bench(other),
        }
    }
}

/// Appends a line to a file of results.
fn save(path: &Path, run: &Run) -> Result<(), CliError> {
    let failed = || CliError::io(format!("cannot write {}", path.display()));
    let mut line = serde_json::to_string(run).map_err(|error| failed()(error.into()))?;
    line.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed())?;
    file.write_all(line.as_bytes()).map_err(failed())
}
