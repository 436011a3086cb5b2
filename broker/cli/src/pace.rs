//! A rate limit of records per second.

use std::time::{Duration, Instant};

use millstream::clock;

/// Most unused time that is carried over.
const BURST_MAX: Duration = Duration::from_millis(100);

/// Lets records pass at their times.
pub(super) struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    /// At most this many per second.
    pub(super) fn new(per_second: u64) -> Pace {
        Pace {
            every: Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX),
            next: clock::monotonic(),
        }
    }

    /// Waits until the next record may pass.
    pub(super) fn wait(&mut self) {
        let now = clock::monotonic();
        std::thread::sleep(self.due(now));
    }

    /// How long the next record has to wait.
    fn due(&mut self, now: Instant) -> Duration {
        let earliest = now.checked_sub(BURST_MAX).unwrap_or(now);
        let at = self.next.max(earliest);
        self.next = at + self.every;
        at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_no_more_pass_than_they_may() {
        let mut pace = Pace::new(100);
        let (start, mut now) = (pace.next, pace.next);
        for _ in 0..500 {
            now += pace.due(now);
        }
        assert_eq!(now - start, Duration::from_millis(4_990));
    }

    #[test]
    fn a_pause_is_made_up_for_only_a_little() {
        let mut pace = Pace::new(100);
        let now = pace.next + Duration::from_secs(10);
        let at_once = (0..100).take_while(|_| pace.due(now).is_zero()).count();
        assert_eq!(at_once, 11);
    }
}
