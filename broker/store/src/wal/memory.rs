//! The log's memory: aligned chunks that are written to disk as they are and shared with readers.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::disk::{AlignedBuf, align_up};

/// Length of the first chunk after a pause. Each further one is twice as long, up to the configured length,
/// so an idle log holds little and a busy one soon has large chunks.
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// Unused chunks, and a count of those in use.
///
/// Memory is allocated at the first write to it, a huge page at a time. In a virtual machine whose host has
/// taken that memory back this takes milliseconds, and it would delay every append behind it. A thread
/// therefore allocates the next chunk of a busy log ahead.
pub(super) struct ChunkPool {
    chunk_bytes: usize,
    spare_bytes_max: usize,
    state: Mutex<PoolState>,
    /// A chunk is wanted, or the thread is to stop.
    changed: Condvar,
    maker: Mutex<Option<JoinHandle<()>>>,
    in_use_bytes: AtomicUsize,
}

struct PoolState {
    /// Chunks of the full length.
    spare: Vec<AlignedBuf>,
    /// Length of the next chunk that is not a spare one.
    next_bytes: usize,
    /// A spare chunk is to be allocated.
    wanted: bool,
    stopping: bool,
}

impl ChunkPool {
    pub(super) fn new(chunk_bytes: usize, spare_bytes_max: usize) -> Arc<ChunkPool> {
        let next_bytes = CHUNK_BYTES_MIN.min(chunk_bytes);
        let state = PoolState { spare: Vec::new(), next_bytes, wanted: false, stopping: false };
        Arc::new(ChunkPool {
            chunk_bytes,
            spare_bytes_max,
            state: Mutex::new(state),
            changed: Condvar::new(),
            maker: Mutex::default(),
            in_use_bytes: AtomicUsize::new(0),
        })
    }

    /// Starts the thread that allocates chunks ahead; without it they are allocated on demand.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("wal-memory".to_string());
        *self.maker.lock() = Some(thread.spawn(move || while pool.make_ahead() {})?);
        Ok(())
    }

    /// Stops the thread.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        if let Some(maker) = self.maker.lock().take() {
            // A panic of the thread has been reported already.
            let _ = maker.join();
        }
    }

    /// Waits until a spare chunk is wanted, and allocates it; `false` when the thread is to stop.
    fn make_ahead(&self) -> bool {
        let mut state = self.state.lock();
        while !state.wanted && !state.stopping {
            self.changed.wait(&mut state);
        }
        if state.stopping {
            return false;
        }
        let memory = MutexGuard::unlocked(&mut state, || {
            let mut memory = AlignedBuf::zeroed(self.chunk_bytes);
            memory.populate();
            memory
        });
        // The log may have become idle meanwhile, or got a chunk back.
        if std::mem::take(&mut state.wanted) && state.spare.is_empty() {
            state.spare.push(memory);
        } else {
            // Memory is returned to the system without holding the lock.
            drop(state);
            drop(memory);
        }
        true
    }

    /// A chunk of at least `bytes` with arbitrary content.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Arc<Chunk> {
        let (spare, len) = {
            let mut state = self.state.lock();
            let spare = if bytes <= self.chunk_bytes { state.spare.pop() } else { None };
            let len = state.next_bytes;
            state.next_bytes = (len * 2).min(self.chunk_bytes);
            if state.spare.is_empty() && state.next_bytes == self.chunk_bytes && !state.wanted {
                state.wanted = true;
                self.changed.notify_all();
            }
            (spare, len)
        };
        let memory = spare.unwrap_or_else(|| AlignedBuf::zeroed(align_up(bytes).max(len)));
        self.in_use_bytes.fetch_add(memory.len(), Relaxed);
        Arc::new(Chunk { memory: Some(memory), pool: Arc::downgrade(self) })
    }

    pub(super) fn in_use_bytes(&self) -> usize {
        self.in_use_bytes.load(Relaxed)
    }

    pub(super) fn spare_bytes(&self) -> usize {
        self.state.lock().spare.len() * self.chunk_bytes
    }

    /// Releases unused chunks and starts again with a small one.
    pub(super) fn trim(&self) {
        let mut state = self.state.lock();
        state.next_bytes = CHUNK_BYTES_MIN.min(self.chunk_bytes);
        state.wanted = false;
        let spare = std::mem::take(&mut state.spare);
        drop(state);
        drop(spare);
    }

    /// Releases half of the unused chunks: after a short pause the load may be lower.
    pub(super) fn shrink(&self) {
        let mut state = self.state.lock();
        let kept = state.spare.len() / 2;
        let gone = state.spare.split_off(kept);
        drop(state);
        drop(gone);
    }

    fn put_back(&self, memory: AlignedBuf) {
        self.in_use_bytes.fetch_sub(memory.len(), Relaxed);
        let mut state = self.state.lock();
        let spare_bytes = (state.spare.len() + 1) * self.chunk_bytes;
        if memory.len() == self.chunk_bytes && spare_bytes <= self.spare_bytes_max {
            state.spare.push(memory);
        }
    }
}

