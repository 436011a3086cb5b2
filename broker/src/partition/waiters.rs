//! Parked long polls, by the partitions that they wait for.

use std::{collections::HashMap, sync::Arc};

use millstream_model::PartitionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The waiting fetches of one shard.
#[derive(Default)]
pub(super) struct Waiters {
    parked: Mutex<HashMap<PartitionId, Vec<Arc<Notify>>>>,
}

impl Waiters {
    /// Registers `waiter` for the next change of the partition.
    pub(super) fn park(&self, partition: PartitionId, waiter: &Arc<Notify>) {
        self.parked.lock().entry(partition).or_default().push(waiter.clone());
    }

    /// Removes `waiter` from the partition; does nothing if it was woken already.
    pub(super) fn leave(&self, partition: PartitionId, waiter: &Arc<Notify>) {
        let mut parked = self.parked.lock();
        if let Some(waiting) = parked.get_mut(&partition) {
            waiting.retain(|other| !Arc::ptr_eq(other, waiter));
            if waiting.is_empty() {
                parked.remove(&partition);
            }
        }
    }

    /// Wakes all waiters of the partitions.
    pub(super) fn wake(&self, partitions: impl Iterator<Item = PartitionId>) {
        let mut parked = self.parked.lock();
        if parked.is_empty() {
            return;
        }
        for partition in partitions {
            for waiter in parked.remove(&partition).unwrap_or_default() {
                waiter.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_waiter_is_notified_of_its_partitions_only_and_removed_completely() {
        let waiters = Waiters::default();
        let waiter = Arc::new(Notify::new());
        waiters.park(PartitionId(1), &waiter);
        waiters.park(PartitionId(2), &waiter);
        waiters.wake([PartitionId(3)].into_iter());
        assert!(waiter.notified().now_or_never().is_none());
        waiters.wake([PartitionId(1)].into_iter());
        assert!(waiter.notified().now_or_never().is_some());
        waiters.leave(PartitionId(2), &waiter);
        assert!(waiters.parked.lock().is_empty());
    }
}
