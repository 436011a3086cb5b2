//! Read-ahead: loads the next data of a consumer of old records into the cache while it processes the last reply.

use std::{collections::HashMap, sync::Arc};

use millstream_model::PartitionId;
use millstream_store::tables::Tables;
use parking_lot::{Condvar, Mutex};

/// Maximum partitions of one shard that are read ahead concurrently.
const PARTITIONS_MAX: usize = 256;

/// The reads in progress of one shard.
#[derive(Default)]
pub(super) struct ReadAhead {
    busy: Mutex<HashMap<PartitionId, Arc<Latch>>>,
}

/// The expected next read of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) partition: PartitionId,
    pub(super) offset: i64,
    pub(super) max_bytes: usize,
}

/// Blocks threads until it is opened, once.
#[derive(Default)]
struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
    }
}

/// A read in progress; dropping it wakes the waiting threads.
struct Reading<'a> {
    ahead: &'a ReadAhead,
    partition: PartitionId,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(latch) = self.ahead.busy.lock().remove(&self.partition) {
            latch.open();
        }
    }
}

impl ReadAhead {
    /// Registers a read of a partition; `false` if one is in progress already, or if too many are.
    pub(super) fn begin(&self, partition: PartitionId) -> bool {
        let mut busy = self.busy.lock();
        if busy.len() >= PARTITIONS_MAX || busy.contains_key(&partition) {
            return false;
        }
        busy.insert(partition, Arc::default());
        true
    }

    /// Executes a read that [`begin`](ReadAhead::begin) registered. Blocks.
    pub(super) fn read(&self, tables: &Tables, next: Next) {
        let _reading = Reading { ahead: self, partition: next.partition };
        // Errors are reported by the fetch that needs the data.
        let _ = tables.read_runs(next.partition, next.offset, next.max_bytes);
    }

    /// Waits until no read-ahead of the partition is in progress, so that nothing is read twice. Blocks.
    pub(super) fn wait(&self, partition: PartitionId) {
        let latch = self.busy.lock().get(&partition).cloned();
        if let Some(latch) = latch {
            latch.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_read_ahead_once_at_a_time_and_waited_for() {
        let ahead = Arc::new(ReadAhead::default());
        ahead.wait(PartitionId(1));
        assert!(ahead.begin(PartitionId(1)));
        assert!(!ahead.begin(PartitionId(1)), "it is in progress");
        let waiter = std::thread::spawn({
            let ahead = ahead.clone();
            move || ahead.wait(PartitionId(1))
        });
        drop(Reading { ahead: &ahead, partition: PartitionId(1) });
        waiter.join().expect("the waiter was woken");
        assert!(ahead.begin(PartitionId(1)));
    }
}
