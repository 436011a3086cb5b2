//! Whether somebody waits for memory, for whoever can do something about it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// Those who wait for memory of one kind.
#[derive(Debug, Default)]
pub(crate) struct MemoryPressure {
    waiting: AtomicUsize,
    began: Notify,
}

/// One who waits, until it is dropped.
pub(crate) struct Waits<'a>(&'a MemoryPressure);

impl MemoryPressure {
    /// Waits from now on.
    pub(crate) fn wait(&self) -> Waits<'_> {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.began.notify_one();
        }
        Waits(self)
    }

    /// Whether somebody waits now.
    pub(crate) fn is_there(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Resolves when somebody waits.
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
