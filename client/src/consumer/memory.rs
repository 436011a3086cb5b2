//! The bytes that a consumer holds: those on their way, and those that wait to be taken.
//!
//! An answer is one piece of memory that all its batches point into: it counts until the last of them is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

/// What is held, and what may be. Clones share it.
#[derive(Clone)]
pub(super) struct Memory {
    bytes_max: usize,
    used: Arc<AtomicUsize>,
    /// Wakes the fetcher when bytes are free again.
    wake: Arc<Notify>,
}

impl Memory {
    pub(super) fn new(bytes_max: usize, wake: Arc<Notify>) -> Memory {
        Memory { bytes_max, used: Arc::default(), wake }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Reserves memory for a response of this size, if there is; always while nothing is held.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Hold> {
        (self.used() == 0 || self.has_room(bytes)).then(|| self.hold(bytes))
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.bytes_max
    }

    /// Counts bytes that are there already.
    pub(super) fn hold(&self, bytes: usize) -> Hold {
        self.used.fetch_add(bytes, Relaxed);
        Hold { memory: self.clone(), bytes }
    }
}

/// Bytes that count until this is dropped.
pub(super) struct Hold {
    memory: Memory,
    bytes: usize,
}

impl Hold {
    /// What came in the place of what was expected.
    pub(super) fn correct(&mut self, bytes: usize) {
        self.memory.used.fetch_add(bytes, Relaxed);
        self.memory.used.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
        self.memory.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_up_to_the_bound_and_always_for_the_first() {
        let memory = Memory::new(100, Arc::default());
        let mut first = memory.reserve(60).expect("room");
        assert!(memory.reserve(41).is_none());
        first.correct(30);
        let second = memory.reserve(70).expect("the answer was smaller");
        assert_eq!(memory.used(), 100);
        drop((first, second));
        let large = memory.reserve(500).expect("else it would never come");
        assert!(memory.reserve(1).is_none());
        drop(large);
        assert_eq!(memory.used(), 0);
    }
}
