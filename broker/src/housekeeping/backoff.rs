//! Work that fails is tried again later and later, and told when something changes and now and then while it lasts.

use std::time::{Duration, Instant};

/// Time until the first try after a failure.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest time between two tries.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(8);
/// What lasts is told again after so long: nobody reads the log from its beginning.
const TELL_EVERY: Duration = Duration::from_secs(600);

/// Whether a piece of work fails, and when it is tried again.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    now: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    /// The reason without its digits: which file or place it was is nothing new.
    reason: String,
    retry_at: Instant,
    pause: Duration,
    told_at: Instant,
}

/// What changed, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It fails for this reason, which is another one than before, or was told long ago.
    Fails,
    /// It works again.
    Works,
    /// All is as it was, or nearly so: nothing is told.
    None,
}

impl Backoff {
    /// Whether the work may be tried now.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        self.now.as_ref().is_none_or(|failing| now >= failing.retry_at)
    }

    /// Lets the next try come at once, because what stood in the way may be gone.
    pub(super) fn try_soon(&mut self, now: Instant) {
        if let Some(failing) = &mut self.now {
            failing.retry_at = now;
        }
    }

    /// Takes note of how the work went.
    pub(super) fn note<E: std::fmt::Display>(&mut self, now: Instant, outcome: &Result<(), E>) -> Change {
        match (outcome, self.now.take()) {
            (Ok(()), None) => Change::None,
            (Ok(()), Some(_)) => Change::Works,
            (Err(error), before) => {
                let reason = error.to_string().replace(|c: char| c.is_ascii_digit(), "");
                let pause = before.as_ref().map_or(RETRY_AFTER_MIN, |f| (f.pause * 2).min(RETRY_AFTER_MAX));
                let told_at = before.filter(|before| before.reason == reason).map(|before| before.told_at);
                let is_known = |told: &Instant| now.saturating_duration_since(*told) < TELL_EVERY;
                let (change, told_at) = match told_at.filter(is_known) {
                    None => (Change::Fails, now),
                    Some(told_at) => (Change::None, told_at),
                };
                self.now = Some(Failing { reason, retry_at: now + pause, pause, told_at });
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
    fn what_lasts_is_told_now_and_then() {
        let (mut trouble, start) = (Backoff::default(), clock::monotonic());
        let told: Vec<u64> = (0..3_600)
            .step_by(8)
            .filter(|at| trouble.note(start + Duration::from_secs(*at), &Err("full")) != Change::None)
            .collect();
        assert_eq!(told, [0, 600, 1_200, 1_800, 2_400, 3_000]);
    }

    #[test]
    fn tries_come_later_and_later_and_only_changes_are_told() {
        let (mut trouble, start) = (Backoff::default(), clock::monotonic());
        let second = Duration::from_secs(1);
        assert_eq!(trouble.note(start, &Ok::<(), &str>(())), Change::None);
        assert_eq!(trouble.note(start, &Err("full")), Change::Fails);
        assert!(!trouble.may_try(start) && trouble.may_try(start + second));
        for _ in 0..5 {
            assert_eq!(trouble.note(start, &Err("full")), Change::None);
        }
        assert_eq!(trouble.note(start, &Err("file 12 is damaged")), Change::Fails);
        assert_eq!(trouble.note(start, &Err("file 13 is damaged")), Change::None);
        assert!(!trouble.may_try(start + 7 * second) && trouble.may_try(start + 8 * second));
        assert_eq!(trouble.note(start, &Err("damaged")), Change::Fails);
        trouble.try_soon(start);
        assert!(trouble.may_try(start));
        assert_eq!(trouble.note(start, &Ok::<(), &str>(())), Change::Works);
        assert!(trouble.may_try(start));
        assert_eq!(trouble.note(start, &Err("full")), Change::Fails);
        assert!(trouble.may_try(start + second), "it begins anew");
    }
}
