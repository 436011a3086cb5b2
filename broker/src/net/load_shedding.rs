//! When memory is short, connections that hold some without making progress are closed, so that others need
//! not wait for them.

use std::{sync::Arc, time::Duration};

use super::{budget::Budget, input::RequestSize, registry::Registry};
use crate::{clock, partition::Replies};

/// Interval of checks while memory is short.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When no request has become complete for this many checks, the holders are waiting for each other.
const STUCK_LOOKS: u32 = 10;
/// The same for large requests, of which one may take seconds to arrive.
const STUCK_LOOKS_LARGE: u32 = 30;

/// Watches a budget for requests of this size, as long as the broker runs.
pub(super) async fn of_requests(registry: Arc<Registry>, budget: Budget, size: RequestSize) {
    let stuck_looks = if size == RequestSize::Large { STUCK_LOOKS_LARGE } else { STUCK_LOOKS };
    loop {
        budget.falls_short().await;
        let (mut completed, mut looks) = (budget.completed(), 0);
        while budget.is_short() {
            tokio::time::sleep(LOOK_EVERY).await;
            registry.expel_slow_requests(size, clock::monotonic());
            looks = if budget.completed() == completed { looks + 1 } else { 0 };
            completed = budget.completed();
            if looks == stuck_looks {
                registry.expel_starved(size);
                looks = 0;
            }
        }
    }
}

/// Watches the memory of complete requests, as long as the broker runs: those of a client that does not read its replies
/// keep it.
pub(super) async fn of_complete_requests(registry: Arc<Registry>, budget: Budget) {
    loop {
        budget.falls_short().await;
        expel_slow_readers_while(&registry, || budget.is_short()).await;
    }
}

/// Watches the memory for replies, as long as the broker runs.
pub(super) async fn of_replies(registry: Arc<Registry>, replies: Replies) {
    loop {
        replies.falls_short().await;
        expel_slow_readers_while(&registry, || replies.is_short()).await;
    }
}

async fn expel_slow_readers_while(registry: &Registry, is_short: impl Fn() -> bool) {
    while is_short() {
        registry.expel_slow_readers(clock::monotonic());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
