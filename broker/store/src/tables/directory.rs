//! The directory: which runs have which offsets of a partition.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use millstream_model::PartitionId;
use parking_lot::RwLock;

use super::{
    memory::{IdMap, SHARDS, shard_of},
    run::Part,
};

/// The parts of one partition.
///
/// Invariants: 1. `parts` are sorted by offset and do not overlap. 2. Each part ends above `log_start`. 3. A
/// run's live parts count exactly the parts that are listed here.
#[derive(Default)]
struct Entry {
    parts: Vec<Part>,
    log_start: i64,
}

impl Entry {
    fn push(&mut self, part: Part) {
        count_in(&part);
        self.parts.push(part);
    }

    /// Checks invariants 1 and 2.
    fn validate(&self, partition: PartitionId) {
        let overlaps = |pair: &[Part]| pair[0].end > pair[1].start;
        assert!(!self.parts.windows(2).any(overlaps), "{partition} overlaps");
        assert!(self.parts.iter().all(|part| part.end > self.log_start), "{partition} has dead parts");
    }

    fn remove_if(&mut self, gone: impl Fn(&Part) -> bool) {
        self.parts.retain(|part| {
            let gone = gone(part);
            if gone {
                count_out(part);
            }
            !gone
        });
        if self.parts.capacity() > 8 && self.parts.len() < self.parts.capacity() / 4 {
            self.parts.shrink_to_fit();
        }
    }
}

fn count_in(part: &Part) {
    part.run.live_bytes.fetch_add(u64::from(part.bytes), Relaxed);
    part.run.live_parts.fetch_add(1, Relaxed);
}

fn count_out(part: &Part) {
    let bytes = part.run.live_bytes.fetch_sub(u64::from(part.bytes), Relaxed);
    let parts = part.run.live_parts.fetch_sub(1, Relaxed);
    assert!(bytes >= u64::from(part.bytes) && parts > 0, "run {} has {parts} live parts", part.run.id);
}

/// All partitions that have a run or a log start above 0.
pub(super) struct Directory {
    shards: Vec<RwLock<IdMap<Entry>>>,
}

/// Resolves which parts newer runs replace: for each offset the newest run wins. `parts` is sorted newest run
/// first.
///
/// A part is dead as soon as a newer one covers any of its offsets: the parts that replaced it covered all of
/// them, and those that are missing by now were dead and dropped.
fn supersede(parts: Vec<Part>) -> Vec<Part> {
    let mut kept: BTreeMap<i64, Part> = BTreeMap::new();
    for part in parts {
        let before = kept.range(..part.end).next_back();
        if before.is_none_or(|(_, newer)| newer.end <= part.start) {
            kept.insert(part.start, part);
        }
    }
    kept.into_values().collect()
}

impl Directory {
    /// Builds the directory from the parts of all runs, newest run first.
    pub(super) fn open(parts: impl Iterator<Item = (PartitionId, Part)>) -> Directory {
        let mut all: IdMap<Vec<Part>> = IdMap::default();
        for (partition, part) in parts {
            all.entry(partition).or_default().push(part);
        }
        let directory = Directory { shards: (0..SHARDS).map(|_| RwLock::default()).collect() };
        for (partition, parts) in all {
            let parts = supersede(parts);
            parts.iter().for_each(count_in);
            let entry = Entry { parts, log_start: 0 };
            directory.shards[shard_of(partition)].write().insert(partition, entry);
        }
        directory
    }

    /// Adds the parts of a flush after all others. What has been deleted or dropped meanwhile is left out.
    pub(super) fn add(&self, partition: PartitionId, part: Part) {
        let mut shard = self.shards[shard_of(partition)].write();
        let entry = shard.entry(partition).or_default();
        assert!(
            entry.parts.last().is_none_or(|last| last.end <= part.start),
            "{partition}: a flush overlaps a run"
        );
        if part.end > entry.log_start {
            entry.push(part);
        }
    }

    /// Replaces the parts between `start` and `end`.
    pub(super) fn replace(&self, partition: PartitionId, (start, end): (i64, i64), parts: Vec<Part>) {
        let mut shard = self.shards[shard_of(partition)].write();
        // A partition that was dropped during the merge stays dropped.
        let Some(entry) = shard.get_mut(&partition) else { return };
        let log_start = entry.log_start;
        entry.remove_if(|part| part.start >= start && part.end <= end);
        parts.into_iter().filter(|part| part.end > log_start).for_each(|part| entry.push(part));
        entry.parts.sort_by_key(|part| part.start);
        entry.validate(partition);
    }

    /// Offset after the last that a run covers.
    pub(super) fn end(&self, partition: PartitionId) -> Option<i64> {
        let shard = self.shards[shard_of(partition)].read();
        Some(shard.get(&partition)?.parts.last()?.end)
    }

    /// Parts with batches that may be at or after `offset`: at least one if there is any, then as many as
    /// make up `bytes`.
    pub(super) fn from(&self, partition: PartitionId, offset: i64, bytes: usize) -> Vec<Part> {
        let shard = self.shards[shard_of(partition)].read();
        let Some(entry) = shard.get(&partition) else { return Vec::new() };
        let first = entry.parts.partition_point(|part| part.end <= offset);
        let mut out: Vec<Part> = Vec::new();
        // Of the first part perhaps only the last batch is wanted.
        let mut found = 0;
        for part in entry.parts[first..].iter().filter(|part| part.bytes > 0) {
            if found >= bytes && out.len() > 1 {
                break;
            }
            found += if out.is_empty() { 0 } else { part.bytes as usize };
            out.push(part.clone());
        }
        out
    }

