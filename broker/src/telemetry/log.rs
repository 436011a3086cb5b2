//! Log lines: to standard error, as text or as JSON, filtered by `RUST_LOG` or a filter set at run time.
//! Modules that are quiet by default stay quiet unless the filter names them.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use super::log_queue::{LogQueue, flush_log};
use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Modules of dependencies that log routine events here, such as Raft's warnings at each start, with their
/// levels.
const QUIET: &[(&str, LevelFilter)] = &[("openraft", LevelFilter::ERROR)];

/// How long an ending process waits for its last log lines to be written.
pub const LAST_LINES_WAIT: Duration = Duration::from_secs(1);

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A filter that cannot be parsed; the current one stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{filter}' is not a log filter: {reason}. Allowed are levels (error, warn, info, debug, trace, off) and pairs like millstream::kafka=debug, separated by commas"
)]
pub struct FilterError {
    pub filter: String,
    /// The cause.
    pub reason: String,
}

/// Changes the log filter at run time. Cheap to clone; clones share the filter.
#[derive(Clone)]
pub struct LogSwitch {
    state: Arc<FilterState>,
}

struct FilterState {
    /// `None` if another subscriber was installed before, as in tests.
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    now: Mutex<String>,
    /// The filter at start.
    first: String,
}

impl LogSwitch {
    /// The current filter.
    pub fn filter(&self) -> String {
        self.state.now.lock().clone()
    }

    /// The filter at start.
    pub fn first_filter(&self) -> &str {
        &self.state.first
    }

    /// Sets the filter; modules that are quiet by default stay so unless the filter names them. Takes effect
    /// before it returns.
    pub fn set(&self, filter: &str) -> Result<(), FilterError> {
        let (parsed, text) = parse(filter)?;
        let mut now = self.state.now.lock();
        if let Some(handle) = &self.state.handle {
            let refused =
                |error: reload::Error| FilterError { filter: filter.to_string(), reason: error.to_string() };
            handle.reload(parsed).map_err(refused)?;
        }
        *now = text;
        Ok(())
    }
}

/// A parsed filter and its text.
fn parse(filter: &str) -> Result<(EnvFilter, String), FilterError> {
    let refused = |reason: String| FilterError { filter: filter.to_string(), reason };
    if filter.trim().is_empty() {
        return Err(refused("it is empty".to_string()));
    }
    // A bare word that is not a level would be taken for a module, and silence everything else.
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
    let text = with_quiet(&words.join(","));
    match EnvFilter::try_new(&text) {
        Ok(parsed) => Ok((parsed, text)),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// The filter with the default levels of quiet modules, where it would otherwise let more of them through
/// without naming them.
fn with_quiet(filter: &str) -> String {
    let overall = overall_level(filter);
    let quiet = QUIET.iter().filter(|(module, level)| overall > *level && !names(filter, module));
    quiet.fold(filter.to_string(), |text, (module, level)| format!("{text},{module}={level}"))
}

/// Whether a filter names a module, or a part of it.
fn names(filter: &str, module: &str) -> bool {
    let mut targets = filter.split(',').map(|word| word.trim().split(['=', '[']).next().unwrap_or_default());
    targets.any(|target| {
        target.strip_prefix(module).is_some_and(|part| part.is_empty() || part.starts_with("::"))
    })
}

/// The level for modules that a filter does not name: the last bare level.
fn overall_level(filter: &str) -> LevelFilter {
    let level = filter.rsplit(',').find_map(|word| word.trim().parse::<LevelFilter>().ok());
    level.unwrap_or(LevelFilter::ERROR)
}

/// Starts logging. Without `RUST_LOG`, or if it cannot be parsed, lines of `level` and above are written.
/// Later calls change nothing.
pub fn start_log(format: LogFormat, level: LevelFilter) -> LogSwitch {
    let default = with_quiet(&level.to_string());
    let given = std::env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let wanted = given.as_deref().map_or_else(|| default.clone(), with_quiet);
    let (text, filter, unreadable) = match EnvFilter::try_new(&wanted) {
        Ok(filter) => (wanted, filter, None),
        Err(error) => (default.clone(), EnvFilter::new(&default), Some(error)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(LogQueue::of_process());
    let registry = tracing_subscriber::registry().with(filter);
    // Fails if a subscriber is installed already, as in tests: that one stays.
    let started = match format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if let Some(error) = unreadable {
        tracing::warn!(given, %error, "invalid RUST_LOG; using the default filter");
    }
    if started.is_ok() {
        flush_before_panics();
    }
    let handle = started.is_ok().then_some(handle);
    LogSwitch { state: Arc::new(FilterState { handle, now: Mutex::new(text.clone()), first: text }) }
}

/// A panic ends the process: the earlier log lines explain it.
fn flush_before_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush_log(LAST_LINES_WAIT);
        report(panic);
    }));
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
    fn quiet_modules_stay_quiet_unless_the_filter_names_them() {
        for (given, wanted) in [
            ("info,millstream::kafka=debug", "info,millstream::kafka=debug,openraft=error"),
            ("debug", "debug,openraft=error"),
            ("openrafts=info,WARN", "openrafts=info,WARN,openraft=error"),
            ("info,openraft=info", "info,openraft=info"),
            ("debug,openraft::core=debug", "debug,openraft::core=debug"),
            ("info,openraft[span]=debug", "info,openraft[span]=debug"),
            // They log no more of it.
            ("off", "off"),
            ("error", "error"),
            ("millstream=debug", "millstream=debug"),
        ] {
            assert_eq!(with_quiet(given), wanted);
            assert_eq!(with_quiet(wanted), wanted, "it is added once");
        }
    }

    #[test]
    fn routine_lines_of_raft_are_logged_only_on_request() {
        let logged = |filter: &str| {
            let lines = Lines::default();
            let (filter, _) = parse(filter).expect("a filter");
            let log = fmt::layer().with_writer(lines.clone()).without_time().with_ansi(false);
            let log = tracing_subscriber::registry().with(filter).with(log);
            tracing::subscriber::with_default(log, || {
                tracing::info!(target: "openraft::core", "routine");
                tracing::error!(target: "openraft::core", "trouble");
                tracing::debug!(target: "millstream::kafka::api", "request");
            });
            let text = String::from_utf8(lines.0.lock().clone()).expect("text");
            ["routine", "trouble", "request"].map(|word| text.contains(word))
        };
        assert_eq!(logged("info,millstream::kafka=debug"), [false, true, true]);
        assert_eq!(logged("debug"), [false, true, true]);
        assert_eq!(logged("info,openraft=info"), [true, true, false]);
        assert_eq!(logged("off"), [false, false, false]);
    }

    /// Log lines in memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl fmt::MakeWriter<'_> for Lines {
        type Writer = Lines;

        fn make_writer(&self) -> Lines {
            self.clone()
        }
    }

    #[test]
    fn an_invalid_filter_changes_nothing() {
        let switch = start_log(LogFormat::Text, LevelFilter::WARN);
        let first = switch.filter();
        assert!(switch.set("loud").is_err());
        assert_eq!(switch.filter(), first);
        switch.set("off").expect("a level");
        assert_eq!((switch.filter().as_str(), switch.first_filter()), ("off", first.as_str()));
        switch.set(&first).expect("as before");
    }
}
