//! Aligned memory for direct I/O.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use memmap2::{Advice, MmapMut, MmapRaw};

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
/// Memory in pages of this size costs direct I/O a third less: the kernel looks up one page instead of 512.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A buffer aligned to the block size.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    /// The mapping that contains the buffer; `None` if it is from the allocator.
    mapping: Option<MmapRaw>,
}

// SAFETY: the buffer owns its memory, as a Vec does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes; `len` is at least 1. From 2 MiB on it is in huge pages if the system has them.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let layout = Self::layout(len);
        let (start, mapping) = if len >= MAPPED_BYTES_MIN {
            let (mapping, offset) = map(len).unwrap_or_else(|| handle_alloc_error(layout));
            (mapping.as_mut_ptr().wrapping_add(offset), Some(mapping))
        } else {
            // SAFETY: the layout's size is not zero, which `layout` asserts.
            (unsafe { alloc_zeroed(layout) }, None)
        };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, len, mapping }
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

    /// Length in bytes. Unlike that of the slice it creates no reference to the content, of which others may write parts.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Start of the buffer, for writers that own disjoint parts of it.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

/// A mapping with space for `len` bytes and the offset at which they start: if they fill a huge page or more, at the
/// start of one. The bytes around them are never touched, so they take only address space.
fn map(len: usize) -> Option<(MmapRaw, usize)> {
    if len < HUGE_PAGE_BYTES {
        return Some((MmapMut::map_anon(len).ok()?.into(), 0));
    }
    let mapping = MmapMut::map_anon(len + HUGE_PAGE_BYTES).ok()?;
    let offset = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
    assert!(offset + len <= mapping.len(), "{len} bytes at {offset} in a mapping of {}", mapping.len());
    // Whole pages only: the rest of the last one would be allocated for nothing. A system without huge pages may refuse.
    let _ = mapping.advise_range(Advice::HugePage, offset, len / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
    Some((mapping.into(), offset))
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.mapping.is_none() {
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
