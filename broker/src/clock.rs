//! The only source of time and randomness in the broker.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Wall-clock time in milliseconds since the Unix epoch; only for timestamps and retention.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Monotonic time; for deadlines and durations.
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The deadline `after` from now.
pub fn deadline(after: Duration) -> Instant {
    Instant::now() + after
}

/// 64 unpredictable bits; the seed comes from the operating system.
pub fn random_u64() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(Instant::now().elapsed().as_nanos());
    hasher.finish()
}

/// 16 random bytes with the version and variant bits of a random UUID.
pub fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random_u64().to_be_bytes());
    bytes[8..].copy_from_slice(&random_u64().to_be_bytes());
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}
