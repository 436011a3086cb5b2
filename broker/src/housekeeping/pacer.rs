//! The rate of merges: they yield to requests.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use millstream_store::tables::Pace;

const MIB: u64 = 1 << 20;
/// Bytes per second while requests are served.
const BUSY_RATE: u64 = 64 * MIB;
/// Bytes per second while the broker is idle.
const IDLE_RATE: u64 = 512 * MIB;
/// The rate grows by its base value for each this many runs more than when nothing was left to merge: merges that fall
/// behind make every read more expensive.
const RUNS_PER_STEP: u64 = 8;
/// Shorter pauses are accumulated.
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// Longest delay until a stop is noticed.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// The pace of the merges of one store.
#[derive(Debug)]
pub(crate) struct Pacer {
    bytes_per_second: AtomicU64,
    /// Number of runs when nothing was left to merge.
    settled_runs: AtomicUsize,
    /// Accumulated pause in nanoseconds.
    owed: AtomicU64,
    stopped: AtomicBool,
}

impl Default for Pacer {
    fn default() -> Pacer {
        let (owed, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
        let settled_runs = AtomicUsize::new(0);
        Pacer { bytes_per_second: AtomicU64::new(BUSY_RATE), settled_runs, owed, stopped }
    }
}

impl Pacer {
    /// Sets whether requests are being served, and the number of runs.
    pub(super) fn set(&self, busy: bool, runs: usize) {
        let base = if busy { BUSY_RATE } else { IDLE_RATE };
        let behind = runs.saturating_sub(self.settled_runs.load(Relaxed)) as u64;
        self.bytes_per_second.store(base + base / RUNS_PER_STEP * behind, Relaxed);
    }

    /// Records that none of these runs needs a merge.
    pub(super) fn settled(&self, runs: usize) {
        self.settled_runs.store(runs, Relaxed);
    }

    /// Stops merges.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Pauses for as long as `bytes` of a merge may take.
    pub(crate) fn pace(&self, bytes: u64) -> Pace {
        if self.stopped.load(Relaxed) {
            return Pace::Stop;
        }
        if let Some(pause) = self.owe(bytes) {
            std::thread::sleep(pause);
        }
        Pace::Go
    }

    /// The pause that is due after `bytes` more; short pauses are accumulated.
    fn owe(&self, bytes: u64) -> Option<Duration> {
        let rate = self.bytes_per_second.load(Relaxed).max(1);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let owed = self.owed.load(Relaxed).saturating_add(nanos);
        let pause = Duration::from_nanos(owed);
        let taken = pause >= PAUSE_MIN;
        self.owed.store(if taken { 0 } else { owed }, Relaxed);
        taken.then(|| pause.min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_broker_merges_slowly_unless_runs_pile_up() {
        let pacer = Pacer::default();
        let second = |pacer: &Pacer| -> Duration { (0..1024).filter_map(|_| pacer.owe(64 << 10)).sum() };
        pacer.settled(1000);
        pacer.set(true, 1000);
        let slow = second(&pacer);
        assert!(slow > Duration::from_millis(990) && slow <= Duration::from_secs(1), "64 MiB took {slow:?}");
        pacer.set(true, 1024);
        assert!(second(&pacer) < Duration::from_millis(260));
        pacer.set(false, 500);
        assert!(second(&pacer) < Duration::from_millis(130));
    }

    #[test]
    fn short_pauses_are_taken_together_and_a_stop_is_told() {
        let pacer = Pacer::default();
        assert_eq!((0..10).find_map(|_| pacer.owe(1 << 10)), None);
        assert_eq!(pacer.owe(u64::MAX), Some(PAUSE_MAX));
        assert_eq!(pacer.pace(1), Pace::Go);
        pacer.stop();
        assert_eq!(pacer.pace(1), Pace::Stop);
    }
}
