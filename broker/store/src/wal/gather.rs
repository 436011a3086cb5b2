//! Whether a write of few calls waits for more of them.

use std::time::{Duration, Instant};

/// Number of writes over which the rate of calls is measured.
const WATCHED_WRITES: u32 = 64;
/// Waiting is abandoned where it gathers fewer calls than this per write on average.
const WORTH_CALLS: f32 = 1.5;
/// Weight of the newest write in this average.
const NEWEST: f32 = 0.25;
/// After this many successful waits, one more call is waited for; the number grows while that fails.
const TRY_AFTER_MIN: u32 = 4;
const TRY_AFTER_MAX: u32 = 256;
/// Waiting that was not worthwhile is tried again after at most this many measurements.
const PAUSE_WATCHES_MAX: u32 = 1024;

/// Measures how closely calls follow each other, and what waiting for them gains.
///
/// A write costs the processor and the disk the same for one call as for ten. Where many independent callers
/// call, a short wait halves that cost; where a single caller waits for each reply before its next call, no
/// other call arrives, and the wait is wasted. Only an attempt distinguishes the two.
#[derive(Debug)]
pub(super) struct GatherPolicy {
    wait: Duration,
    /// Tries from time to time whether one more call would arrive in time too.
    stretches: bool,
    /// Successful waits in a row that are required before one more call is waited for.
    try_after: u32,
    stage: Stage,
    /// Measurements left before waiting is tried again.
    pause: u32,
    /// Measurements to skip if the next attempt gains nothing again.
    next_pause: u32,
}

#[derive(Debug)]
enum Stage {
    Watching { since: Option<Instant>, writes: u32, calls: usize },
    Waiting { calls_mean: f32, streak: Streak },
}

/// Consecutive waits that got what they waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Streak {
    Of(u32),
    /// Long enough: this wait expects one more call.
    Trying,
}

impl Stage {
    fn watching(since: Option<Instant>) -> Stage {
        Stage::Watching { since, writes: 0, calls: 0 }
    }

    /// How many calls to wait for.
    fn target(&self) -> Option<usize> {
        let Stage::Waiting { calls_mean, streak } = self else { return None };
        // Slightly below the average, so that regular arrivals do not time out.
        Some((calls_mean - NEWEST).ceil() as usize + usize::from(*streak == Streak::Trying))
    }
}

impl GatherPolicy {
    /// Wait for the number of calls that arrive anyway.
    pub(super) fn new(wait: Duration) -> GatherPolicy {
        let stage = Stage::watching(None);
        GatherPolicy { wait, stretches: false, try_after: TRY_AFTER_MIN, stage, pause: 0, next_pause: 1 }
    }

    /// Wait for as many calls as arrive in time.
    pub(super) fn stretching(wait: Duration) -> GatherPolicy {
        GatherPolicy { stretches: true, ..GatherPolicy::new(wait) }
    }

    /// The longest wait before a write.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// How many calls the next write should gather, if it should wait at all: then
    /// [`record_arrivals`](GatherPolicy::record_arrivals) must be called with the number that arrived.
    pub(super) fn wanted(&mut self, calls: usize, now: Instant) -> Option<usize> {
        if let Stage::Watching { since, writes, calls: seen } = &mut self.stage {
            let Some(since) = *since else {
                *since = Some(now);
                return None;
            };
            (*writes, *seen) = (*writes + 1, *seen + calls);
            if *writes < WATCHED_WRITES {
                return None;
            }
            let dense = now.duration_since(since) <= self.wait.saturating_mul(*seen as u32);
            let calls_mean = (*seen as f32 / WATCHED_WRITES as f32).max(2.0);
            self.stage = Stage::watching(Some(now));
            if !dense || self.wait.is_zero() {
                return None;
            }
            if self.pause > 0 {
                self.pause -= 1;
                return None;
            }
            self.stage = Stage::Waiting { calls_mean, streak: Streak::Of(0) };
        }
        self.stage.target()
    }

