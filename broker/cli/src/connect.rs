//! Options shared by all commands that connect to a broker.

use std::time::Duration;

use clap::{Args, ValueEnum};
use millstream_client::{Address, AddressError, ClientConfig, Cluster};
use tokio::runtime::Runtime;

use super::{candidates, error::CliError};

/// How long a command waits for a broker that does not respond.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// The brokers, and the output format.
#[derive(Clone, Debug, Args)]
pub(super) struct Common {
    /// Bootstrap brokers, separated by commas.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092",
        env = "MILLSTREAM_BOOTSTRAP",
        value_parser = destinations
    )]
    pub(super) bootstrap: String,
    /// Output format.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) output: Output,
}

impl Common {
    /// The cluster; connects on first use.
    pub(super) fn cluster(&self) -> Cluster {
        let config = ClientConfig {
            client_id: "millstream-cli".to_string(),
            connect_timeout: CONNECT_TIMEOUT,
            ..ClientConfig::new(&self.bootstrap)
        };
        Cluster::new(config)
    }
}

/// Validates an address, which is kept as given.
pub(super) fn destination(text: &str) -> Result<String, AddressError> {
    Address::destination(text).map(|address| address.to_string())
}

/// Validates a comma-separated list of addresses, which is kept as given.
fn destinations(text: &str) -> Result<String, AddressError> {
    let addresses = Address::destinations(text)?;
    Ok(addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(","))
}

/// Validates a group name.
pub(super) fn group_name(text: &str) -> Result<String, &'static str> {
    filled(text, "a group's name is not empty")
}

/// Validates a key separator.
pub(super) fn separator(text: &str) -> Result<String, &'static str> {
    filled(text, "a separator is not empty")
}

fn filled(text: &str, otherwise: &'static str) -> Result<String, &'static str> {
    if text.is_empty() { Err(otherwise) } else { Ok(text.to_string()) }
}

/// The topic, by its place or by its flag.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct TopicName {
    /// The topic.
    #[arg(value_name = "TOPIC", add = candidates::topics())]
    place: Option<String>,
    /// The topic, as a flag.
    #[arg(long = "topic", value_name = "NAME", add = candidates::topics())]
    flag: Option<String>,
}

impl TopicName {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.place.as_deref().or(self.flag.as_deref()).unwrap_or_default()
    }
}

/// The runtime of the connections.
pub(super) fn runtime() -> Result<Runtime, CliError> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    built.map_err(CliError::io("cannot start the worker thread"))
}