    /// All parts and the log start.
    pub(super) fn all(&self, partition: PartitionId) -> (Vec<Part>, i64) {
        let shard = self.shards[shard_of(partition)].read();
        shard.get(&partition).map(|entry| (entry.parts.clone(), entry.log_start)).unwrap_or_default()
    }

    /// Calls `look` with all parts and the log start.
    pub(super) fn look<R>(&self, partition: PartitionId, look: impl FnOnce(&[Part], i64) -> R) -> R {
        let shard = self.shards[shard_of(partition)].read();
        match shard.get(&partition) {
            Some(entry) => look(&entry.parts, entry.log_start),
            None => look(&[], 0),
        }
    }

    /// Every partition that has a part, sorted.
    pub(super) fn partitions(&self) -> Vec<PartitionId> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.read().iter().filter(|(_, e)| !e.parts.is_empty()).map(|(id, _)| *id));
        }
        all.sort_unstable();
        all
    }

    /// Drops the parts that end at or below `offset`. A log start only moves up.
    pub(super) fn set_log_start(&self, partition: PartitionId, offset: i64) {
        if offset <= 0 {
            return;
        }
        let mut shard = self.shards[shard_of(partition)].write();
        let entry = shard.entry(partition).or_default();
        if offset > entry.log_start {
            entry.log_start = offset;
            entry.remove_if(|part| part.end <= offset);
            entry.validate(partition);
        }
    }

    /// Removes a partition.
    pub(super) fn drop_partition(&self, partition: PartitionId) {
        if let Some(mut entry) = self.shards[shard_of(partition)].write().remove(&partition) {
            entry.remove_if(|_| true);
        }
    }

    /// Checks the invariants; for tests.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        for shard in &self.shards {
            for (partition, entry) in shard.read().iter() {
                entry.validate(*partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{
        layout::{Footer, PartEntry},
        run::Index,
    };

    const P1: PartitionId = PartitionId(1);

    /// The parts of a run without batches that covers these offsets.
    fn run(id: u64, ranges: &[(i64, i64)]) -> Vec<Part> {
        let entry = |&(start, end): &(i64, i64)| PartEntry {
            partition: P1,
            start,
            end,
            max_timestamp: i64::MIN,
            delete_horizon: i64::MAX,
            clean_end: i64::MIN,
            position: 32,
            bytes: 0,
            regions: 0,
        };
        let parts: Vec<PartEntry> = ranges.iter().map(entry).collect();
        let footer = Footer::new(id, 32, (parts.len() as u32, 0), 0);
        let (_, parts) = Index { footer, parts, regions: Vec::new() }.into_run(4096);
        parts.into_iter().map(|(_, part)| part).collect()
    }

    fn ranges(directory: &Directory) -> Vec<(u64, i64, i64)> {
        directory.look(P1, |parts, _| parts.iter().map(|p| (p.run.id, p.start, p.end)).collect())
    }

    fn opened(runs: &[Vec<Part>]) -> Directory {
        Directory::open(runs.iter().rev().flatten().map(|part| (P1, part.clone())))
    }

    #[test]
    fn the_newest_run_that_has_an_offset_wins() {
        let runs =
            [run(1, &[(0, 10), (10, 20)]), run(2, &[(20, 30)]), run(3, &[(0, 20)]), run(4, &[(30, 31)])];
        let directory = opened(&runs);
        assert_eq!(ranges(&directory), [(3, 0, 20), (2, 20, 30), (4, 30, 31)]);
        assert_eq!(runs[0][0].run.live_parts.load(Relaxed), 0);
        // Some of the parts that replaced this one may be dropped since; the rest of it was dead too.
        let runs = [run(1, &[(0, 100)]), run(3, &[(50, 100)])];
        assert_eq!(ranges(&opened(&runs)), [(3, 50, 100)]);
        let runs = [run(1, &[(0, 100)]), run(2, &[(0, 50)]), run(3, &[(20, 30)])];
        assert_eq!(ranges(&opened(&runs)), [(3, 20, 30)]);
    }

    #[test]
    fn log_starts_and_drops_take_parts_out_and_keep_them_out() {
        let runs = [run(1, &[(0, 10), (10, 20)]), run(2, &[(20, 30)])];
        let directory = opened(&runs);
        directory.set_log_start(P1, 15);
        directory.set_log_start(P1, 5);
        assert_eq!(ranges(&directory), [(1, 10, 20), (2, 20, 30)]);
        directory.set_log_start(P1, 40);
        let late = run(3, &[(30, 40), (40, 50)]);
        late.iter().for_each(|part| directory.add(P1, part.clone()));
        assert_eq!(ranges(&directory), [(3, 40, 50)]);
        directory.drop_partition(P1);
        directory.replace(P1, (0, 100), run(4, &[(0, 100)]));
        assert_eq!((ranges(&directory), directory.partitions()), (vec![], vec![]));
        assert!(runs.iter().flatten().chain(&late).all(|part| part.run.live_parts.load(Relaxed) == 0));
    }

    #[test]
    fn a_replacement_takes_the_place_of_what_lies_in_it_only() {
        let directory = opened(&[run(1, &[(0, 10), (10, 20), (20, 30), (30, 40)])]);
        directory.replace(P1, (10, 30), run(5, &[(10, 17), (17, 30)]));
        assert_eq!(ranges(&directory), [(1, 0, 10), (5, 10, 17), (5, 17, 30), (1, 30, 40)]);
        assert_eq!(directory.end(P1), Some(40));
        assert_eq!(directory.end(PartitionId(2)), None);
        directory.validate();
    }
}
