//! Tracks which printed records have been read, given only a number of bytes.

use std::collections::{BTreeMap, VecDeque};

use millstream_client::consumer::TopicPartition;

/// Where a record ends in its page, and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordEnd {
    pub(super) at: usize,
    pub(super) offset: i64,
}

/// Printed records that may not have been read yet: at most a full pipe, and the page that waits for it.
#[derive(Debug, Default)]
pub(super) struct UnreadRecords {
    /// Bytes of all pages.
    bytes: u64,
    /// Records that were read, and removed.
    taken: u64,
    pages: VecDeque<Printed>,
}

#[derive(Debug)]
struct Printed {
    partition: TopicPartition,
    /// Where it begins in the bytes of all pages.
    begin: u64,
    ends: Vec<RecordEnd>,
}

impl Printed {
    /// How many of its records lie within the first bytes of all pages.
    fn within(&self, bytes: u64) -> usize {
        self.ends.partition_point(|end| self.begin + end.at as u64 <= bytes)
    }
}

impl UnreadRecords {
    /// A page with these records of a partition was printed.
    pub(super) fn add(&mut self, partition: &TopicPartition, page_bytes: usize, ends: Vec<RecordEnd>) {
        self.pages.push_back(Printed { partition: partition.clone(), begin: self.bytes, ends });
        self.bytes += page_bytes as u64;
    }

    /// The first bytes of all pages were read.
    pub(super) fn forget(&mut self, bytes: u64) {
        while let Some(page) = self.pages.front().filter(|page| page.within(bytes) == page.ends.len()) {
            self.taken += page.ends.len() as u64;
            self.pages.pop_front();
        }
    }

    /// How many records lie within the first bytes of all pages.
    pub(super) fn records(&self, bytes: u64) -> u64 {
        self.taken + self.pages.iter().map(|page| page.within(bytes) as u64).sum::<u64>()
    }

    /// The first record of each partition that is not within the first bytes of all pages.
    pub(super) fn behind(&self, bytes: u64) -> BTreeMap<TopicPartition, i64> {
        let mut behind = BTreeMap::new();
        for page in &self.pages {
            if let Some(end) = page.ends.get(page.within(bytes)) {
                behind.entry(page.partition.clone()).or_insert(end.offset);
            }
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_bytes_that_were_taken_is_left() {
        let place = |partition| TopicPartition { topic: "a".into(), partition };
        let ends = |ends: &[(usize, i64)]| {
            ends.iter().map(|(at, offset)| RecordEnd { at: *at, offset: *offset }).collect()
        };
        let mut unread = UnreadRecords::default();
        unread.add(&place(0), 30, ends(&[(10, 5), (20, 6), (30, 9)]));
        unread.add(&place(1), 20, ends(&[(20, 1)]));
        unread.add(&place(0), 10, ends(&[(10, 10)]));
        let left = |unread: &UnreadRecords, bytes| {
            let behind = unread.behind(bytes).into_iter().map(|(place, offset)| (place.partition, offset));
            (unread.records(bytes), behind.collect::<Vec<_>>())
        };
        assert_eq!(left(&unread, 0), (0, vec![(0, 5), (1, 1)]));
        assert_eq!(left(&unread, 19), (1, vec![(0, 6), (1, 1)]), "a record is taken as a whole or not");
        assert_eq!(left(&unread, 49), (3, vec![(0, 10), (1, 1)]));
        assert_eq!(left(&unread, 60), (5, vec![]));
        unread.forget(30);
        assert_eq!((unread.pages.len(), left(&unread, 50)), (2, (4, vec![(0, 10)])));
        unread.forget(60);
        assert_eq!((unread.pages.len(), left(&unread, 60)), (0, (5, vec![])));
    }
}
