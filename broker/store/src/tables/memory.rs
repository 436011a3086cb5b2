//! The memtable: batches that are applied and not yet in a run. They are references into the log's memory.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use millstream_model::{LogId, PartitionId, RaftGroupId};
use parking_lot::RwLock;

/// Number of shards, each under its own lock; a power of two.
pub(super) const SHARDS: usize = 64;

/// Hashes ids, which are small consecutive numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }
    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

pub(super) type IdMap<V> = HashMap<PartitionId, V, BuildHasherDefault<IdHasher>>;

/// The shard of a partition.
pub(super) fn shard_of(partition: PartitionId) -> usize {
    let mut hasher = IdHasher::default();
    hasher.write_u64(partition.0);
    (hasher.finish() >> 20) as usize % SHARDS
}

/// A batch as it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// The whole batch, its base offset stamped.
    pub bytes: Bytes,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset after its last record.
    pub next_offset: i64,
    /// Largest timestamp in milliseconds.
    pub max_timestamp: i64,
    /// Append time by the leader's clock, in milliseconds.
    pub appended_ms: i64,
}

/// The result of reading from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryRead {
    /// These batches; the first one contains the offset.
    Hit(Vec<Bytes>),
    /// The partition has nothing at or after the offset.
    Empty,
    /// The offset is below the memtable; the runs may have it.
    Older,
}

/// A batch and the log entry that contained it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) batch: StoredBatch,
    group: RaftGroupId,
    index: u64,
}

/// The cut of a flush: for each group, the last entry whose batches it takes.
pub(super) type Cut = HashMap<RaftGroupId, LogId>;

/// Overhead of a batch in memory.
const HELD_BYTES: usize = size_of::<Held>();

impl Held {
    fn bytes(&self) -> usize {
        self.batch.bytes.len() + HELD_BYTES
    }

    fn is_in(&self, cut: &Cut) -> bool {
        cut.get(&self.group).is_some_and(|id| self.index <= id.index)
    }
}

/// Batches of one partition, oldest first.
///
/// Invariant: offsets increase and do not overlap.
type Queue = VecDeque<Held>;

/// The batches that a flush takes of one partition, oldest first.
pub(super) type Taken = (PartitionId, Vec<StoredBatch>);

/// All batches in memory.
pub(super) struct Memory {
    shards: Vec<RwLock<IdMap<Queue>>>,
    bytes: AtomicUsize,
    /// Bytes from which a flush is needed, and the callback.
    full_bytes: usize,
    full: Arc<dyn Fn() + Send + Sync>,
}

/// The prefix of a list of batches within a bound; the first one is always included.
pub(super) fn within(batches: impl Iterator<Item = Bytes>, max_bytes: usize) -> Vec<Bytes> {
    let mut left = max_bytes;
    let mut out = Vec::new();
    for batch in batches {
        if batch.len() > left && !out.is_empty() {
            break;
        }
        left = left.saturating_sub(batch.len());
        out.push(batch);
        if left == 0 {
            break;
        }
    }
    out
}

fn first_behind(queue: &Queue, offset: i64) -> usize {
    queue.partition_point(|held| held.batch.next_offset <= offset)
}

impl Memory {
    pub(super) fn new(full_bytes: usize, full: Arc<dyn Fn() + Send + Sync>) -> Memory {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Memory { shards, bytes: AtomicUsize::new(0), full_bytes, full }
    }

