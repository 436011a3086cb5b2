//! Log lines: to standard error, as text or as JSON, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

/// Starts logging. Without `RUST_LOG`, or where that cannot be read, lines of `level` and above are written. Later
/// calls change nothing.
pub fn start_log(format: LogFormat, level: LevelFilter) {
    // Raft says at INFO what is routine here.
    let quiet = "openraft=warn".parse();
    let default = || {
        let filter = EnvFilter::default().add_directive(level.into());
        match quiet {
            Ok(quiet) => filter.add_directive(quiet),
            Err(_) => filter,
        }
    };
    let filter = match std::env::var("RUST_LOG") {
        Ok(given) => EnvFilter::try_new(given).unwrap_or_else(|_| default()),
        Err(_) => default(),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Refused when a subscriber is there already, as in tests: that one stays.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
