//! The client's only source of time and chance.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Wall-clock time in milliseconds since the Unix epoch; only for timestamps of records.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Monotonic time; for deadlines and durations.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A number that differs from process to process and from call to call.
pub(crate) fn random_u64() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(now().elapsed().as_nanos());
    hasher.finish()
}
