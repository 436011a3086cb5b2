//! The only source of time and chance in the load generator.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// Wall-clock time in milliseconds since the Unix epoch; only for the date of a result.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Monotonic time; for deadlines and durations.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// The deadline that lies `after` from now.
pub(crate) fn deadline(after: Duration) -> Instant {
    Instant::now() + after
}

/// Time since the machine was started, in which it may have slept, unlike monotonic time.
pub(crate) fn since_boot() -> Duration {
    read(ClockId::Boottime)
}

/// CPU time of this process, over all its threads.
pub(crate) fn process_cpu() -> Duration {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A number that differs from process to process and from call to call.
pub(crate) fn random_u64() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(Instant::now().elapsed().as_nanos());
    hasher.finish()
}
