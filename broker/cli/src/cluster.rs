//! `millstream cluster`: shows brokers and their status, and shows and changes their configuration.

use clap::{Args, Subcommand};
use millstream_client::{
    BrokerMeta,
    admin::{Admin, ConfigChange, ConfigOf, ConfigOrigin},
};
use serde_json::{Value, json};

use super::{
    cluster_status::status,
    connect::{Common, Output, runtime},
    error::{CliError, Missing},
    http::{self, HttpPort},
    number::number,
    output::Out,
    topic::{Changes, show_configs},
};
use millstream::console;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
    #[command(flatten)]
    common: Common,
}

const KEYS: &str = "`millstream cluster config --all` shows the keys of a broker";

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Check that every partition can be written and read; exits with 1 if not, for example because a disk is
    /// full.
    Status,
    /// Show the cluster and its brokers.
    Describe,
    /// Show the configuration of a broker.
    Config {
        /// Broker id [default: the metadata leader].
        #[arg(long, value_name = "ID", value_parser = number::<i32>(0..))]
        broker: Option<i32>,
        /// Include keys at their defaults.
        #[arg(long)]
        all: bool,
    },
    /// Change the configuration of brokers at run time.
    Alter {
        /// Only this broker [default: all].
        #[arg(long, value_name = "ID", value_parser = number::<i32>(0..))]
        broker: Option<i32>,
        #[command(flatten)]
        changes: Changes,
    },
    /// Show or change a broker's log filter, until it stops.
    LogLevel {
        /// A filter as in RUST_LOG, like `debug` or `info,millstream::kafka=trace`; `default` is the filter
        /// at start.
        filter: Option<String>,
        #[command(flatten)]
        port: HttpPort,
    },
}

/// Runs the command.
pub(super) fn run(args: ClusterArgs) -> Result<(), CliError> {
    let (admin, output) = (Admin::new(args.common.cluster()), args.common.output);
    runtime()?.block_on(async move {
        let mut out = Out::new();
        match args.command {
            ClusterCommand::Status => status(&admin, output, &mut out).await?,
            ClusterCommand::Describe => describe(&admin, output, &mut out).await?,
            ClusterCommand::Config { broker, all } => config(&admin, broker, all, output, &mut out).await?,
            ClusterCommand::Alter { broker, changes } => {
                if let Some(id) = broker {
                    known(&admin.cluster().describe().await?.2, id)?;
                }
                let of = broker.map_or(ConfigOf::AllBrokers, ConfigOf::Broker);
                alter(&admin, &of, &changes.parse()?, output, &mut out).await?;
            }
            ClusterCommand::LogLevel { filter, port } => {
                log_level(filter, &port, output, &mut out).await?;
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
    let (_, controller, brokers) = admin.cluster().describe().await?;
    let id = broker.or(controller).unwrap_or_default();
    known(&brokers, id)?;
    let mut entries = admin.configs(&ConfigOf::Broker(id)).await?;
    entries.retain(|entry| all || entry.origin != ConfigOrigin::Default);
    match output {
        Output::Table if entries.is_empty() => {
            console::note(format_args!("broker {id} has the default configuration; --all shows it"));
            Ok(())
        }
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

/// Checks that the broker exists.
fn known(brokers: &[BrokerMeta], id: i32) -> Result<(), CliError> {
    match brokers.iter().any(|broker| broker.id == id) {
        true => Ok(()),
        false => Err(CliError::Missing(Missing::Broker { id })),
    }
}

async fn alter(
    admin: &Admin,
    of: &ConfigOf,
    changes: &[ConfigChange],
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    let altered = admin.alter_configs(of, changes, false).await;
    altered.map_err(|error| CliError::about_keys(error, KEYS))?;
    match output {
        Output::Table => out.line(&format!("configuration of {of} altered")),
        Output::Json => out.json(&json!({ "of": of.to_string(), "result": "altered" })),
    }
}

async fn log_level(
    filter: Option<String>,
    port: &HttpPort,
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    let body = filter.map(|filter| match filter.as_str() {
        "default" => json!({ "filter": Value::Null }).to_string(),
        filter => json!({ "filter": filter }).to_string(),
    });
    let method = if body.is_some() { "PUT" } else { "GET" };
    let answer = port.ask(method, "/v1/log", body.as_deref()).await?;
    let answered: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match (answer.status, answered["filter"].as_str(), output) {
        (200, Some(filter), Output::Table) => out.line(&format!("the broker logs {filter}")),
        (200, Some(_), Output::Json) => out.json(&answered),
        (status, ..) => {
            let said =
                answered["error"].as_str().map_or_else(|| http::first_line(&answer.body), String::from);
            Err(CliError::Answer { status, said })
        }
    }
}
