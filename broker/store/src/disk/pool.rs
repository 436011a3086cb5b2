//! A pool of aligned buffers: a new one costs more than the read that fills it.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{AlignedBuf, align_up};

/// Spare buffers of one size, up to a bound.
pub struct BufferPool {
    buffer_bytes: usize,
    spare_max: usize,
    spare: Mutex<Vec<AlignedBuf>>,
}

/// A buffer that returns to its pool when dropped.
pub struct PooledBuf {
    memory: Option<AlignedBuf>,
    pool: Weak<BufferPool>,
}

impl BufferPool {
    /// A pool of buffers of `buffer_bytes` that keeps at most `spare_max` unused ones.
    pub fn new(buffer_bytes: usize, spare_max: usize) -> Arc<BufferPool> {
        Arc::new(BufferPool { buffer_bytes: align_up(buffer_bytes), spare_max, spare: Mutex::default() })
    }

    /// A buffer of at least `bytes` with arbitrary content. One that is larger than the pool's size is not
    /// pooled.
    pub fn take(self: &Arc<Self>, bytes: usize) -> PooledBuf {
        let spare = if bytes <= self.buffer_bytes { self.spare.lock().pop() } else { None };
        let memory = spare.unwrap_or_else(|| AlignedBuf::zeroed(align_up(bytes).max(self.buffer_bytes)));
        PooledBuf { memory: Some(memory), pool: Arc::downgrade(self) }
    }
}

impl PooledBuf {
    /// The whole buffer.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().unwrap_or_default()
    }

    /// A part of it, as bytes that share ownership of the buffer.
    pub fn into_bytes(self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(Part { buffer: self, range })
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        let (Some(memory), Some(pool)) = (self.memory.take(), self.pool.upgrade()) else { return };
        let mut spare = pool.spare.lock();
        if memory.len() == pool.buffer_bytes && spare.len() < pool.spare_max {
            spare.push(memory);
        }
    }
}

struct Part {
    buffer: PooledBuf,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.buffer.memory.as_ref().map_or(&[], |memory| &memory[self.range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_bytes_are_dropped_and_only_so_many_are_kept() {
        let pool = BufferPool::new(8000, 1);
        let mut buffer = pool.take(100);
        assert_eq!(buffer.bytes_mut().len(), 8192);
        buffer.bytes_mut()[5] = 9;
        let bytes = buffer.into_bytes(5..7);
        let part = bytes.slice(..1);
        drop(bytes);
        assert_eq!((part[0], pool.spare.lock().len()), (9, 0));
        drop(part);
        assert_eq!(pool.spare.lock().len(), 1);
        drop((pool.take(1), pool.take(1), pool.take(9000)));
        assert_eq!(pool.spare.lock().len(), 1, "one is kept, and none of another size");
    }
}
