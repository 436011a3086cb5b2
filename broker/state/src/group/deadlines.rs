//! The deadlines of all groups of a coordinator, in one heap.
//!
//! A heartbeat only updates a number: the heap has one entry per member, at the deadline at the time of its
//! insertion, and an entry that comes up too early is reinserted.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

/// The kinds of deadlines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The join deadline of a rebalance.
    Join,
    /// The sync deadline of a rebalance.
    Sync,
    /// The end of a member's session, or of the time to join under an allocated id.
    Member(Arc<str>),
}

/// Time, group and kind.
pub(super) type Entry = (u64, Arc<str>, Timer);

/// The heap of deadlines.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<Entry>>,
}

impl Deadlines {
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<Entry> {
        if self.next_ms()? > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.heap.retain(|Reverse(entry)| keep(entry));
    }
}

/// One deadline and its entry in the heap.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    due_ms: Option<u64>,
    /// Time of the valid entry in the heap; others are stale.
    entry_ms: Option<u64>,
}

/// The outcome of an entry that came up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ring {
    /// Nothing is due: the deadline was moved or cancelled.
    Stale,
    /// The deadline has passed.
    Over,
}

impl Alarm {
    /// Sets or moves the deadline.
    pub(super) fn set(
        &mut self,
        at_ms: u64,
        group: &Arc<str>,
        timer: impl FnOnce() -> Timer,
        all: &mut Deadlines,
    ) {
        self.due_ms = Some(at_ms);
        if self.entry_ms.is_none_or(|entry| at_ms < entry) {
            self.entry_ms = Some(at_ms);
            all.heap.push(Reverse((at_ms, group.clone(), timer())));
        }
    }

    pub(super) fn cancel(&mut self) {
        self.due_ms = None;
    }

    pub(super) fn is_set(&self) -> bool {
        self.due_ms.is_some()
    }

    pub(super) fn owns(&self, entry: &Entry) -> bool {
        self.entry_ms == Some(entry.0)
    }

    /// Handles an entry that came up; one that is too early is reinserted.
    pub(super) fn ring(&mut self, entry: Entry, all: &mut Deadlines) -> Ring {
        if self.entry_ms != Some(entry.0) {
            return Ring::Stale;
        }
        self.entry_ms = None;
        let (at, group, timer) = entry;
        match self.due_ms {
            Some(due) if due > at => {
                self.set(due, &group, || timer, all);
                Ring::Stale
            }
            Some(_) => {
                self.due_ms = None;
                Ring::Over
            }
            None => Ring::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(alarm: &mut Alarm, at: u64, all: &mut Deadlines) {
        alarm.set(at, &"g".into(), || Timer::Join, all);
    }

    #[test]
    fn a_deadline_that_moves_away_keeps_one_entry_and_is_over_once() {
        let (mut alarm, mut all) = (Alarm::default(), Deadlines::default());
        (10..20).for_each(|at| set(&mut alarm, at, &mut all));
        assert_eq!(all.len(), 1);
        assert!(all.pop_due(9).is_none());
        let early = all.pop_due(10).expect("the entry of the first deadline");
        assert_eq!(alarm.ring(early, &mut all), Ring::Stale);
        assert_eq!(all.next_ms(), Some(19));
        let last = all.pop_due(19).expect("the entry went back in");
        assert_eq!(alarm.ring(last, &mut all), Ring::Over);
        assert!(!alarm.is_set() && all.len() == 0);
    }

    #[test]
    fn a_deadline_that_moves_closer_is_over_at_the_new_time_only() {
        let (mut alarm, mut all) = (Alarm::default(), Deadlines::default());
        set(&mut alarm, 20, &mut all);
        set(&mut alarm, 10, &mut all);
        let first = all.pop_due(10).expect("the closer entry");
        assert_eq!(alarm.ring(first, &mut all), Ring::Over);
        let second = all.pop_due(20).expect("the stale entry");
        assert_eq!(alarm.ring(second, &mut all), Ring::Stale);
    }

    #[test]
    fn a_deadline_that_is_called_off_is_never_over() {
        let (mut alarm, mut all) = (Alarm::default(), Deadlines::default());
        set(&mut alarm, 10, &mut all);
        alarm.cancel();
        let entry = all.pop_due(10).expect("the entry");
        assert_eq!(alarm.ring(entry, &mut all), Ring::Stale);
        set(&mut alarm, 30, &mut all);
        assert_eq!(all.next_ms(), Some(30));
    }
}
