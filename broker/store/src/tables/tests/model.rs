//! Random histories, compared with a model that is a list of batches.

use std::collections::BTreeMap;

use super::*;

const PARTITIONS: u64 = 6;
const GROUPS: u64 = 2;

/// One entry of a group's log: the effects of the state machine.
#[derive(Clone, Debug)]
enum Entry {
    Insert(PartitionId, StoredBatch),
    LogStart(PartitionId, i64),
    Drop(PartitionId),
}

#[derive(Clone, Debug, Default)]
struct ModelPartition {
    batches: Vec<StoredBatch>,
    next_offset: i64,
    log_start: i64,
}

/// The tables, the log that feeds them, and their expected content.
struct ModelRun {
    disk: SimDisk,
    tables: Tables,
    logs: BTreeMap<RaftGroupId, Vec<Entry>>,
    partitions: BTreeMap<PartitionId, ModelPartition>,
    next_partition: u64,
    rng: TestRng,
    seed: u64,
}

fn group_of(partition: PartitionId) -> RaftGroupId {
    RaftGroupId(1 + (partition.0 % GROUPS) as u32)
}

fn apply(tables: &Tables, group: RaftGroupId, index: usize, entry: &Entry) {
    let id = LogId::new(1, index as u64);
    match entry.clone() {
        Entry::Insert(partition, batch) => tables.insert(group, id, partition, batch),
        Entry::LogStart(partition, offset) => tables.set_log_start(partition, offset),
        Entry::Drop(partition) => tables.drop_partition(partition),
    }
    tables.applied(group, id);
}

impl ModelRun {
    fn new(seed: u64) -> ModelRun {
        let disk = SimDisk::new(seed);
        disk.set_short_reads(seed.is_multiple_of(3));
        disk.set_refuses_direct(seed.is_multiple_of(5));
        ModelRun {
            tables: open(&disk),
            disk,
            logs: BTreeMap::new(),
            partitions: (0..PARTITIONS).map(|n| (PartitionId(n), ModelPartition::default())).collect(),
            next_partition: PARTITIONS,
            rng: TestRng::new(seed),
            seed,
        }
    }

    fn any(&mut self) -> PartitionId {
        let nth = self.rng.roll(self.partitions.len() as u64) as usize;
        *self.partitions.keys().nth(nth).expect("there are always some")
    }

    fn log(&mut self, partition: PartitionId, entry: Entry) {
        let group = group_of(partition);
        let log = self.logs.entry(group).or_default();
        apply(&self.tables, group, log.len(), &entry);
        log.push(entry);
    }

    fn step(&mut self) {
        match self.rng.roll(100) {
            0..60 => self.insert(),
            60..72 => drop(self.tables.flush().expect("flushes")),
            72..84 => self.merge(),
            84..92 => self.move_log_start(),
            92..94 => self.replace_partition(),
            94..97 => self.restart(),
            _ => self.crash(),
        }
        let partition = self.any();
        self.check(partition);
    }

    fn insert(&mut self) {
        let partition = self.any();
        let (count, bytes) = (1 + self.rng.roll(8) as usize, self.rng.roll(150) as usize);
        let timestamp = self.rng.roll(1000) as i64;
        let known = self.partitions.get_mut(&partition).expect("known");
        let batch = batch(known.next_offset, count, bytes, timestamp);
        known.next_offset = batch.next_offset;
        known.batches.push(batch.clone());
        self.log(partition, Entry::Insert(partition, batch));
    }

    fn merge(&mut self) {
        let policy = |id: PartitionId| PartitionPolicy {
            live: self.partitions.contains_key(&id),
            log_start: self.partitions.get(&id).map_or(i64::MAX, |known| known.log_start),
            compact: None,
        };
        self.tables.merge_once(&policy).expect("merges");
    }

    fn move_log_start(&mut self) {
        let partition = self.any();
        let known = self.partitions.get_mut(&partition).expect("known");
        let room = known.next_offset - known.log_start;
        known.log_start += self.rng.roll(room as u64 + 1) as i64;
        let offset = known.log_start;
        self.log(partition, Entry::LogStart(partition, offset));
    }

    fn replace_partition(&mut self) {
        let partition = self.any();
        self.partitions.remove(&partition);
        self.log(partition, Entry::Drop(partition));
        self.partitions.insert(PartitionId(self.next_partition), ModelPartition::default());
        self.next_partition += 1;
    }

