//! Whether a write of few calls waits for more of them to come.

use std::time::{Duration, Instant};

/// Writes over which the density of calls is measured.
const WATCHED_WRITES: u32 = 64;
/// Where waiting brings fewer calls than this to a write, on average, it is given up.
const WORTH_CALLS: f32 = 1.5;
/// The newest write counts for this part of the average.
const NEWEST: f32 = 0.25;
/// One call more is tried after so many waits that got theirs; after more and more of them where it does not come.
const TRY_AFTER_MIN: u32 = 4;
const TRY_AFTER_MAX: u32 = 256;
/// Waiting that brought nothing is tried again after so many watches at the latest.
const PAUSE_WATCHES_MAX: u32 = 1024;

/// Watches how closely calls follow each other, and what waiting for them brings.
///
/// A write costs the processor and the disk the same for one call as for ten. Where calls come from many who do not wait for
/// each other, a short wait halves that; where one caller waits for each answer before it calls again, nobody else
/// comes, and a wait would be time lost. The two look alike until it is tried.
#[derive(Debug)]
pub(super) struct GatherPolicy {
    wait: Duration,
    /// Tries now and then whether one call more would come in time too.
    stretches: bool,
    /// Waits in a row that are to get what they wait for before one more call is tried.
    try_after: u32,
    stage: Stage,
    /// Watches to go before waiting is tried again.
    pause: u32,
    /// Watches that will go by if it brings nothing again.
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
    /// It was long enough: this one waits for one call more.
    Trying,
}

impl Stage {
    fn watching(since: Option<Instant>) -> Stage {
        Stage::Watching { since, writes: 0, calls: 0 }
    }

    /// How many calls are waited for.
    fn target(&self) -> Option<usize> {
        let Stage::Waiting { calls_mean, streak } = self else { return None };
        // A little less than the average, so that what comes regularly is not waited for in vain.
        Some((calls_mean - NEWEST).ceil() as usize + usize::from(*streak == Streak::Trying))
    }
}

impl GatherPolicy {
    /// Waits for as many calls as come anyway.
    pub(super) fn new(wait: Duration) -> GatherPolicy {
        let stage = Stage::watching(None);
        GatherPolicy { wait, stretches: false, try_after: TRY_AFTER_MIN, stage, pause: 0, next_pause: 1 }
    }

    /// Waits for as many calls as come in time.
    pub(super) fn stretching(wait: Duration) -> GatherPolicy {
        GatherPolicy { stretches: true, ..GatherPolicy::new(wait) }
    }

    /// How long a write waits at most.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// How many calls the next write should have, if it is to wait for any: then
    /// [`record_arrivals`](GatherPolicy::record_arrivals) must get the number that came.
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

    /// Records the number of calls that came to a write that was allowed to wait.
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
            // It pays; should that end, it is tried again soon.
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
#[allow(clippy::disallowed_methods)] // Any moment does to begin with.
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_micros(300);

    /// Writes whose calls come `spacing` after each other from callers who do not wait: how many of `writes` waited, and
    /// calls per write of those.
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

    /// As many callers as `callers`, each of which calls again when its last call is done.
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
