//! `millstream bench`: how fast records are written and read, and how long each takes.
//!
//! `load` and `read` do what is measured, `meter` counts, `live` says how far it is, `result` is the shape of what comes out, `report` compares.

mod args;
mod cases;
mod live;
mod load;
mod meter;
mod read;
mod report;
mod result;
mod show;
mod topic;

use std::{fs::OpenOptions, io::Write, path::Path, sync::Arc};

use args::{BenchCommand, Common, Conditions};
use live::{Live, StillWatch};
pub(super) use report::ReportError;
use result::{Broker, Client, FORMAT, Run};
use topic::Bench;

pub(super) use args::BenchArgs;

use super::{
    connect::runtime,
    error::{CliError, SoFar},
};
use crate::{
    clock,
    signals::{Ending, Endings},
};

/// Does what the command line says.
pub(super) fn run(args: BenchArgs) -> Result<(), CliError> {
    let (conditions, common) = match (&args.command, args.command.circumstances()) {
        (_, Some(circumstances)) => circumstances,
        (BenchCommand::Report(args), None) => return Ok(report::run(args)?),
        (_, None) => unreachable!("only a report measures nothing"),
    };
    let (runtime, live) = (runtime()?, Arc::new(Live::new(conditions.progress)));
    let done = runtime.block_on(async {
        let mut endings = Endings::new();
        let done = tokio::select! {
            done = rounds(&args.command, common, conditions, &live) => done,
            () = live.show() => Ok(()),
            by = endings.next() => interrupted(by, common, &live, endings).await,
        };
        live.clear();
        done
    });
    // A thread that writes at a rate does not hear that it is over.
    runtime.shutdown_background();
    done
}

/// Removes what was made, unless it is told to end a second time.
async fn interrupted(
    by: Ending,
    common: &Common,
    live: &Arc<Live>,
    mut endings: Endings,
) -> Result<(), CliError> {
    live.clear();
    eprintln!("millstream: interrupted; removing what was made");
    let bench = Bench::new(common.cluster(), None, live.clone());
    tokio::select! {
        removed = bench.remove_left() => removed.and(Err(CliError::Interrupted { by, so_far: SoFar::Measured })),
        never = endings.end_at_once() => never,
    }
}

async fn rounds(
    command: &BenchCommand,
    common: &Common,
    conditions: &Conditions,
    live: &Arc<Live>,
) -> Result<(), CliError> {
    for round in 1..=conditions.rounds {
        let run = measure(command, common, conditions, live).await?;
        if let Some(path) = &conditions.save {
            save(path, &run)?;
        }
        live.clear();
        show::run(common.output, &run, (round, conditions.rounds))?;
        if let Some(ms) = run.client_stood_still_ms {
            eprintln!(
                "millstream: warning: this process did not run for {ms} ms while it measured, which its times include; was the machine busy or suspended?"
            );
        }
    }
    Ok(())
}

/// One round of a case.
async fn measure(
    command: &BenchCommand,
    common: &Common,
    conditions: &Conditions,
    live: &Arc<Live>,
) -> Result<Run, CliError> {
    let bench = Bench::new(common.cluster(), conditions.pid, live.clone());
    let (cluster_id, _, nodes) = bench.admin.cluster().describe().await?;
    let (started_ms, still) = (clock::now_ms(), StillWatch::begin());
    let (case, measured) = cases::measure(command, &bench).await?;
    let client_stood_still_ms = still.end().map(|longest| longest.as_millis() as u64);
    Ok(Run {
        format: FORMAT.to_string(),
        case: case.to_string(),
        label: conditions.label.clone().unwrap_or_else(|| common.bootstrap.clone()),
        started_ms,
        machine: meter::machine(),
        client: Client { version: concat!("millstream ", env!("CARGO_PKG_VERSION")).to_string() },
        broker: Broker {
            bootstrap: common.bootstrap.clone(),
            cluster_id,
            nodes: Some(nodes.len()),
            commit: conditions.commit.clone(),
        },
        parameters: measured.parameters,
        figures: measured.figures,
        latency: measured.latency,
        rate: measured.rate,
        cpu: measured.cpu,
        client_stood_still_ms,
    })
}

/// Adds a line to a file of results.
fn save(path: &Path, run: &Run) -> Result<(), CliError> {
    let failed = || CliError::io(format!("cannot write {}", path.display()));
    let mut line = serde_json::to_string(run).map_err(|error| failed()(error.into()))?;
    line.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed())?;
    file.write_all(line.as_bytes()).map_err(failed())
}
