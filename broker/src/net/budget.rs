//! Memory for requests in flight, shared by all connections.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::memory_pressure::MemoryPressure;

/// The unit of memory accounting.
const UNIT_BYTES: usize = 4096;

/// A limit on the bytes of all requests in flight.
#[derive(Clone)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    shortage: Arc<MemoryPressure>,
    /// Requests completed while a task waited.
    completed: Arc<AtomicU64>,
}

/// Memory taken from the budget; dropping it returns it.
#[derive(Default)]
pub(super) struct Charge {
    permit: Option<OwnedSemaphorePermit>,
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Budget {
        let units = Arc::new(Semaphore::new(units(bytes).min(Semaphore::MAX_PERMITS)));
        Budget { units, shortage: Arc::default(), completed: Arc::default() }
    }

    /// Waits until a task has to wait for memory.
    pub(super) async fn falls_short(&self) {
        self.shortage.begins().await;
    }

    /// Whether a task waits for memory now.
    pub(super) fn is_short(&self) -> bool {
        self.shortage.is_there()
    }

    /// Counts a request whose memory is from this budget as completed.
    pub(super) fn count_completed(&self) {
        if self.is_short() {
            self.completed.fetch_add(1, Relaxed);
        }
    }

    /// Requests completed while a task waited.
    pub(super) fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// Extends `charge` to `bytes`; waits until others have returned enough. A dropped call took nothing.
    pub(super) async fn cover(&self, charge: &mut Charge, bytes: usize) {
        let missing = units(bytes).saturating_sub(charge.units());
        if missing == 0 {
            return;
        }
        let count = u32::try_from(missing).unwrap_or(u32::MAX);
        let permit = match self.units.clone().try_acquire_many_owned(count) {
            Ok(permit) => permit,
            Err(_) => match self.wait_for(count).await {
                Some(permit) => permit,
                // The semaphore is never closed.
                None => return,
            },
        };
        charge.add(permit);
    }

    async fn wait_for(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        let _waits = self.shortage.wait();
        self.units.clone().acquire_many_owned(count).await.ok()
    }
}

impl Charge {
    /// Bytes that it covers.
    pub(super) fn bytes(&self) -> usize {
        self.units() * UNIT_BYTES
    }

    fn units(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Splits off the part that belongs to `bytes`, or all if it is less.
    pub(super) fn split(&mut self, bytes: usize) -> Charge {
        let Some(held) = &mut self.permit else { return Charge::default() };
        let count = units(bytes).min(held.num_permits());
        Charge { permit: held.split(count) }
    }

    /// Returns what exceeds `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.units().saturating_sub(units(bytes));
        if let Some(held) = &mut self.permit {
            drop(held.split(surplus));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_split_off_and_dropped_can_be_taken_again() {
        let budget = Budget::new(4 * UNIT_BYTES);
        let mut charge = Charge::default();
        budget.cover(&mut charge, 3 * UNIT_BYTES).now_or_never().expect("there is room");
        let mut other = Charge::default();
        assert!(budget.cover(&mut other, 2 * UNIT_BYTES).now_or_never().is_none(), "only one unit is left");
        let part = charge.split(2 * UNIT_BYTES);
        drop(part);
        budget.cover(&mut other, 2 * UNIT_BYTES).now_or_never().expect("two units came back");
        charge.shrink_to(0);
        assert_eq!(budget.units.available_permits(), 2);
    }
}
