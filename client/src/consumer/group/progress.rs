//! How far a member has read, and what of that is committed.

use std::collections::BTreeSet;

use super::link::Offsets;
use crate::{ClientError, consumer::TopicPartition};

/// What reader and task share.
#[derive(Default)]
pub(super) struct Progress {
    /// What this member reads, in this generation.
    pub(super) assigned: BTreeSet<TopicPartition>,
    /// Assigned partitions whose place is not in `read` yet.
    unplaced: BTreeSet<TopicPartition>,
    /// Offsets to go on with, of what was read.
    pub(super) read: Offsets,
    /// Offsets that the broker has committed.
    pub(super) committed: Offsets,
    /// Why the task ended.
    pub(super) failed: Option<ClientError>,
}

impl Progress {
    /// What is to be committed of some partitions.
    pub(super) fn due(&self, of: impl Fn(&TopicPartition) -> bool) -> Offsets {
        let is_new = |(partition, offset): &(&TopicPartition, &i64)| {
            of(partition)
                && self.assigned.contains(*partition)
                && self.committed.get(*partition) != Some(*offset)
        };
        self.read.iter().filter(is_new).map(|(partition, offset)| (partition.clone(), *offset)).collect()
    }

    pub(super) fn record_committed(&mut self, offsets: Offsets) {
        self.committed.extend(offsets.into_iter().filter(|(partition, _)| self.assigned.contains(partition)));
    }

    pub(super) fn add(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        for partition in partitions {
            self.unplaced.insert(partition.clone());
            self.assigned.insert(partition);
        }
    }

    pub(super) fn read_up_to(&mut self, partition: TopicPartition, offset: i64) {
        self.unplaced.remove(&partition);
        self.read.insert(partition, offset);
    }

    /// Where reading began counts as a place too, once it is known: else a group that found nothing in a partition would
    /// begin anew there the next time, and miss what came meanwhile if it begins at the end.
    pub(super) fn place(&mut self, begun: impl Fn(&TopicPartition) -> Option<i64>) {
        let (read, committed) = (&mut self.read, &self.committed);
        self.unplaced.retain(|partition| match begun(partition) {
            Some(offset) if committed.get(partition) != Some(&offset) => {
                read.insert(partition.clone(), offset);
                false
            }
            known => known.is_none(),
        });
    }

    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.unplaced.remove(partition);
            self.read.remove(partition);
            self.committed.remove(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_what_is_new_and_assigned_is_noted() {
        let place = |partition| TopicPartition { topic: "t".into(), partition };
        let mut progress = Progress::default();
        progress.add([place(0), place(1), place(3)]);
        progress.read = BTreeMap::from([(place(0), 5), (place(1), 7), (place(2), 9), (place(3), 2)]);
        progress.record_committed(BTreeMap::from([(place(1), 7), (place(9), 1)]));
        assert_eq!(progress.due(|_| true), BTreeMap::from([(place(0), 5), (place(3), 2)]));
        assert_eq!(progress.due(|partition| partition.partition == 3), BTreeMap::from([(place(3), 2)]));
        progress.remove(&[place(0)]);
        progress.add([place(0)]);
        assert_eq!(progress.due(|partition| *partition == place(0)), BTreeMap::new(), "another reading");
    }

    #[test]
    fn where_reading_began_is_noted_although_nothing_was_read() {
        let place = |partition| TopicPartition { topic: "t".into(), partition };
        let mut progress = Progress::default();
        progress.add([place(0), place(1), place(2)]);
        progress.read_up_to(place(0), 5);
        progress.place(|partition| (partition.partition < 2).then_some(9));
        assert_eq!(progress.due(|_| true), BTreeMap::from([(place(0), 5), (place(1), 9)]));
        progress.remove(&[place(2)]);
        progress.place(|_| Some(1));
        assert_eq!(progress.read.len(), 2, "what is not assigned has no place");
    }
}
