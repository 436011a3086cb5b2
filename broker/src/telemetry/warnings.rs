//! Rate limit of warnings, so that bad clients cannot flood the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Warnings per interval; further ones are counted.
const WARNINGS_MAX: u32 = 20;
/// Length of the interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides which warnings about connections are written.
#[derive(Default)]
pub(crate) struct Warnings {
    interval: Mutex<Option<Interval>>,
}

struct Interval {
    began: Instant,
    written: u32,
    suppressed: u64,
}

impl Warnings {
    /// Whether to write a warning now: the number of suppressed ones before it, or `None` to suppress this
    /// one.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut interval = self.interval.lock();
        let is_over = |s: &Interval| now.saturating_duration_since(s.began) > INTERVAL;
        match &mut *interval {
            Some(current) if !is_over(current) => {
                if current.written >= WARNINGS_MAX {
                    current.suppressed += 1;
                    return None;
                }
                current.written += 1;
                Some(0)
            }
            before => {
                let suppressed = before.as_ref().map_or(0, |s| s.suppressed);
                *before = Some(Interval { began: now, written: 1, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test's starting point; nothing waits for real time.
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_reported_when_it_is_over() {
        let (warnings, now) = (Warnings::default(), Instant::now());
        let written = (0..100).filter(|_| warnings.admit(now).is_some()).count();
        assert_eq!(written, WARNINGS_MAX as usize);
        let later = now + INTERVAL + Duration::from_secs(1);
        assert_eq!(warnings.admit(later), Some(100 - u64::from(WARNINGS_MAX)));
        assert_eq!(warnings.admit(later), Some(0));
    }
}
