//! Retries of failing work with exponential backoff, with a log line on changes and at intervals while the
//! failure lasts.

use std::time::{Duration, Instant};

/// Delay before the first retry.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest delay between retries.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(8);
/// A lasting failure is logged again after this time: readers of the log may have missed its start.
const LOG_EVERY: Duration = Duration::from_secs(600);

/// Whether a piece of work fails, and when it is retried.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    now: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    /// The reason without digits: another file or offset is not a new failure.
    reason: String,
    retry_at: Instant,
    pause: Duration,
    logged_at: Instant,
}

/// What to log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It fails for a new reason, or was logged long ago.
    Fails,
    /// It works again.
    Works,
    /// Nothing new.
    None,
}

impl Backoff {
    /// Whether the work may be tried now.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        self.now.as_ref().is_none_or(|failing| now >= failing.retry_at)
    }

    /// Makes the next retry due now, because the obstacle may be gone.
    pub(super) fn try_soon(&mut self, now: Instant) {
        if let Some(failing) = &mut self.now {
            failing.retry_at = now;
        }
    }

    /// Records the outcome of the work.
    pub(super) fn record<E: std::fmt::Display>(&mut self, now: Instant, outcome: &Result<(), E>) -> Change {
        match (outcome, self.now.take()) {
            (Ok(()), None) => Change::None,
            (Ok(()), Some(_)) => Change::Works,
            (Err(error), before) => {
                let reason = error.to_string().replace(|c: char| c.is_ascii_digit(), "");
                let pause = before.as_ref().map_or(RETRY_AFTER_MIN, |f| (f.pause * 2).min(RETRY_AFTER_MAX));
                let logged_at =
                    before.filter(|before| before.reason == reason).map(|before| before.logged_at);
                let is_known = |logged_at: &Instant| now.saturating_duration_since(*logged_at) < LOG_EVERY;
                let (change, logged_at) = match logged_at.filter(is_known) {
                    None => (Change::Fails, now),
                    Some(logged_at) => (Change::None, logged_at),
                };
                self.now = Some(Failing { reason, retry_at: now + pause, pause, logged_at });
                change
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_lasting_failure_is_logged_at_intervals() {
        let (mut backoff, start) = (Backoff::default(), clock::monotonic());
        let logged: Vec<u64> = (0..3_600)
            .step_by(8)
            .filter(|at| backoff.record(start + Duration::from_secs(*at), &Err("full")) != Change::None)
            .collect();
        assert_eq!(logged, [0, 600, 1_200, 1_800, 2_400, 3_000]);
    }

    #[test]
    fn tries_come_later_and_later_and_only_changes_are_logged() {
        let (mut backoff, start) = (Backoff::default(), clock::monotonic());
        let second = Duration::from_secs(1);
        assert_eq!(backoff.record(start, &Ok::<(), &str>(())), Change::None);
        assert_eq!(backoff.record(start, &Err("full")), Change::Fails);
        assert!(!backoff.may_try(start) && backoff.may_try(start + second));
        for _ in 0..5 {
            assert_eq!(backoff.record(start, &Err("full")), Change::None);
        }
        assert_eq!(backoff.record(start, &Err("file 12 is damaged")), Change::Fails);
        assert_eq!(backoff.record(start, &Err("file 13 is damaged")), Change::None);
        assert!(!backoff.may_try(start + 7 * second) && backoff.may_try(start + 8 * second));
        assert_eq!(backoff.record(start, &Err("damaged")), Change::Fails);
        backoff.try_soon(start);
        assert!(backoff.may_try(start));
        assert_eq!(backoff.record(start, &Ok::<(), &str>(())), Change::Works);
        assert!(backoff.may_try(start));
        assert_eq!(backoff.record(start, &Err("full")), Change::Fails);
        assert!(backoff.may_try(start + second), "it starts again");
    }
}
