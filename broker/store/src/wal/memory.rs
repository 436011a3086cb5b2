//! The log's memory: aligned chunks that are written to disk as they are and that readers share.

use std::{
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::AlignedBuf;

/// Chunks that are not in use, and a count of those that are.
pub(super) struct ChunkPool {
    chunk_bytes: usize,
    spare_max: usize,
    spare: Mutex<Vec<AlignedBuf>>,
    in_use_bytes: AtomicUsize,
}

impl ChunkPool {
    pub(super) fn new(chunk_bytes: usize, spare_max: usize) -> Arc<ChunkPool> {
        Arc::new(ChunkPool {
            chunk_bytes,
            spare_max,
            spare: Mutex::default(),
            in_use_bytes: AtomicUsize::new(0),
        })
    }

    /// A chunk of at least `bytes`; its content is anything.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Arc<Chunk> {
        let reused = if bytes <= self.chunk_bytes { self.spare.lock().pop() } else { None };
        let memory = reused.unwrap_or_else(|| AlignedBuf::zeroed(bytes.max(self.chunk_bytes)));
        self.in_use_bytes.fetch_add(memory.len(), Relaxed);
        Arc::new(Chunk { memory: Some(memory), pool: Arc::downgrade(self) })
    }

    pub(super) fn in_use_bytes(&self) -> usize {
        self.in_use_bytes.load(Relaxed)
    }

    /// Gives unused chunks back to the system, all but one.
    pub(super) fn trim(&self) {
        self.spare.lock().truncate(1);
    }
}

/// A piece of the log's memory.
///
/// Invariant: a part is written once, by the one who reserved it, before anyone can read it; from then on until
/// the chunk is dropped nobody writes it. The only other writes are a segment's head and padding, by the log's
/// writer, to bytes that no reader ever gets.
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

    /// A part that is to be written.
    ///
    /// # Safety
    /// The caller reserved the range and nobody has been given any of it.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part_mut(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.capacity(), "{range:?} of {}", self.capacity());
        // SAFETY: in bounds; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.memory().as_mut_ptr().add(range.start), range.len()) }
    }

    /// A part that is written and stays as it is.
    pub(super) fn part(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.capacity(), "{range:?} of {}", self.capacity());
        // SAFETY: in bounds; nobody writes it any more, by the type's invariant.
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
        let (Some(memory), Some(pool)) = (self.memory.take(), self.pool.upgrade()) else { return };
        pool.in_use_bytes.fetch_sub(memory.len(), Relaxed);
        let mut spare = pool.spare.lock();
        if memory.len() == pool.chunk_bytes && spare.len() < pool.spare_max {
            spare.push(memory);
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
