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
    // Raft warns of what is routine here, for instance at each start.
    let quiet = "openraft=error".parse();
    let default = || {
        let filter = EnvFilter::default().add_directive(level.into());
        match quiet {
            Ok(quiet) => filter.add_directive(quiet),
            Err(_) => filter,
        }
    };
    let given = std::env::var("RUST_LOG")
        .ok()
        .map(|given| EnvFilter::try_new(&given).map_err(|error| (given, error)));
    let (filter, unreadable) = match given {
        Some(Ok(filter)) => (filter, None),
        Some(Err(unreadable)) => (default(), Some(unreadable)),
        None => (default(), None),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Refused when a subscriber is there already, as in tests: that one stays.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Some((given, error)) = unreadable {
        tracing::warn!(given, %error, "RUST_LOG cannot be read; the default filter is used");
    }
}
