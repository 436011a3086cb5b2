//! Memory of all consumer groups of this node, and its limit.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Minimum time between two warnings of refused requests.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of the groups of all shards. Each shard updates its share after each decision, so that the limit may be exceeded
/// by a few concurrent requests at most.
pub(super) struct Usage {
    bytes: AtomicUsize,
    bytes_max: usize,
    refused: AtomicU64,
    warned_at: Mutex<Option<Instant>>,
}

impl Usage {
    pub(super) fn new(bytes_max: usize) -> Usage {
        let (bytes, refused) = (AtomicUsize::new(0), AtomicU64::new(0));
        Usage { bytes, bytes_max, refused, warned_at: Mutex::default() }
    }

    /// Replaces one shard's previous share by its current one.
    pub(super) fn update(&self, before: &mut usize, now: usize) {
        let was = std::mem::replace(before, now);
        // A decrease is a wrapping addition.
        self.bytes.fetch_add(now.wrapping_sub(was), Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Bytes left below the limit.
    pub(super) fn left(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes())
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Counts a request that was refused because of the limit, with a rate-limited warning.
    pub(super) fn refuse(&self, now: Instant) {
        self.refused.fetch_add(1, Relaxed);
        let mut warned_at = self.warned_at.lock();
        if warned_at.is_none_or(|at| now.saturating_duration_since(at) >= WARNING_INTERVAL) {
            *warned_at = Some(now);
            let (bytes, bytes_max) = (self.bytes(), self.bytes_max);
            tracing::warn!(
                bytes,
                bytes_max,
                "consumer groups reached groups.bytes.max; refusing new members and offsets"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_one_limit() {
        let usage = Usage::new(100);
        let (mut a, mut b) = (0, 0);
        usage.update(&mut a, 70);
        usage.update(&mut b, 20);
        assert_eq!((usage.bytes(), usage.left()), (90, 10));
        usage.update(&mut b, 50);
        assert_eq!((usage.bytes(), usage.left()), (120, 0));
        usage.update(&mut a, 10);
        assert_eq!((usage.bytes(), usage.left(), a, b), (60, 40, 10, 50));
    }
}
