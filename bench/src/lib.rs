//! The load generator behind `millstream bench`: how fast records are written and read, and how long each takes.
//!
//! A [`Case`] says what to measure, [`measure`] runs it against a cluster and gives a [`result::Run`], [`report`] compares runs.
//! `load` and `read` generate the load, `meter` counts, `live` knows the progress. Nothing here knows the broker's crates: a
//! case runs against any broker that speaks the Kafka protocol.
#![allow(missing_docs)] // Not published: the names say it.

mod case;
mod cases;
mod clock;
mod error;
mod live;
mod load;
mod meter;
mod read;
pub mod report;
pub mod result;
mod stall;
mod topic;

pub use case::{Case, Consume, Groups, Paced, Partitions, Produce, Records, TopicChoice};
pub use error::BenchError;
pub use live::Live;
pub use meter::BROKER_SECONDS_MIN;
pub use read::MARK_BYTES;
pub use stall::StallWatch;
pub use topic::Bench;

use live::StillWatch;
use result::{Broker, Client, FORMAT, Run};

/// What is recorded with a result besides what was measured.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The name of what is measured; runs with the same label and case are rounds of one measurement.
    pub label: String,
    /// What the broker was built from.
    pub commit: Option<String>,
    /// The addresses at which the cluster was reached.
    pub bootstrap: String,
}

/// Measures one round of a case.
pub async fn measure(case: &Case, bench: &Bench, conditions: &Conditions) -> Result<Run, BenchError> {
    let (cluster_id, _, nodes) = bench.admin.cluster().describe().await?;
    let (started_ms, still) = (clock::now_ms(), StillWatch::begin());
    let measured = cases::measure(case, bench).await?;
    let client_stood_still_ms = still.end().map(|longest| longest.as_millis() as u64);
    Ok(Run {
        format: FORMAT.to_string(),
        case: case.name().to_string(),
        label: conditions.label.clone(),
        started_ms,
        machine: meter::machine(),
        client: Client { version: concat!("millstream ", env!("CARGO_PKG_VERSION")).to_string() },
        broker: Broker {
            bootstrap: conditions.bootstrap.clone(),
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