/// A piece of the log's memory.
///
/// Invariant: each part is written once, by the caller that reserved it, before anyone can read it; after
/// that it is never written until the chunk is dropped. The only other writes are a segment's head and
/// padding, by the log's writer, to bytes that no reader is given.
pub(super) struct Chunk {
    memory: Option<AlignedBuf>,
    pool: Weak<ChunkPool>,
}

impl Chunk {
    fn memory(&self) -> &AlignedBuf {
        self.memory.as_ref().expect("a chunk has its memory until it is dropped")
    }

    pub(super) fn capacity(&self) -> usize {
        self.memory().len()
    }

    /// A part for writing.
    ///
    /// # Safety
    /// The caller reserved the range and no other reference to it exists.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part_mut(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.capacity(), "{range:?} of {}", self.capacity());
        // SAFETY: in bounds; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.memory().as_mut_ptr().add(range.start), range.len()) }
    }

    /// A part that is written and no longer changes.
    pub(super) fn part(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.capacity(), "{range:?} of {}", self.capacity());
        // SAFETY: in bounds; never written again, by the type's invariant.
        unsafe { std::slice::from_raw_parts(self.memory().as_mut_ptr().add(range.start), range.len()) }
    }

    /// The same as bytes that keep the chunk alive.
    pub(super) fn bytes(self: &Arc<Self>, range: Range<usize>) -> Bytes {
        if range.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(ChunkPart { chunk: self.clone(), range })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let (Some(memory), Some(pool)) = (self.memory.take(), self.pool.upgrade()) {
            pool.put_back(memory);
        }
    }
}

struct ChunkPart {
    chunk: Arc<Chunk>,
    range: Range<usize>,
}

impl AsRef<[u8]> for ChunkPart {
    fn as_ref(&self) -> &[u8] {
        self.chunk.part(self.range.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_log_begins_small_and_a_busy_one_grows_to_full_chunks() {
        let pool = ChunkPool::new(1 << 20, 4 << 20);
        let lens: Vec<usize> = (0..7).map(|_| pool.take(100).capacity()).collect();
        assert_eq!(lens, [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 1 << 20, 1 << 20]);
        assert_eq!((pool.in_use_bytes(), pool.spare_bytes()), (0, 1 << 20), "only full chunks are kept");
        pool.trim();
        assert_eq!((pool.take(100).capacity(), pool.spare_bytes()), (64 << 10, 0));
    }

    #[test]
    fn a_busy_log_has_its_next_chunk_allocated_and_an_idle_one_holds_none() {
        let pool = ChunkPool::new(64 << 10, 256 << 10);
        let first = pool.take(100);
        pool.state.lock().stopping = true;
        assert_eq!((pool.make_ahead(), pool.spare_bytes()), (false, 0), "a stopping pool allocates nothing");
        pool.state.lock().stopping = false;
        assert!(pool.make_ahead());
        assert_eq!((pool.spare_bytes(), pool.state.lock().wanted), (64 << 10, false));
        let second = pool.take(100);
        assert_eq!((pool.spare_bytes(), pool.state.lock().wanted), (0, true), "the next one is requested");
        pool.trim();
        assert!(!pool.state.lock().wanted);
        pool.state.lock().wanted = true;
        drop(first);
        assert!(pool.make_ahead());
        assert_eq!(pool.spare_bytes(), 64 << 10, "the returned chunk is enough");
        drop(second);
    }

    #[test]
    fn the_thread_makes_what_is_asked_for_and_ends() {
        let pool = ChunkPool::new(64 << 10, 256 << 10);
        pool.start().expect("a thread");
        let chunk = pool.take(100);
        let is_made = |_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            pool.spare_bytes() == 64 << 10
        };
        assert!((0..60_000).any(is_made), "nothing was allocated in a minute");
        pool.stop();
        assert_eq!(Arc::strong_count(&pool), 1, "the thread has stopped");
        drop(chunk);
    }

    #[test]
    fn spare_memory_has_a_bound_and_a_large_payload_gets_a_chunk_of_its_own() {
        let pool = ChunkPool::new(64 << 10, 128 << 10);
        let chunks: Vec<_> = (0..5).map(|_| pool.take(1)).collect();
        let large = pool.take(100_000);
        assert_eq!(large.capacity(), align_up(100_000));
        assert_eq!(pool.in_use_bytes(), 5 * (64 << 10) + large.capacity());
        drop((chunks, large));
        assert_eq!((pool.in_use_bytes(), pool.spare_bytes()), (0, 128 << 10));
        pool.shrink();
        assert_eq!(pool.spare_bytes(), 64 << 10);
        pool.shrink();
        assert_eq!(pool.spare_bytes(), 0, "repeated trims release everything");
    }

    #[test]
    fn bytes_keep_their_chunk_and_what_is_in_it() {
        let pool = ChunkPool::new(64 << 10, 64 << 10);
        let chunk = pool.take(8);
        // SAFETY: this chunk is not shared yet.
        unsafe { chunk.part_mut(0..8) }.copy_from_slice(b"in place");
        let bytes = chunk.bytes(3..8);
        drop(chunk);
        assert_eq!((&bytes[..], pool.in_use_bytes()), (&b"place"[..], 64 << 10));
        drop(bytes);
        assert_eq!(pool.in_use_bytes(), 0);
    }
}
