//! `millstream serve`: runs a broker.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use super::{error::CliError, number::number};
use millstream::{
    config::{ServeConfig, ServeOptions},
    node,
    telemetry::{LAST_LINES_WAIT, LogFormat, flush_log, start_log},
};

/// Less than the time that a broker has for its shutdown.
const OPENING_WAIT_MAX: Duration = Duration::from_secs(2);

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum LogFormatArg {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Later wins: configuration file, environment, flags, --set.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Configuration file in TOML, with the keys of --set.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_CONFIG")]
    config: Option<PathBuf>,
    /// Data directory [default: ./millstream-data].
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Kafka listener; port 0 picks any free one [default: 127.0.0.1:9092].
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_KAFKA_ADDR")]
    kafka_addr: Option<String>,
    /// HTTP listener; port 0 picks any free one [default: 127.0.0.1:9644].
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_HTTP_ADDR")]
    http_addr: Option<String>,
    /// Address that Kafka clients connect to [default: the bound address].
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_ADVERTISED_KAFKA")]
    advertised_kafka: Option<String>,
    /// This node's id [default: 1].
    #[arg(long, value_name = "N", env = "MILLSTREAM_NODE_ID", value_parser = number::<u64>(0..=i32::MAX as u64))]
    node_id: Option<u64>,
    /// Rack of this node.
    #[arg(long, value_name = "R", env = "MILLSTREAM_RACK")]
    rack: Option<String>,
    /// Memory budget from which the broker's limits are derived, like 512MiB or 2GiB [default: a quarter of
    /// the memory that the process may use, at most 2GiB].
    #[arg(long, value_name = "SIZE", env = "MILLSTREAM_MEMORY")]
    memory: Option<String>,
    /// Set a configuration key; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Format of log lines, which go to standard error; RUST_LOG filters them, or `cluster log-level` at run
    /// time.
    #[arg(long, value_enum, default_value_t, env = "MILLSTREAM_LOG_FORMAT")]
    log_format: LogFormatArg,
}

/// Serves until the process is asked to stop.
pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    let log = start_log(
        match args.log_format {
            LogFormatArg::Text => LogFormat::Text,
            LogFormatArg::Json => LogFormat::Json,
        },
        LevelFilter::INFO,
    );
    let config = ServeConfig::resolve(ServeOptions {
        config: args.config,
        data_dir: args.data_dir,
        kafka_addr: args.kafka_addr,
        http_addr: args.http_addr,
        advertised_kafka: args.advertised_kafka,
        node_id: args.node_id,
        rack: args.rack,
        memory: args.memory,
        set: args.set,
    })?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(worker_threads()).enable_all().thread_name("millstream").build();
    let runtime = runtime.map_err(CliError::io("cannot start the worker threads"))?;
    let served = runtime.block_on(node::serve(config, log));
    // Opening a store is abandoned at shutdown.
    runtime.shutdown_timeout(OPENING_WAIT_MAX);
    flush_log(LAST_LINES_WAIT);
    Ok(served?)
}

/// Half of the cores run requests; the log's writer, flushes and reads have threads of their own. A request
/// passes through several tasks, and moving one to another thread costs more than running it.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}