    fn restart(&mut self) {
        self.tables.flush().expect("flushes");
        self.reopen(self.disk.kill());
    }

    fn crash(&mut self) {
        self.reopen(self.disk.crash());
    }

    /// Reopens the tables and applies the log again, from an entry at or below the flushed mark.
    fn reopen(&mut self, disk: SimDisk) {
        self.disk = disk;
        let (tables, manifest) =
            Tables::open(Arc::new(self.disk.clone()), TablesConfig::tiny()).expect("opens");
        self.tables = tables;
        for (group, log) in &self.logs {
            let flushed = manifest.flushed.get(group).map_or(0, |id| id.index + 1);
            let from = flushed - self.rng.roll(flushed.min(20) + 1);
            // As the machine's checkpoint at that entry says.
            for (partition, log_start) in log_starts(&log[..from as usize]) {
                self.tables.set_log_start(partition, log_start);
            }
            (from as usize..log.len()).for_each(|index| apply(&self.tables, *group, index, &log[index]));
        }
    }

    fn check(&mut self, partition: PartitionId) {
        let known = &self.partitions[&partition];
        let context = format!("seed {}, {partition}", self.seed);
        let offset = known.log_start + self.rng.roll((known.next_offset - known.log_start) as u64 + 1) as i64;
        let max_bytes = [1, 300, 1500, 100_000][self.rng.roll(4) as usize];
        let expected: Vec<&StoredBatch> = known.batches.iter().filter(|b| b.next_offset > offset).collect();
        let read = fetch_all(&self.tables, partition, offset, max_bytes).expect("reads");
        let bytes: Vec<&Bytes> = expected.iter().map(|batch| &batch.bytes).collect();
        assert!(
            read.iter().eq(bytes),
            "{context} from {offset}: {} of {} batches",
            read.len(),
            expected.len()
        );

        let time = self.rng.roll(1100) as i64;
        let live = || known.batches.iter().filter(|batch| batch.next_offset > known.log_start);
        let found =
            self.tables.first_batch_at_or_after_time(partition, time, known.log_start).expect("reads");
        let first = live().find(|batch| batch.max_timestamp >= time);
        assert_eq!(found, first.map(|batch| batch.bytes.clone()), "{context} at {time}");
        let latest = self.tables.max_timestamp_batch(partition, known.log_start).expect("reads");
        let newest = live().max_by_key(|batch| (batch.max_timestamp, -batch.base_offset));
        assert_eq!(latest, newest.map(|batch| batch.bytes.clone()), "{context}");

        let pieces: u64 = self.tables.pieces(partition).iter().map(|piece| piece.bytes).sum();
        let at_least: u64 = live().map(|batch| batch.bytes.len() as u64).sum();
        assert!(pieces >= at_least, "{context}: {pieces} bytes in pieces, {at_least} live");
    }
}

fn log_starts(log: &[Entry]) -> BTreeMap<PartitionId, i64> {
    let starts = log.iter().filter_map(|entry| match entry {
        Entry::LogStart(partition, offset) => Some((*partition, *offset)),
        _ => None,
    });
    starts.collect()
}

#[test]
fn random_histories_give_what_a_list_gives() {
    let mut merges = 0;
    for seed in 0..40 {
        let mut run = ModelRun::new(seed);
        for _ in 0..250 {
            run.step();
            merges += run.tables.stats().merges;
        }
        run.tables.validate();
        let partitions: Vec<PartitionId> = run.partitions.keys().copied().collect();
        partitions.into_iter().for_each(|partition| run.check(partition));
        let log_starts: BTreeMap<PartitionId, i64> =
            run.partitions.iter().map(|(id, known)| (*id, known.log_start)).collect();
        let policy = |id: PartitionId| PartitionPolicy {
            live: log_starts.contains_key(&id),
            log_start: log_starts.get(&id).copied().unwrap_or(i64::MAX),
            compact: None,
        };
        merge_all(&run.tables, &policy);
        let (runs, files) = (run.tables.stats().runs as usize, run_files(&run.disk).len());
        assert!(files <= runs + 1, "seed {seed}: {files} files for {runs} runs");
    }
    assert!(merges > 0, "the histories must merge to show anything");
}
