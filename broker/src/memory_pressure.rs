//! Signals that requests wait for memory, to the code that can free some.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// The waiters for one kind of memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryPressure {
    waiting: AtomicUsize,
    began: Notify,
}

/// One waiter, until it is dropped.
pub(crate) struct WaitGuard<'a>(&'a MemoryPressure);

impl MemoryPressure {
    /// Registers a waiter.
    pub(crate) fn wait(&self) -> WaitGuard<'_> {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.began.notify_one();
        }
        WaitGuard(self)
    }

    /// Whether there are waiters.
    pub(crate) fn is_there(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Resolves when there is a waiter.
    pub(crate) async fn begins(&self) {
        while !self.is_there() {
            self.began.notified().await;
        }
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
