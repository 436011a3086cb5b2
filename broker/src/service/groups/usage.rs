//! How many bytes all groups of this node hold, and may hold.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Time between two warnings that something was refused.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Bytes of the groups of all shards. Each shard's are added up from time to time, so that the bound is passed by what a
/// few requests bring, at most.
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

    /// What one shard holds now, in place of what it held before.
    pub(super) fn update(&self, before: &mut usize, now: usize) {
        let was = std::mem::replace(before, now);
        // Wraps where it falls, and comes out right.
        self.bytes.fetch_add(now.wrapping_sub(was), Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// What may be added.
    pub(super) fn left(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes())
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Counts a request that was refused because there is nothing left, and warns of it now and then.
    pub(super) fn refuse(&self, now: Instant) {
        self.refused.fetch_add(1, Relaxed);
        let mut warned_at = self.warned_at.lock();
        if warned_at.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY) {
            *warned_at = Some(now);
            let (bytes, bytes_max) = (self.bytes(), self.bytes_max);
            tracing::warn!(
                bytes,
                bytes_max,
                "consumer groups hold as much as groups.bytes.max allows; new members and offsets are refused"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_come_and_go_within_one_bound() {
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