    /// Whether memory use has reached its bound.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= self.full_bytes
    }

    /// Bytes of all batches with their overhead.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Adds a batch after the partition's last one. Refused if its offsets are already here, or in a run
    /// according to `end_in_runs`, which is called if the partition is empty here.
    pub(super) fn insert(
        &self,
        (group, id): (RaftGroupId, LogId),
        partition: PartitionId,
        batch: StoredBatch,
        end_in_runs: impl FnOnce() -> i64,
    ) -> bool {
        let mut shard = self.shards[shard_of(partition)].write();
        let queue = shard.entry(partition).or_default();
        let end = queue.back().map_or_else(end_in_runs, |last| last.batch.next_offset);
        if batch.base_offset < end {
            if queue.is_empty() {
                shard.remove(&partition);
            }
            return false;
        }
        let held = Held { batch, group, index: id.index };
        let bytes = held.bytes();
        let before = self.bytes.fetch_add(bytes, Relaxed);
        queue.push_back(held);
        drop(shard);
        if before < self.full_bytes && before + bytes >= self.full_bytes {
            (self.full)();
        }
        true
    }

    /// Batches from the one that contains `offset` on.
    pub(super) fn read(&self, partition: PartitionId, offset: i64, max_bytes: usize) -> MemoryRead {
        let shard = self.shards[shard_of(partition)].read();
        let Some(queue) = shard.get(&partition) else { return MemoryRead::Older };
        let first = first_behind(queue, offset);
        match queue.get(first) {
            None => MemoryRead::Empty,
            Some(held) if held.batch.base_offset > offset => MemoryRead::Older,
            Some(_) => {
                MemoryRead::Hit(within(queue.range(first..).map(|h| h.batch.bytes.clone()), max_bytes))
            }
        }
    }

    /// Batches from the first one at or after `offset` on, whether or not it contains the offset.
    pub(super) fn read_behind(&self, partition: PartitionId, offset: i64, max_bytes: usize) -> Vec<Bytes> {
        let shard = self.shards[shard_of(partition)].read();
        let Some(queue) = shard.get(&partition) else { return Vec::new() };
        let first = first_behind(queue, offset);
        within(queue.range(first..).map(|held| held.batch.bytes.clone()), max_bytes)
    }

    /// Whether there is a batch of this partition.
    pub(super) fn has(&self, partition: PartitionId) -> bool {
        self.shards[shard_of(partition)].read().contains_key(&partition)
    }

    /// Calls `look` with each batch of a partition, oldest first.
    pub(super) fn for_each(&self, partition: PartitionId, mut look: impl FnMut(&StoredBatch)) {
        let shard = self.shards[shard_of(partition)].read();
        shard.get(&partition).into_iter().flatten().for_each(|held| look(&held.batch));
    }

    /// Drops batches that end at or below `offset`.
    pub(super) fn drop_below(&self, partition: PartitionId, offset: i64) {
        self.drop_front(partition, |held| held.batch.next_offset <= offset);
    }

    /// Drops all batches of a partition.
    pub(super) fn drop_partition(&self, partition: PartitionId) {
        self.drop_front(partition, |_| true);
    }

    fn drop_front(&self, partition: PartitionId, gone: impl Fn(&Held) -> bool) {
        let mut shard = self.shards[shard_of(partition)].write();
        let Some(queue) = shard.get_mut(&partition) else { return };
        self.pop_while(queue, gone);
        if queue.is_empty() {
            shard.remove(&partition);
        }
    }

    fn pop_while(&self, queue: &mut Queue, gone: impl Fn(&Held) -> bool) {
        while queue.front().is_some_and(&gone) {
            if let Some(held) = queue.pop_front() {
                self.bytes.fetch_sub(held.bytes(), Relaxed);
            }
        }
    }

    /// The batches of a flush up to `cut`, sorted by partition. A group that cannot be flushed yet, because
    /// batches of another group beyond the cut precede its own, is removed from the cut.
    pub(super) fn take(&self, cut: &mut Cut) -> Vec<Taken> {
        loop {
            match self.try_take(cut) {
                Ok(mut taken) => {
                    taken.sort_unstable_by_key(|(partition, _)| *partition);
                    return taken;
                }
                Err(blocked) => drop(cut.remove(&blocked)),
            }
        }
    }

    fn try_take(&self, cut: &Cut) -> Result<Vec<Taken>, RaftGroupId> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            for (partition, queue) in shard.read().iter() {
                let count = queue.iter().take_while(|held| held.is_in(cut)).count();
                if let Some(blocked) = queue.range(count..).find(|held| held.is_in(cut)) {
                    return Err(blocked.group);
                }
                if count > 0 {
                    taken.push((*partition, queue.range(..count).map(|held| held.batch.clone()).collect()));
                }
            }
        }
        Ok(taken)
    }

    /// Releases the batches that a flush up to `cut` has written.
    pub(super) fn release(&self, cut: &Cut) {
        for shard in &self.shards {
            shard.write().retain(|_, queue| {
                self.pop_while(queue, |held| held.is_in(cut));
                !queue.is_empty()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: RaftGroupId = RaftGroupId(1);

    fn memory() -> Memory {
        Memory::new(usize::MAX, Arc::new(|| {}))
    }

    #[test]
    fn that_it_is_full_is_told_once_each_time() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let memory = Memory::new(
            5 * (10 + HELD_BYTES),
            Arc::new(move || {
                counter.fetch_add(1, Relaxed);
            }),
        );
        for round in 1..=3 {
            for n in 0..9u64 {
                insert(&memory, n, n, batch(round * 10, 1, 10));
                assert_eq!(calls.load(Relaxed), round as usize - usize::from(n < 4));
                assert_eq!(memory.is_full(), n >= 4);
            }
            memory.release(&cut(8));
        }
    }

    fn batch(base_offset: i64, count: i64, bytes: usize) -> StoredBatch {
        let next_offset = base_offset + count;
        StoredBatch {
            bytes: Bytes::from(vec![base_offset as u8; bytes]),
            base_offset,
            next_offset,
            max_timestamp: 0,
            appended_ms: 0,
        }
    }

    fn insert(memory: &Memory, index: u64, partition: u64, batch: StoredBatch) -> bool {
        memory.insert((GROUP, LogId::new(1, index)), PartitionId(partition), batch, || i64::MIN)
    }

    fn cut(index: u64) -> Cut {
        [(GROUP, LogId::new(1, index))].into()
    }

    #[test]
    fn a_read_gives_whole_batches_within_the_bound_and_copies_nothing() {
        let memory = memory();
        let all = [batch(0, 5, 100), batch(5, 5, 50), batch(10, 1, 30)];
        all.iter().enumerate().for_each(|(n, batch)| assert!(insert(&memory, n as u64, 7, batch.clone())));
        let read = |offset, max_bytes| match memory.read(PartitionId(7), offset, max_bytes) {
            MemoryRead::Hit(batches) => batches.iter().map(|batch| batch.as_ptr()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let at = |n: usize| all[n].bytes.as_ptr();
        assert_eq!(read(0, 0), [at(0)]);
        assert_eq!(read(4, 149), [at(0)]);
        assert_eq!(read(4, 150), [at(0), at(1)]);
        assert_eq!(read(5, 1000), [at(1), at(2)]);
        assert_eq!(memory.read(PartitionId(7), 11, 1), MemoryRead::Empty);
        assert_eq!(memory.read(PartitionId(8), 0, 1), MemoryRead::Older);
    }

    #[test]
    fn offsets_that_are_there_already_are_not_taken_again() {
        let memory = memory();
        assert!(insert(&memory, 0, 7, batch(0, 5, 10)));
        assert!(!insert(&memory, 0, 7, batch(0, 5, 10)));
        assert!(!insert(&memory, 1, 7, batch(3, 5, 10)));
        let in_runs = || 9;
        assert!(!memory.insert((GROUP, LogId::new(1, 2)), PartitionId(8), batch(5, 4, 10), in_runs));
        assert!(memory.insert((GROUP, LogId::new(1, 2)), PartitionId(8), batch(9, 4, 10), in_runs));
        assert_eq!(memory.bytes(), 2 * (10 + HELD_BYTES));
    }

    #[test]
    fn what_is_released_is_what_was_taken() {
        let memory = memory();
        for n in 0..20u64 {
            insert(&memory, n, n % 3, batch(n as i64 * 2, 2, 10));
        }
        let taken = memory.take(&mut cut(10));
        assert!(taken.is_sorted_by_key(|(partition, _)| *partition));
        assert_eq!(taken.iter().map(|(_, batches)| batches.len()).sum::<usize>(), 11);
        insert(&memory, 20, 0, batch(100, 2, 10));
        memory.release(&cut(10));
        assert_eq!(memory.bytes(), 10 * (10 + HELD_BYTES));
        assert_eq!(memory.take(&mut cut(10)).len(), 0);
        (0..3).for_each(|n| memory.drop_partition(PartitionId(n)));
        assert_eq!(memory.bytes(), 0);
        assert!(
            memory.shards.iter().all(|shard| shard.read().is_empty()),
            "an empty partition takes no memory"
        );
    }

    #[test]
    fn ids_in_a_row_spread_over_the_locks() {
        let mut used = [0; SHARDS];
        (0..6400).for_each(|n| used[shard_of(PartitionId(n))] += 1);
        assert!(used.iter().all(|&n| n > 50 && n < 200), "{used:?}");
    }
}
