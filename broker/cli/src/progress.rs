//! A progress line on standard error.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use clap::ValueEnum;

use super::output::counted;
use millstream::clock;

/// Interval of updates.
const EVERY: Duration = Duration::from_millis(200);
/// Records between two reads of the clock.
const LOOK_EVERY: u64 = 64;
/// Characters of the bar.
const BAR_WIDTH: u64 = 24;

/// When it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// If standard error is a terminal and the records are not typed.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The progress of a command.
pub(super) struct Progress {
    shown: bool,
    bytes_total: Option<u64>,
    begun: Instant,
    last: Instant,
    records: u64,
    bytes: u64,
}

impl Progress {
    /// No progress yet of the total, if that is known; `typed` when a person types the records.
    pub(super) fn new(when: When, typed: bool, bytes_total: Option<u64>) -> Progress {
        let now = clock::monotonic();
        let shown = match when {
            When::Auto => io::stderr().is_terminal() && !typed,
            When::Always => true,
            When::Never => false,
        };
        Progress { shown, bytes_total, begun: now, last: now, records: 0, bytes: 0 }
    }

    /// Counts progress.
    pub(super) fn add(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        if !self.shown || (self.records > LOOK_EVERY && !self.records.is_multiple_of(LOOK_EVERY)) {
            return;
        }
        let now = clock::monotonic();
        if now.saturating_duration_since(self.last) >= EVERY {
            self.last = now;
            write(&format!("\r{}\x1b[K", self.line(now)));
        }
    }

    /// Clears the line.
    pub(super) fn clear(&self) {
        if self.shown {
            write("\r\x1b[K");
        }
    }

    fn line(&self, now: Instant) -> String {
        let seconds = now.saturating_duration_since(self.begun).as_secs_f64().max(1e-3);
        let rate = self.records as f64 / seconds;
        let mib = self.bytes as f64 / 1_048_576.0;
        let done = format!("{}, {mib:.1} MiB, {rate:.0} records/s", counted(self.records, "record"));
        let Some(total) = self.bytes_total.filter(|total| *total > 0) else { return done };
        let part = self.bytes.min(total);
        let filled = (part * BAR_WIDTH / total) as usize;
        let left = (total - part) as f64 / (self.bytes as f64 / seconds).max(1.0);
        format!(
            "[{}{}] {:>3} %  {done}, {} left",
            "#".repeat(filled),
            ".".repeat(BAR_WIDTH as usize - filled),
            part * 100 / total,
            super::when::lasting((left * 1_000.0) as i64),
        )
    }
}

fn write(text: &str) {
    let mut error = io::stderr();
    // Errors are ignored.
    let _ = error.write_all(text.as_bytes()).and_then(|()| error.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_what_is_done() {
        let mut progress = Progress::new(When::Never, false, Some(1_000));
        progress.add(10, 500);
        let line = progress.line(progress.begun + Duration::from_secs(5));
        assert!(line.starts_with("[############............]  50 %  10 records"), "{line}");
        assert!(line.ends_with("2 records/s, 5.0s left"), "{line}");
        let unknown = Progress::new(When::Never, false, None);
        assert!(!unknown.line(unknown.begun).contains('['));
    }
}
