//! No input may make a reader allocate more than a multiple of its own size.

use millstream_protocol::testing::memory::{CountingAllocator, peak_of};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Runs `work` and panics if it allocates more than `bytes_max` at once.
pub fn bounded<R>(bytes_max: usize, work: impl FnOnce() -> R) -> R {
    let (result, peak) = peak_of(work);
    assert!(peak <= bytes_max, "{peak} bytes were allocated at once, at most {bytes_max} are allowed");
    result
}
