//! Keeps bad clients from flooding the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Warnings in one stretch of time; further ones are counted.
const WARNINGS_MAX: u32 = 20;
/// Length of such a stretch.
const STRETCH: Duration = Duration::from_secs(10);

/// Decides which warnings about connections are written.
#[derive(Default)]
pub(crate) struct Warnings {
    stretch: Mutex<Option<Stretch>>,
}

struct Stretch {
    began: Instant,
    written: u32,
    left_out: u64,
}

impl Warnings {
    /// Whether to write a warning now: how many were left out before it, or `None` to leave this one out too.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut stretch = self.stretch.lock();
        let is_over = |s: &Stretch| now.saturating_duration_since(s.began) > STRETCH;
        match &mut *stretch {
            Some(current) if !is_over(current) => {
                if current.written >= WARNINGS_MAX {
                    current.left_out += 1;
                    return None;
                }
                current.written += 1;
                Some(0)
            }
            before => {
                let left_out = before.as_ref().map_or(0, |s| s.left_out);
                *before = Some(Stretch { began: now, written: 1, left_out: 0 });
                Some(left_out)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test's starting point; nothing waits for real time.
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_when_it_is_over() {
        let (warnings, now) = (Warnings::default(), Instant::now());
        let written = (0..100).filter(|_| warnings.admit(now).is_some()).count();
        assert_eq!(written, WARNINGS_MAX as usize);
        let later = now + STRETCH + Duration::from_secs(1);
        assert_eq!(warnings.admit(later), Some(100 - u64::from(WARNINGS_MAX)));
        assert_eq!(warnings.admit(later), Some(0));
    }
}
