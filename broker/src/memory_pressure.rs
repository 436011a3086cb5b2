//! Reports that a task waits for memory, to tasks that can free some.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// Counts the tasks that wait for one kind of memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryPressure {
    waiting: AtomicUsize,
    began: Notify,
}

/// One waiting task, until it is dropped.
pub(crate) struct Waits<'a>(&'a MemoryPressure);

impl MemoryPressure {
    /// Starts to wait.
    pub(crate) fn wait(&self) -> Waits<'_> {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.began.notify_one();
        }
        Waits(self)
    }

    /// Whether any task waits now.
    pub(crate) fn is_there(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Resolves when a task waits.
    pub(crate) async fn begins(&self) {
        while !self.is_there() {
            self.began.notified().await;
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
