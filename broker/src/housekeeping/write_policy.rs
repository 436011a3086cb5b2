//! Decides what to write now. Pure: the load and the time are inputs.

use std::time::{Duration, Instant};

/// Batches stay in memory no longer than this.
const FLUSH_AFTER: Duration = Duration::from_secs(600);
/// Compaction reads runs only, so records with a short compaction lag leave memory sooner, but not more often
/// than this, whatever a topic's configuration: every flush creates a run.
const COMPACTED_FLUSH_AFTER_MIN: Duration = Duration::from_secs(5);

/// The load of memory and log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// The memtable has reached its size.
    pub(super) memtable_full: bool,
    pub(super) memtable_bytes: usize,
    /// The smallest compaction lag of records in the memtable, if any.
    pub(super) compact_within: Option<Duration>,
    /// Log memory in use.
    pub(super) log_memory_bytes: usize,
    /// Bytes of log files in use.
    pub(super) log_bytes: u64,
    /// The free disk space is below its threshold.
    pub(super) disk_low: bool,
}

/// The thresholds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Small batches hold far more log memory than their own length.
    pub(super) log_memory_bytes: usize,
    pub(super) log_bytes: u64,
    pub(super) log_file_bytes: u64,
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The memtable.
    Flush,
    /// The memtable and every group's state, so that log files can be recycled.
    Checkpoint,
}

/// State between checks.
#[derive(Debug)]
pub(super) struct WritePolicy {
    /// Since when the memtable has not been empty; an upper bound of the age of its content.
    filled_at: Option<Instant>,
    /// What was left after the last flush, or less: readers may hold it, and another flush would not help.
    log_memory_left: usize,
    /// What was left after the last checkpoint, or less: later entries, for which another would not help.
    log_left: u64,
}

impl WritePolicy {
    pub(super) fn new() -> WritePolicy {
        WritePolicy { filled_at: None, log_memory_left: 0, log_left: 0 }
    }

    pub(super) fn due(&mut self, load: &Load, bounds: &Bounds, now: Instant) -> Due {
        self.log_memory_left = self.log_memory_left.min(load.log_memory_bytes);
        self.log_left = self.log_left.min(load.log_bytes);
        // A log that cannot grow must recycle the files that it has.
        let small = bounds.log_bytes.min(2 * bounds.log_file_bytes);
        let log_bytes = if load.disk_low { small } else { bounds.log_bytes };
        if load.log_bytes > log_bytes.max(self.log_left + log_bytes / 2) {
            return Due::Checkpoint;
        }
        let log_memory = bounds.log_memory_bytes.max(self.log_memory_left + bounds.log_memory_bytes / 2);
        let old = self.memtable_age(load, now) >= flush_after(load);
        if load.memtable_full || load.log_memory_bytes >= log_memory || old {
            Due::Flush
        } else {
            Due::Nothing
        }
    }

    fn memtable_age(&mut self, load: &Load, now: Instant) -> Duration {
        if load.memtable_bytes == 0 {
            self.filled_at = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.filled_at.get_or_insert(now))
    }

    /// Records what was written, and what is left.
    pub(super) fn wrote(&mut self, due: Due, left: &Load, now: Instant) {
        // What is left arrived during the flush.
        self.filled_at = (left.memtable_bytes > 0).then_some(now);
        self.log_memory_left = left.log_memory_bytes;
        if due == Due::Checkpoint {
            self.log_left = left.log_bytes;
        }
    }
}

