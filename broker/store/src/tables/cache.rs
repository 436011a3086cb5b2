//! A bounded cache of verified blocks of runs.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::Mutex;

/// Most shards, each under its own lock.
const SHARDS_MAX: usize = 8;
/// A shard is not smaller than this, so that large blocks fit into it.
const SHARD_BYTES_MIN: usize = 4 << 20;

/// Id of a run and number of a block's first region in it.
pub(super) type BlockKey = (u64, u32);

struct CacheEntry {
    block: Bytes,
    /// Used since the eviction last passed it.
    used: bool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<BlockKey, CacheEntry>,
    /// Keys of all entries, in eviction order.
    order: VecDeque<BlockKey>,
    bytes: usize,
}

/// Invariant: the size never exceeds the bound, and all bytes were verified.
pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
    bytes: AtomicUsize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Cache {
        let shards = (bytes_max / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        Cache {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_bytes_max: bytes_max / shards,
            bytes: AtomicUsize::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn shard(&self, (run, region): BlockKey) -> &Mutex<Shard> {
        let mixed = (run ^ u64::from(region) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mixed >> 56) as usize % self.shards.len()]
    }

    /// The block, if cached.
    pub(super) fn get(&self, key: BlockKey) -> Option<Bytes> {
        let mut shard = self.shard(key).lock();
        let found = shard.entries.get_mut(&key).map(|entry| {
            entry.used = true;
            entry.block.clone()
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Relaxed);
        found
    }

    /// Whether a block is cached; counts neither as a hit nor as a use.
    pub(super) fn has(&self, key: BlockKey) -> bool {
        self.shard(key).lock().entries.contains_key(&key)
    }

    /// Adds a verified block and evicts blocks that were not used recently.
    pub(super) fn put(&self, key: BlockKey, block: Bytes) {
        let bytes = block.len();
        if bytes > self.shard_bytes_max {
            return;
        }
        let mut shard = self.shard(key).lock();
        if shard.entries.contains_key(&key) {
            return;
        }
        let freed = shard.make_room(self.shard_bytes_max - bytes);
        shard.entries.insert(key, CacheEntry { block, used: false });
        shard.order.push_back(key);
        shard.bytes += bytes;
        self.bytes.fetch_add(bytes, Relaxed);
        self.bytes.fetch_sub(freed, Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Hits and misses.
    pub(super) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }
}

impl Shard {
    /// Evicts until at most `bytes_max` are left; returns the bytes freed. A used block gets one more round,
    /// so this ends.
    fn make_room(&mut self, bytes_max: usize) -> usize {
        let before = self.bytes;
        while self.bytes > bytes_max {
            let Some(key) = self.order.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if std::mem::take(&mut entry.used) {
                self.order.push_back(key);
                continue;
            }
            self.bytes -= entry.block.len();
            self.entries.remove(&key);
        }
        before - self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: usize) -> Bytes {
        Bytes::from(vec![0; n])
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays_longest() {
        let cache = Cache::new(8000);
        cache.put((1, 0), block(100));
        for n in 0..10_000u32 {
            assert!(cache.get((1, 0)).is_some(), "evicted although it is used all the time, at {n}");
            cache.put((2, n), block(90));
            assert!(cache.bytes() <= 8000, "{} bytes", cache.bytes());
        }
        let kept = (0..10_000).filter(|&n| cache.has((2, n))).count();
        assert!(kept > 60, "{kept} blocks of 90 bytes in 8000");
        assert_eq!(cache.hits_and_misses(), (10_000, 0));
        assert!(cache.get((3, 3)).is_none());
        assert_eq!(cache.hits_and_misses(), (10_000, 1));
    }

    #[test]
    fn a_block_that_would_push_out_everything_is_not_kept() {
        let cache = Cache::new(1000);
        cache.put((1, 0), block(1001));
        assert!(!cache.has((1, 0)));
        assert_eq!(cache.bytes(), 0);
    }
}
