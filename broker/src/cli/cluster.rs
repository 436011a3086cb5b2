//! `millstream cluster`: shows the brokers, and shows and changes what they are configured with.

use clap::{Args, Subcommand};
use millstream_client::admin::{Admin, ConfigChange, ConfigOf};
use serde_json::json;

use super::{
    connect::{Common, Output, runtime},
    error::CliError,
    output::Out,
    topic::{changes, show_configs},
};

#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show the cluster and its brokers.
    Describe,
    /// Show the configuration of a broker.
    Config {
        /// The broker [default: the one that leads the metadata].
        #[arg(long, value_name = "ID")]
        broker: Option<i32>,
        /// Also keys that nobody set.
        #[arg(long)]
        all: bool,
    },
    /// Change the configuration of brokers while they run.
    Alter {
        /// Only this broker [default: all].
        #[arg(long, value_name = "ID")]
        broker: Option<i32>,
        /// A key with its new value; may be given several times.
        #[arg(long, value_name = "KEY=VALUE", required_unless_present = "unset")]
        set: Vec<String>,
        /// A key that goes back to what was given at start; may be given several times.
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
    },
}

/// Does what the command line says.
pub(super) fn run(args: ClusterArgs) -> Result<(), CliError> {
    let (admin, output) = (Admin::new(args.common.cluster()), args.common.output);
    runtime()?.block_on(async move {
        let mut out = Out::new();
        match args.command {
            ClusterCommand::Describe => describe(&admin, output, &mut out).await?,
            ClusterCommand::Config { broker, all } => config(&admin, broker, all, output, &mut out).await?,
            ClusterCommand::Alter { broker, set, unset } => {
                let of = broker.map_or(ConfigOf::AllBrokers, ConfigOf::Broker);
                alter(&admin, &of, &changes(&set, unset)?, output, &mut out).await?;
            }
        }
        out.flush()
    })
}

async fn describe(admin: &Admin, output: Output, out: &mut Out) -> Result<(), CliError> {
    let (cluster_id, controller, brokers) = admin.cluster().describe().await?;
    match output {
        Output::Json => {
            let brokers = brokers.iter().map(|b| json!({ "id": b.id, "address": b.address, "rack": b.rack }));
            out.json(&json!({
                "cluster_id": cluster_id,
                "controller": controller,
                "brokers": brokers.collect::<Vec<_>>(),
            }))
        }
        Output::Table => {
            out.line(&format!("cluster {}", cluster_id.as_deref().unwrap_or("without an id")))?;
            let rows: Vec<Vec<String>> = brokers
                .into_iter()
                .map(|broker| {
                    let leads = if Some(broker.id) == controller { "yes" } else { "no" };
                    let rack = broker.rack.unwrap_or_else(|| "-".to_string());
                    vec![broker.id.to_string(), broker.address, rack, leads.to_string()]
                })
                .collect();
            out.table(&["BROKER", "ADDRESS", "RACK", "LEADS METADATA"], &rows)
        }
    }
}

async fn config(
    admin: &Admin,
    broker: Option<i32>,
    all: bool,
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    let id = match broker {
        Some(id) => id,
        None => admin.cluster().describe().await?.1.unwrap_or_default(),
    };
    let mut entries = admin.configs(&ConfigOf::Broker(id)).await?;
    entries.retain(|entry| all || entry.origin != millstream_client::admin::ConfigOrigin::Default);
    match output {
        Output::Table => show_configs(&entries, out),
        Output::Json => {
            let entries = entries.iter().map(|entry| {
                json!({
                    "name": entry.name,
                    "value": entry.value,
                    "read_only": entry.read_only,
                    "documentation": entry.documentation,
                })
            });
            out.json(&json!({ "broker": id, "config": entries.collect::<Vec<_>>() }))
        }
    }
}

async fn alter(
    admin: &Admin,
    of: &ConfigOf,
    changes: &[ConfigChange],
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    admin.alter_configs(of, changes, false).await?;
    match output {
        Output::Table => out.line(&format!("configuration of {of} altered")),
        Output::Json => out.json(&json!({ "of": of.to_string(), "result": "altered" })),
    }
}
