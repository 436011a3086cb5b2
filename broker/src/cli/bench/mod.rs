//! `millstream bench`: how fast records are written and read, and how long each takes.
//!
//! `load` and `read` do what is measured, `meter` counts, `result` is the shape of what comes out, `report` compares.

mod args;
mod cases;
mod load;
mod meter;
mod read;
mod report;
mod result;
mod show;
mod topic;

use std::{fs::OpenOptions, io::Write, path::Path};

use args::{BenchCommand, Common, Conditions};
pub(super) use report::ReportError;
use result::{Broker, Client, FORMAT, Run};
use topic::Bench;

pub(super) use args::BenchArgs;

use super::{connect::runtime, error::CliError};
use crate::clock;

/// Does what the command line says.
pub(super) fn run(args: BenchArgs) -> Result<(), CliError> {
    let (command, conditions) = match args.command {
        BenchCommand::Report(args) => return Ok(report::run(&args)?),
        other => (other, args.conditions),
    };
    let common = args.common;
    runtime()?.block_on(async move {
        for round in 1..=conditions.rounds {
            let run = measure(&command, &common, &conditions).await?;
            if let Some(path) = &conditions.save {
                save(path, &run)?;
            }
            show::run(common.output, &run, (round, conditions.rounds))?;
        }
        Ok(())
    })
}

/// One round of a case.
async fn measure(command: &BenchCommand, common: &Common, conditions: &Conditions) -> Result<Run, CliError> {
    let bench = Bench::new(common.cluster(), conditions.pid);
    let (cluster_id, _, nodes) = bench.admin.cluster().describe().await?;
    let started_ms = clock::now_ms();
    let (case, measured) = cases::measure(command, &bench).await?;
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