    /// Records the number of calls that arrived at a write that was allowed to wait.
    pub(super) fn record_arrivals(&mut self, calls: usize) {
        let Some(target) = self.stage.target() else { return };
        let Stage::Waiting { calls_mean, streak } = &mut self.stage else { return };
        let reached = calls >= target;
        *calls_mean += (calls as f32 - *calls_mean) * NEWEST;
        match *streak {
            Streak::Trying => {
                self.try_after =
                    if reached { TRY_AFTER_MIN } else { (self.try_after * 2).min(TRY_AFTER_MAX) };
                if reached {
                    *calls_mean = calls_mean.max(calls as f32);
                }
                *streak = Streak::Of(0);
            }
            Streak::Of(_) if !reached => *streak = Streak::Of(0),
            Streak::Of(waits) if self.stretches && waits + 1 >= self.try_after => *streak = Streak::Trying,
            Streak::Of(waits) => *streak = Streak::Of(waits + 1),
        }
        if *calls_mean >= WORTH_CALLS {
            // Waiting pays; if that ends, it is retried soon.
            if calls > 1 {
                self.next_pause = 1;
            }
            return;
        }
        self.stage = Stage::watching(None);
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(PAUSE_WATCHES_MAX);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Any start time will do.
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_micros(300);

    /// Simulates `writes` writes whose calls arrive `spacing` apart from independent callers; returns how
    /// many writes waited, and the calls per waiting write.
    fn open_loop(policy: &mut GatherPolicy, spacing: Duration, writes: usize) -> (usize, f64) {
        let (mut now, mut waited, mut calls_of_waits) = (Instant::now(), 0, 0);
        for _ in 0..writes {
            now += spacing;
            if let Some(wanted) = policy.wanted(1, now) {
                let in_time = 1 + (WAIT.as_nanos() / spacing.as_nanos()) as usize;
                let calls = in_time.min(wanted.max(1));
                now += spacing * (calls as u32 - 1);
                policy.record_arrivals(calls);
                waited += 1;
                calls_of_waits += calls;
            }
        }
        (waited, calls_of_waits as f64 / waited.max(1) as f64)
    }

    /// Simulates `callers` callers, each of which calls again when its last call is done.
    fn closed_loop(
        policy: &mut GatherPolicy,
        callers: usize,
        cycle: Duration,
        writes: usize,
    ) -> (usize, usize) {
        let (mut now, mut waited, mut in_vain) = (Instant::now(), 0, 0);
        for _ in 0..writes {
            now += cycle;
            if let Some(wanted) = policy.wanted(callers, now) {
                waited += 1;
                in_vain += usize::from(wanted > callers);
                policy.record_arrivals(callers);
            }
        }
        (waited, in_vain)
    }

    #[test]
    fn dense_calls_of_many_are_written_together() {
        let (waited, calls) = open_loop(&mut GatherPolicy::new(WAIT), Duration::from_micros(150), 1000);
        assert!(waited > 900 && calls >= 2.0, "{waited} waits for {calls} calls each");
    }

    #[test]
    fn sparse_calls_never_wait_and_zero_is_never() {
        let (waited, _) = open_loop(&mut GatherPolicy::new(WAIT), Duration::from_micros(301), 10_000);
        assert_eq!(waited, 0);
        let mut never = GatherPolicy::new(Duration::ZERO);
        assert_eq!(closed_loop(&mut never, 10, Duration::from_micros(10), 10_000), (0, 0));
    }

    #[test]
    fn one_caller_that_waits_for_each_answer_is_hardly_ever_kept_waiting() {
        let (waited, in_vain) =
            closed_loop(&mut GatherPolicy::new(WAIT), 1, Duration::from_micros(100), 100_000);
        assert!((1..40).contains(&in_vain), "{in_vain} of {waited} waits in vain");
    }

    #[test]
    fn several_callers_that_wait_for_answers_are_waited_for_until_all_are_there() {
        let (waited, in_vain) =
            closed_loop(&mut GatherPolicy::new(WAIT), 8, Duration::from_micros(200), 10_000);
        assert!(waited > 9000 && in_vain == 0, "{in_vain} of {waited} waits in vain");
    }

    #[test]
    fn it_is_tried_again_when_callers_come_after_it_brought_nothing() {
        let mut policy = GatherPolicy::new(WAIT);
        closed_loop(&mut policy, 1, Duration::from_micros(100), 2000);
        let (waited, calls) = open_loop(&mut policy, Duration::from_micros(150), 10_000);
        assert!(waited > 5000 && calls >= 2.0, "{waited} waits for {calls} calls each");
    }

    #[test]
    fn one_that_stretches_gets_all_that_come_in_time() {
        let spacing = Duration::from_micros(50);
        let (_, without) = open_loop(&mut GatherPolicy::new(WAIT), spacing, 1000);
        let (_, with) = open_loop(&mut GatherPolicy::stretching(WAIT), spacing, 1000);
        assert!(without <= 2.0 && with > 6.0, "{without} calls for each write, {with} stretched");
    }

    #[test]
    fn one_that_stretches_seldom_keeps_callers_waiting_that_wait_for_answers() {
        for callers in [2, 5, 100] {
            let mut policy = GatherPolicy::stretching(WAIT);
            let (waited, in_vain) = closed_loop(&mut policy, callers, Duration::from_micros(200), 10_000);
            assert!(
                waited > 9000 && in_vain * 50 < waited,
                "{callers} callers: {in_vain} of {waited} waits in vain"
            );
        }
        let mut policy = GatherPolicy::stretching(WAIT);
        let (waited, in_vain) = closed_loop(&mut policy, 1, Duration::from_micros(100), 100_000);
        assert!(in_vain < 40, "one caller: {in_vain} of {waited} waits in vain");
    }
}
