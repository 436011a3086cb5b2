//! How long a request waits for the broker's memory.

use std::{
    pin::pin,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Instant,
};

use futures::FutureExt;

use crate::clock;

/// The time that the request which is coming in spends waiting for memory of the broker. It is not the client's.
#[derive(Default)]
pub(super) struct MemoryWait {
    is_waiting: AtomicBool,
    /// Milliseconds of the waits that are over.
    waited_ms: AtomicU64,
}

/// One wait, until it is dropped.
pub(super) struct Waiting<'a> {
    wait: &'a MemoryWait,
    since: Instant,
}

impl MemoryWait {
    /// Waits for memory; it counts from where there is none at once.
    pub(super) async fn during(&self, memory: impl Future<Output = ()>) {
        let mut memory = pin!(memory);
        if memory.as_mut().now_or_never().is_none() {
            let _waiting = self.begin(clock::monotonic());
            memory.await;
        }
    }

    pub(super) fn begin(&self, now: Instant) -> Waiting<'_> {
        self.is_waiting.store(true, Relaxed);
        Waiting { wait: self, since: now }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Acquire)
    }

    /// Milliseconds of the waits that are over, of the request that is coming in.
    pub(super) fn waited_ms(&self) -> u64 {
        self.waited_ms.load(Relaxed)
    }

    /// Another request begins.
    pub(super) fn reset(&self) {
        self.waited_ms.store(0, Relaxed);
    }
}

impl Waiting<'_> {
    pub(super) fn end(&self, now: Instant) {
        let waited = now.saturating_duration_since(self.since);
        self.wait.waited_ms.fetch_add(waited.as_millis() as u64, Relaxed);
        // The time is counted before the request is judged again.
        self.wait.is_waiting.store(false, Release);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.end(clock::monotonic());
    }
}
