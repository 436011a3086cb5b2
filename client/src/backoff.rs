//! How long to wait before the next try.

use std::time::Duration;

/// Doubles from try to try, up to a bound; some chance keeps many clients from trying at the same moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row: between half and all of the doubled time, as `chance` has it.
    pub(crate) fn after(&self, failures: u32, chance: u64) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.longest);
        let half = doubled / 2;
        half + half.mul_f64((chance % 1000) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_never_vanish() {
        let backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
        for (failures, at_most) in [(1, 50), (2, 100), (3, 200), (6, 1000), (60, 1000)] {
            for chance in [0, 500, 999] {
                let wait = backoff.after(failures, chance).as_millis();
                assert!(at_most / 2 <= wait && wait <= at_most, "{failures} {chance}: {wait}");
            }
        }
    }
}
