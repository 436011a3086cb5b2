//! When memory is short, connections that hold some without making progress are closed, so that others need
//! not wait for them.

use std::{sync::Arc, time::Duration};

use super::{budget::Budget, input::RequestSize, registry::Registry};
use crate::{clock, partition::Replies};

/// Interval of checks while memory is short.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When no wait has ended for this many checks, the holders are waiting for each other.
const STUCK_LOOKS: u32 = 10;

/// Watches a budget for requests of this size, as long as the broker runs.
pub(super) async fn of_requests(registry: Arc<Registry>, budget: Budget, size: RequestSize) {
    loop {
        budget.falls_short().await;
        let (mut granted, mut looks) = (budget.granted(), 0);
        while budget.is_short() {
            tokio::time::sleep(LOOK_EVERY).await;
            let closed = registry.expel_slow_requests(size, clock::monotonic());
            looks = if closed > 0 || budget.granted() != granted { 0 } else { looks + 1 };
            granted = budget.granted();
            if looks == STUCK_LOOKS {
                registry.expel_starved(size);
                looks = 0;
            }
        }
    }
}

/// Watches the memory for replies, as long as the broker runs.
pub(super) async fn of_replies(registry: Arc<Registry>, replies: Replies) {
    loop {
        replies.falls_short().await;
        while replies.is_short() {
            registry.expel_slow_readers(clock::monotonic());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
