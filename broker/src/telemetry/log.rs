//! Log lines: to standard error, as text or as JSON, filtered by `RUST_LOG` and, while the broker runs, by whoever
//! switches it.

use std::{io::IsTerminal, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

/// A filter that cannot be read; the one that was in force still is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{filter}' is not a log filter: {reason}. Allowed are levels (error, warn, info, debug, trace, off) and pairs like millstream::kafka=debug, separated by commas"
)]
pub struct FilterError {
    /// What was given.
    pub filter: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Changes what is logged while the broker runs. Cheap to clone; all clones switch the same.
#[derive(Clone)]
pub struct LogSwitch {
    inner: Arc<Inner>,
}

struct Inner {
    /// None where another subscriber was there before, as in tests.
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    now: Mutex<String>,
    /// What was in force at start.
    first: String,
}

impl LogSwitch {
    /// The filter that is in force.
    pub fn filter(&self) -> String {
        self.inner.now.lock().clone()
    }

    /// The filter that was in force at start.
    pub fn first_filter(&self) -> &str {
        &self.inner.first
    }

    /// From now on logs what this filter says; takes effect before it returns.
    pub fn set(&self, filter: &str) -> Result<(), FilterError> {
        let parsed = parse(filter)?;
        let mut now = self.inner.now.lock();
        if let Some(handle) = &self.inner.handle {
            let refused =
                |error: reload::Error| FilterError { filter: filter.to_string(), reason: error.to_string() };
            handle.reload(parsed).map_err(refused)?;
        }
        *now = filter.to_string();
        Ok(())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let refused = |reason: String| FilterError { filter: filter.to_string(), reason };
    if filter.trim().is_empty() {
        return Err(refused("it is empty".to_string()));
    }
    // A bare word that is no level would be taken for a module, and silence everything else.
    for word in filter.split(',').map(str::trim).filter(|word| !word.contains(['=', '[', ':'])) {
        if word.is_empty() || word.parse::<LevelFilter>().is_err() {
            return Err(refused(format!("'{word}' is no level")));
        }
    }
    let words: Vec<&str> = filter.split(',').map(str::trim).collect();
    // Without a level everything of the module would be logged.
    if let Some(word) = words.iter().find(|word| word.ends_with('=')) {
        return Err(refused(format!("'{word}' has no level behind its '='")));
    }
    EnvFilter::try_new(words.join(",")).map_err(|error| refused(error.to_string()))
}

/// Starts logging. Without `RUST_LOG`, or where that cannot be read, lines of `level` and above are written. Later
/// calls change nothing.
pub fn start_log(format: LogFormat, level: LevelFilter) -> LogSwitch {
    // Raft warns of what is routine here, for instance at each start.
    let default = format!("{level},openraft=error");
    let given = std::env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let (text, filter, unreadable) = match given.map(|given| (EnvFilter::try_new(&given), given)) {
        Some((Ok(filter), given)) => (given, filter, None),
        Some((Err(error), given)) => (default.clone(), EnvFilter::new(&default), Some((given, error))),
        None => (default.clone(), EnvFilter::new(&default), None),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // Refused when a subscriber is there already, as in tests: that one stays.
    let started = match format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if let Some((given, error)) = unreadable {
        tracing::warn!(given, %error, "RUST_LOG cannot be read; the default filter is used");
    }
    let handle = started.is_ok().then_some(handle);
    LogSwitch { inner: Arc::new(Inner { handle, now: Mutex::new(text.clone()), first: text }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_pairs() {
        for good in
            ["info", "WARN,openraft=error", "off", "debug, millstream::kafka=trace", "millstream=debug"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "loud", "info,loud", "a=loud", "info,", "nonsense=", "info,a="] {
            let refused = parse(bad).expect_err(bad);
            assert!(refused.to_string().contains("Allowed are"), "{refused}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_changes_nothing() {
        let switch = start_log(LogFormat::Text, LevelFilter::WARN);
        let first = switch.filter();
        assert!(switch.set("loud").is_err());
        assert_eq!(switch.filter(), first);
        switch.set("off").expect("a level");
        assert_eq!((switch.filter().as_str(), switch.first_filter()), ("off", first.as_str()));
        switch.set(&first).expect("as before");
    }
}
