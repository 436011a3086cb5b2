//! A queue of items to be written to a shard's log, proposed in batches.

use std::{collections::VecDeque, time::Instant};

use millstream_model::limits;

use crate::clock;

/// Bytes that may wait in one queue; beyond this limit, retriable requests are refused.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Items in the order in which they will be applied. Those that arrive while proposals are in flight form one proposal, so
/// that entries grow with the load.
pub(crate) struct ProposalQueue<T> {
    waiting: VecDeque<Waiting<T>>,
    waiting_bytes: usize,
    in_flight: usize,
    in_flight_max: usize,
}

struct Waiting<T> {
    item: T,
    bytes: usize,
    since: Instant,
}

/// The items of one proposal.
pub(crate) struct ProposalBatch<T> {
    /// In queue order; never empty.
    pub(crate) items: Vec<T>,
    /// When the first of them was queued.
    pub(crate) since: Instant,
}

impl<T> ProposalQueue<T> {
    /// An empty queue with at most `in_flight_max` batches in flight.
    pub(crate) fn new(in_flight_max: usize) -> ProposalQueue<T> {
        ProposalQueue { waiting: VecDeque::new(), waiting_bytes: 0, in_flight: 0, in_flight_max }
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether `bytes` more may wait; an item larger than the limit may wait alone.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.waiting.is_empty() || self.waiting_bytes + bytes <= WAITING_BYTES_MAX
    }

    /// Whether nothing waits and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }

    /// Adds an item that takes `bytes` of an entry.
    pub(crate) fn push(&mut self, item: T, bytes: usize) {
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { item, bytes, since: clock::monotonic() });
    }

    /// The next batch, which then counts as in flight; `None` while nothing waits or enough batches are in flight.
    pub(crate) fn next_batch(&mut self) -> Option<ProposalBatch<T>> {
        if self.in_flight >= self.in_flight_max {
            return None;
        }
        let since = self.waiting.front()?.since;
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self
            .waiting
            .pop_front_if(|next| items.is_empty() || bytes + next.bytes <= limits::ENTRY_BYTES_TARGET)
        {
            bytes += next.bytes;
            items.push(next.item);
        }
        self.waiting_bytes -= bytes;
        self.in_flight += 1;
        Some(ProposalBatch { items, since })
    }

    /// Marks a batch as no longer in flight.
    pub(crate) fn batch_ended(&mut self) {
        assert!(self.in_flight > 0, "a batch ended that was not in flight");
        self.in_flight -= 1;
    }

    /// Removes all waiting items.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.waiting_bytes = 0;
        self.waiting.drain(..).map(|waiting| waiting.item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_arrive_while_enough_is_in_flight_are_batched_up_to_the_size_of_an_entry() {
        let mut queue = ProposalQueue::new(2);
        let half = limits::ENTRY_BYTES_TARGET / 2;
        queue.push(0, 1);
        assert_eq!(queue.next_batch().map(|batch| batch.items), Some(vec![0]));
        queue.push(1, 3 * half);
        queue.push(2, 1);
        assert_eq!(
            queue.next_batch().map(|batch| batch.items),
            Some(vec![1]),
            "a larger item is a batch of its own"
        );
        queue.push(3, half);
        queue.push(4, half);
        assert!(queue.next_batch().is_none(), "two are in flight");
        assert_eq!(queue.waiting_bytes(), 1 + 2 * half);
        queue.batch_ended();
        assert_eq!(queue.next_batch().map(|batch| batch.items), Some(vec![2, 3]));
        assert_eq!(queue.waiting_bytes(), half);
        assert_eq!(queue.drain().collect::<Vec<_>>(), [4]);
        queue.batch_ended();
        assert!(!queue.is_idle(), "one is in flight");
        queue.batch_ended();
        assert!(queue.is_idle() && queue.waiting_bytes() == 0);
    }

    #[test]
    fn waiting_bytes_are_bounded() {
        let mut queue = ProposalQueue::new(1);
        assert!(queue.has_room_for(WAITING_BYTES_MAX + 1), "alone");
        queue.push((), WAITING_BYTES_MAX - 10);
        assert!(queue.has_room_for(10) && !queue.has_room_for(11));
    }
}
