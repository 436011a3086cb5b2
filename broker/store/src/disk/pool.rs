//! A pool of aligned buffers: a new one costs more than the read that fills it.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{AlignedBuf, align_up, aligned::HUGE_PAGE_BYTES};

/// Buffers are cut from slabs of this length, which is in huge pages: a direct read into one looks up one page, not one for
/// every 4 KiB.
const SLAB_BYTES: usize = 2 * HUGE_PAGE_BYTES;

/// Buffers of one size; the spare ones, beyond a bound, only as long as their slab has one in use.
pub struct BufferPool {
    buffer_bytes: usize,
    spare_max: usize,
    spare: Mutex<Vec<SlabPart>>,
}

/// A part of a slab.
///
/// Invariant: of the parts that exist no two overlap, so its owner may write it.
struct SlabPart {
    slab: Arc<AlignedBuf>,
    range: Range<usize>,
}

/// A buffer that returns to its pool when dropped.
pub struct PooledBuf {
    part: Option<SlabPart>,
    pool: Weak<BufferPool>,
}

impl BufferPool {
    /// A pool of buffers of `buffer_bytes` that keeps about `spare_max` unused ones: those of whole slabs.
    pub fn new(buffer_bytes: usize, spare_max: usize) -> Arc<BufferPool> {
        Arc::new(BufferPool { buffer_bytes: align_up(buffer_bytes), spare_max, spare: Mutex::default() })
    }

    /// A buffer of at least `bytes` with arbitrary content. One that is larger than the pool's size is not
    /// pooled.
    pub fn take(self: &Arc<Self>, bytes: usize) -> PooledBuf {
        if bytes > self.buffer_bytes {
            return PooledBuf::alone(bytes);
        }
        let spare = self.spare.lock().pop();
        let part = spare.unwrap_or_else(|| self.add_slab());
        PooledBuf { part: Some(part), pool: Arc::downgrade(self) }
    }

    /// Adds the buffers of a new slab to the spare ones, but for the one that it returns.
    fn add_slab(&self) -> SlabPart {
        let count = self.slab_buffers();
        let slab = Arc::new(AlignedBuf::zeroed(SLAB_BYTES.max(self.buffer_bytes)));
        let part =
            |n| SlabPart { slab: slab.clone(), range: n * self.buffer_bytes..(n + 1) * self.buffer_bytes };
        self.spare.lock().extend((1..count).rev().map(part));
        part(0)
    }

    fn slab_buffers(&self) -> usize {
        (SLAB_BYTES / self.buffer_bytes).max(1)
    }

    fn put_back(&self, part: SlabPart) {
        let slab = part.slab.clone();
        let is_of_slab = |part: &SlabPart| Arc::ptr_eq(&part.slab, &slab);
        let mut spare = self.spare.lock();
        spare.push(part);
        if spare.len() > self.spare_max
            && spare.iter().filter(|part| is_of_slab(part)).count() == self.slab_buffers()
        {
            spare.retain(|part| !is_of_slab(part));
        }
        // A slab is freed outside of the lock.
        drop(spare);
        drop(slab);
    }
}

impl SlabPart {
    fn start(&self) -> *mut u8 {
        assert!(self.range.end <= self.slab.len(), "{:?} of {}", self.range, self.slab.len());
        self.slab.as_mut_ptr().wrapping_add(self.range.start)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: in bounds, and only this part's owner can write it, by the type's invariant.
        unsafe { std::slice::from_raw_parts(self.start(), self.range.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.range.len()) }
    }
}

impl PooledBuf {
    /// A buffer of at least `bytes` that belongs to no pool.
    pub fn alone(bytes: usize) -> PooledBuf {
        let range = 0..align_up(bytes);
        let slab = Arc::new(AlignedBuf::zeroed(range.end));
        PooledBuf { part: Some(SlabPart { slab, range }), pool: Weak::new() }
    }

    /// The whole buffer.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.part.as_mut().map(SlabPart::bytes_mut).unwrap_or_default()
    }

    /// A part of it, as bytes that share ownership of the buffer.
    pub fn into_bytes(self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(SharedRange { buffer: self, range })
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let (Some(part), Some(pool)) = (self.part.take(), self.pool.upgrade()) {
            pool.put_back(part);
        }
    }
}

struct SharedRange {
    buffer: PooledBuf,
    range: Range<usize>,
}

impl AsRef<[u8]> for SharedRange {
    fn as_ref(&self) -> &[u8] {
        self.buffer.part.as_ref().map_or(&[], |part| &part.bytes()[self.range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_bytes_are_dropped() {
        let pool = BufferPool::new(SLAB_BYTES / 2, 1);
        let mut buffer = pool.take(100);
        assert_eq!((buffer.bytes_mut().len(), pool.spare.lock().len()), (SLAB_BYTES / 2, 1));
        buffer.bytes_mut()[5] = 9;
        let bytes = buffer.into_bytes(5..7);
        let part = bytes.slice(..1);
        let mut second = pool.take(100);
        second.bytes_mut().fill(1);
        drop(bytes);
        assert_eq!((part[0], pool.spare.lock().len()), (9, 0), "the second is the other half of the slab");
        drop(part);
        assert_eq!(pool.spare.lock().len(), 1);
        drop(second);
        assert_eq!(pool.spare.lock().len(), 0, "beyond the bound a slab that is not in use is dropped");
    }

    #[test]
    fn slabs_are_used_again_and_those_beyond_the_bound_go() {
        let pool = BufferPool::new(8000, 600);
        assert_eq!(pool.slab_buffers(), SLAB_BYTES / 8192);
        let starts = |count: usize| {
            let mut buffers: Vec<PooledBuf> = (0..count).map(|_| pool.take(8192)).collect();
            let mut starts: Vec<usize> =
                buffers.iter_mut().map(|b| b.bytes_mut().as_ptr() as usize).collect();
            starts.sort();
            assert!(starts.is_sorted_by(|a, b| a + 8192 <= *b), "none overlaps another");
            starts
        };
        let first = starts(512);
        assert!(starts(512) == first, "they are used again");
        assert_eq!(pool.spare.lock().len(), 512);
        starts(2048);
        assert_eq!(pool.spare.lock().len(), 512, "one slab is within the bound");
        drop(pool.take(9000));
        assert_eq!(pool.spare.lock().len(), 512, "none of another size is kept");
    }
}
