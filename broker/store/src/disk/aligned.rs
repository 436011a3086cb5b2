//! Aligned memory for direct I/O.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::{NonNull, null_mut},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Direct I/O requires addresses, positions and lengths that are multiples of this.
pub const BLOCK_BYTES: usize = 4096;

/// Rounds up to a multiple of the block size.
pub const fn align_up(n: usize) -> usize {
    n.next_multiple_of(BLOCK_BYTES)
}

/// Rounds down to a multiple of the block size.
pub const fn align_down(n: usize) -> usize {
    n / BLOCK_BYTES * BLOCK_BYTES
}

/// A buffer of at least this length has its own mapping, so that dropping it returns the memory to the system
/// at once instead of to the allocator.
const MAPPED_BYTES_MIN: usize = 1 << 20;
/// Memory in pages of this size cuts the cost of a direct write to a third: the kernel looks up one page and
/// passes it to the device instead of 512.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A buffer aligned to the block size.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory, as a Vec does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes; `len` is at least 1.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let layout = Self::layout(len);
        let start = if len >= MAPPED_BYTES_MIN {
            map(len)
        } else {
            // SAFETY: the layout's size is not zero, which `layout` asserts.
            unsafe { alloc_zeroed(layout) }
        };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, len }
    }

    fn layout(len: usize) -> Layout {
        assert!(len > 0, "an aligned buffer has at least one byte");
        match Layout::from_size_align(len, BLOCK_BYTES) {
            Ok(layout) => layout,
            Err(_) => panic!("a buffer of {len} bytes is larger than the address space"),
        }
    }

    /// Makes the system allocate the pages now, so that the first write does not wait for them. The content
    /// is lost.
    pub fn populate(&mut self) {
        self.iter_mut().step_by(BLOCK_BYTES).for_each(|byte| *byte = 0);
    }

    /// Start of the buffer, for writers that own disjoint parts of it.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

/// A zeroed mapping of `len` bytes, of huge pages where one fits; null if the system is out of memory.
fn map(len: usize) -> *mut u8 {
    let len = align_up(len);
    let spare = if len >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { 0 };
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping at an address that the system chooses, of nonzero length.
    let Ok(whole) = (unsafe { mmap_anonymous(null_mut(), len + spare, prot, flags) }) else {
        return null_mut();
    };
    let whole = whole.cast::<u8>();
    if spare == 0 {
        return whole;
    }
    let before = whole.align_offset(HUGE_PAGE_BYTES).min(spare);
    // SAFETY: both parts lie in the mapping and outside of the range that is returned; unmapping the ends of
    // a mapping needs no memory. The advice changes no content, and a system without huge pages may refuse
    // it.
    unsafe {
        let start = whole.add(before);
        let cut = |from: *mut u8, len: usize| len == 0 || munmap(from.cast(), len).is_ok();
        let is_cut = cut(whole, before) && cut(start.add(len), spare - before);
        debug_assert!(is_cut, "the ends of a mapping can be cut off");
        let _ = madvise(start.cast(), len, Advice::LinuxHugepage);
        start
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len >= MAPPED_BYTES_MIN {
            // SAFETY: mapped in `zeroed` with the same length. Unmapping a whole mapping cannot fail.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), align_up(self.len)) };
            debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        } else {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are allocated and initialized.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_are_aligned_and_zero_to_their_end() {
        for len in [1, BLOCK_BYTES + 1, MAPPED_BYTES_MIN + 1, HUGE_PAGE_BYTES - 1, 3 * HUGE_PAGE_BYTES + 5] {
            let mut buffer = AlignedBuf::zeroed(len);
            let alignment = if len >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { BLOCK_BYTES };
            assert_eq!(buffer.as_mut_ptr().align_offset(alignment), 0, "{len}");
            assert!(buffer.len() == len && buffer.iter().all(|byte| *byte == 0), "{len}");
            buffer.fill(7);
            assert_eq!(buffer[len - 1], 7);
        }
    }
}