/// Age at which the memtable is flushed.
fn flush_after(load: &Load) -> Duration {
    let compacted = load.compact_within.map(|within| within.max(COMPACTED_FLUSH_AFTER_MIN));
    compacted.unwrap_or(FLUSH_AFTER).min(FLUSH_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const BOUNDS: Bounds = Bounds { log_memory_bytes: 100, log_bytes: 1000, log_file_bytes: 200 };

    fn log_memory(bytes: usize) -> Load {
        Load { log_memory_bytes: bytes, ..Load::default() }
    }

    fn log(bytes: u64, disk_low: bool) -> Load {
        Load { log_bytes: bytes, disk_low, ..Load::default() }
    }

    #[test]
    fn small_batches_are_flushed_for_the_log_memory_that_they_hold() {
        let start = clock::monotonic();
        let mut policy = WritePolicy::new();
        assert_eq!(policy.due(&log_memory(99), &BOUNDS, start), Due::Nothing);
        assert_eq!(policy.due(&log_memory(100), &BOUNDS, start), Due::Flush);
        // Readers hold most of it: repeated flushes would not help.
        policy.wrote(Due::Flush, &log_memory(90), start);
        assert_eq!(policy.due(&log_memory(139), &BOUNDS, start), Due::Nothing);
        assert_eq!(policy.due(&log_memory(140), &BOUNDS, start), Due::Flush);
        assert_eq!(policy.due(&log_memory(10), &BOUNDS, start), Due::Nothing);
        assert_eq!(policy.due(&log_memory(100), &BOUNDS, start), Due::Flush, "they have left");
    }

    #[test]
    fn a_log_that_is_too_long_is_cut_and_sooner_when_the_disk_is_low() {
        let start = clock::monotonic();
        let mut policy = WritePolicy::new();
        assert_eq!(policy.due(&log(1000, false), &BOUNDS, start), Due::Nothing);
        assert_eq!(policy.due(&log(1001, false), &BOUNDS, start), Due::Checkpoint);
        policy.wrote(Due::Checkpoint, &log(900, false), start);
        assert_eq!(policy.due(&log(1400, false), &BOUNDS, start), Due::Nothing);
        assert_eq!(policy.due(&log(1401, false), &BOUNDS, start), Due::Checkpoint);
        assert_eq!(policy.due(&log(400, true), &BOUNDS, start), Due::Nothing);
        assert_eq!(policy.due(&log(601, true), &BOUNDS, start), Due::Checkpoint);
        assert_eq!(policy.due(&log(601, false), &BOUNDS, start), Due::Nothing);
    }

    #[test]
    fn a_memtable_is_written_when_it_is_full_or_old() {
        let start = clock::monotonic();
        let mut policy = WritePolicy::new();
        let some = Load { memtable_bytes: 1, ..Load::default() };
        assert_eq!(policy.due(&Load { memtable_full: true, ..some }, &BOUNDS, start), Due::Flush);
        assert_eq!(policy.due(&some, &BOUNDS, start + FLUSH_AFTER / 2), Due::Nothing);
        assert_eq!(policy.due(&some, &BOUNDS, start + FLUSH_AFTER), Due::Flush);
        assert_eq!(policy.due(&Load::default(), &BOUNDS, start + FLUSH_AFTER), Due::Nothing);
        policy.wrote(Due::Flush, &Load::default(), start + FLUSH_AFTER);
        assert_eq!(policy.due(&some, &BOUNDS, start + FLUSH_AFTER), Due::Nothing);
    }

    #[test]
    fn records_that_are_to_be_compacted_soon_are_written_soon_but_not_all_the_time() {
        let start = clock::monotonic();
        let (second, lag) = (Duration::from_secs(1), Duration::from_secs(60));
        let some = |within| Load { memtable_bytes: 1, compact_within: Some(within), ..Load::default() };
        let mut policy = WritePolicy::new();
        // The memtable was empty for a long time: only the age of its current content counts.
        assert_eq!(policy.due(&Load::default(), &BOUNDS, start), Due::Nothing);
        let filled = start + FLUSH_AFTER;
        assert_eq!(policy.due(&some(lag), &BOUNDS, filled), Due::Nothing);
        assert_eq!(policy.due(&some(lag), &BOUNDS, filled + lag - second), Due::Nothing);
        assert_eq!(policy.due(&some(lag), &BOUNDS, filled + lag), Due::Flush);
        policy.wrote(Due::Flush, &Load::default(), filled + lag);
        assert_eq!(policy.due(&Load::default(), &BOUNDS, filled + 2 * lag), Due::Nothing, "an idle broker");
        // A lag below the minimum causes no more flushes.
        let mut flushes = 0;
        for seconds in 0..600 {
            let now = filled + 3 * lag + seconds * second;
            let due = policy.due(&some(Duration::from_millis(1)), &BOUNDS, now);
            if due == Due::Flush {
                flushes += 1;
                policy.wrote(due, &Load::default(), now);
            }
        }
        assert_eq!(flushes, 100, "a record each second, and one flush in six looks");
        // A lag above the default maximum age has no effect.
        assert_eq!(policy.due(&some(Duration::MAX), &BOUNDS, filled + 100 * lag), Due::Nothing);
        assert_eq!(policy.due(&some(Duration::MAX), &BOUNDS, filled + 100 * lag + FLUSH_AFTER), Due::Flush);
    }
}
