//! Fetches from a compacted partition, over a simulated disk: every reader reaches the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_model::{
    LogId, PartitionId, RaftGroupId,
    batch::{BatchBuilder, BatchHeader, Codec, NewRecord, check_crc, decode_records, split},
};
use millstream_replica::{Command, Machine};
use millstream_state::partition as commands;
use millstream_store::{
    disk::sim::SimDisk,
    tables::{CompactPolicy, MergeOutcome, PartitionPolicy, Tables, TablesConfig},
};

use super::{
    FetchBounds, FetchError, FetchPart, Fetched, Locate, Replies, ShardHost, fetch, leader_epoch,
    staged::{StagedAppend, StagedBatch},
};
use crate::{clock, service::PartitionView};

const GROUP: RaftGroupId = RaftGroupId(1);
const PARTITION: PartitionId = PartitionId(7);
const TERM: u64 = 3;
const NO_PRODUCER: (i64, i16, i32) = (-1, -1, -1);
/// Time after which an empty batch is no longer kept for its producer's state.
const LONG_MS: i64 = 30 * 24 * 60 * 60 * 1000;

type Pair<'a> = (&'a str, Option<&'a str>);

/// One partition of a compacted topic, with the records that it must still have.
struct Compacted {
    disk: SimDisk,
    host: Arc<ShardHost>,
    tables: Arc<Tables>,
    log: Vec<Bytes>,
    now_ms: i64,
    log_start: i64,
    end: i64,
    /// Offset and value of each key's newest record.
    newest: BTreeMap<String, (i64, Option<String>)>,
}

impl Locate for Compacted {
    fn locate(&self, _: RaftGroupId) -> Result<(&Arc<ShardHost>, u64), FetchError> {
        Ok((&self.host, TERM))
    }
}

fn open(disk: &SimDisk) -> (Arc<Tables>, Arc<ShardHost>) {
    let (tables, _) = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).expect("tables");
    let tables = Arc::new(tables);
    (tables.clone(), Arc::new(ShardHost::new(GROUP, tables)))
}

impl Compacted {
    fn new(seed: u64) -> Compacted {
        let disk = SimDisk::new(seed);
        let (tables, host) = open(&disk);
        let log = Vec::new();
        let newest = BTreeMap::new();
        let mut new = Compacted { disk, host, tables, log, now_ms: 1000, log_start: 0, end: 0, newest };
        new.apply(commands::encode_create_partitions(&[PARTITION.into()]));
        new
    }

    fn apply(&mut self, command: Bytes) {
        self.log.push(command.clone());
        let id = LogId::new(TERM, self.log.len() as u64);
        self.host.apply(id, command);
        self.host.applied(id);
    }

    fn append(&mut self, producer: (i64, i16, i32), pairs: &[Pair<'_>]) {
        let mut builder = BatchBuilder::new(Codec::None).producer(producer.0, producer.1, producer.2);
        for (offset, (key, value)) in (self.end..).zip(pairs) {
            let (bytes, value_bytes) = (Some(key.as_bytes()), value.map(str::as_bytes));
            let timestamp_ms = self.now_ms;
            builder.push(NewRecord { timestamp_ms, key: bytes, value: value_bytes, headers: &[] });
            self.newest.insert(key.to_string(), (offset, value.map(String::from)));
        }
        let (bytes, base_offset) = (builder.build().expect("built"), self.end);
        let leader_epoch = leader_epoch(TERM, 0);
        let staged = StagedBatch {
            partition: PARTITION,
            bytes,
            base_offset,
            leader_epoch,
            log_append_ms: None,
            max_timestamp: None,
        };
        self.apply(Command::staged(StagedAppend::new(self.now_ms, vec![staged])).into_bytes());
        self.end += pairs.len() as i64;
    }

    fn delete_records(&mut self, below: i64) {
        self.log_start = below;
        self.apply(commands::encode_set_log_start(&[(PARTITION, below)]));
    }

    /// Runs one merge that is due.
    fn merge(&self) -> MergeOutcome {
        let compact = CompactPolicy {
            now_ms: self.now_ms,
            delete_retention_ms: 0,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            min_dirty_ratio: 0.0,
        };
        let policy = PartitionPolicy { live: true, log_start: self.log_start, compact: Some(compact) };
        self.tables.merge_once(&|_| policy).expect("merges")
    }

    /// Flushes, and merges until no merge is due, now and a month later.
    fn compact_all(&mut self) {
        self.tables.flush().expect("flushes");
        for _ in 0..2 {
            while self.merge() != MergeOutcome::default() {}
            self.now_ms += LONG_MS;
        }
    }

    /// Kills and reopens the disk, and applies the log again.
    fn restart(&mut self) {
        self.disk = self.disk.kill();
        (self.tables, self.host) = open(&self.disk);
        for (index, command) in (1..).zip(self.log.clone()) {
            self.host.apply(LogId::new(TERM, index), command);
            self.host.applied(LogId::new(TERM, index));
        }
    }

    async fn fetch(&self, offset: i64, max_bytes: usize) -> Result<Fetched, FetchError> {
        let partition = PartitionView { index: 0, id: PARTITION, group: GROUP, epoch_base: 0 };
        let part = FetchPart { partition, offset, max_bytes, current_leader_epoch: -1 };
        let bounds = FetchBounds { max_bytes, min_bytes: 1, deadline: clock::monotonic() };
        let mut waited = Duration::ZERO;
        fetch(self, &[part], bounds, &Replies::new(1 << 20), &mut waited).await.remove(0)
    }

    /// Fetches batches from `offset` on as a consumer does; it must reach the end.
    async fn read_to_end(&self, mut offset: i64, max_bytes: usize) -> Vec<(BatchHeader, Bytes)> {
        let mut all = Vec::new();
        while offset < self.end {
            let fetched = self.fetch(offset, max_bytes).await.expect("it can be read");
            assert_eq!(fetched.high_watermark, self.end);
            let batches = fetched.records.iter().flat_map(split).map(|batch| batch.expect("whole"));
            let before = offset;
            for batch in batches {
                check_crc(&batch).expect("a good CRC");
                let header = BatchHeader::parse(&batch).expect("a header");
                assert!(header.next_offset() > offset, "a batch below {offset}");
                offset = header.next_offset();
                all.push((header, batch));
            }
            assert!(offset > before, "a reader is stuck at {offset} of {}, with {max_bytes} bytes", self.end);
        }
        assert_eq!(offset, self.end);
        assert!(self.fetch(self.end, max_bytes).await.expect("the end exists").is_empty());
        all
    }

    /// Reads from every offset: each read reaches the end and finds every record that must exist.
    async fn check(&self, max_bytes: usize, context: &str) {
        for from in self.log_start..=self.end {
            let batches = self.read_to_end(from, max_bytes).await;
            let records: BTreeMap<i64, (String, Option<String>)> =
                batches.iter().flat_map(|(header, batch)| records_of(header, batch)).collect();
            for (key, (offset, value)) in &self.newest {
                let found = records.get(offset);
                let same = found.is_some_and(|(k, v)| k == key && v == value);
                let may_be_gone = *offset < from || value.is_none();
                assert!(same || may_be_gone, "{context}: from {from} {key} at {offset} is {found:?}");
            }
            // Offsets below the log start cannot be read.
            let below = self.log_start - 1;
            let refused = self.fetch(below, max_bytes).await.map(|_| ());
            assert!(matches!(refused, Err(FetchError::OffsetOutOfRange { .. })), "{context}: at {below}");
        }
    }

    /// Base offset, last offset and record count of each batch from the log start on.
    async fn shape(&self) -> Vec<(i64, i64, i32)> {
        let batches = self.read_to_end(self.log_start, 1 << 20).await;
        batches.iter().map(|(h, _)| (h.base_offset, h.last_offset(), h.record_count)).collect()
    }
}

fn records_of(header: &BatchHeader, batch: &Bytes) -> Vec<(i64, (String, Option<String>))> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let decoded = decode_records(batch, 1 << 20).expect("decodes");
    let one = |record: millstream_model::batch::Record<'_>| {
        let offset = header.base_offset + i64::from(record.offset_delta);
        (offset, (text(record.key.expect("a key")), record.value.map(text)))
    };
    decoded.iter().map(|record| one(record.expect("a record"))).collect()
}

#[tokio::test]
async fn a_reader_reaches_the_end_when_compaction_has_removed_the_last_records() {
    // The last batch of an idempotent producer is kept without records; that of another producer is removed.
    for (producer, first) in [(NO_PRODUCER, 3), ((9, 0, 0), 2)] {
        let mut topic = Compacted::new(1);
        topic.append(NO_PRODUCER, &[("a", Some("1")), ("b", Some("1"))]);
        topic.append(producer, &[("b", None), ("c", Some("1")), ("c", None)]);
        topic.check(1, "in memory").await;
        topic.compact_all();
        topic.check(1, "compacted").await;
        assert_eq!(topic.shape().await, [(0, 1, 1), (2, 4, 0)]);
        topic.restart();
        topic.check(1, "after a restart").await;
        let fetched = topic.fetch(3, 1).await.expect("it can be read");
        let header = BatchHeader::parse(&fetched.records[0]).expect("a header");
        assert_eq!((header.base_offset, header.last_offset(), header.record_count), (first, 4, 0));
        assert_eq!(header.leader_epoch, leader_epoch(TERM, 0), "that of the last record");
        topic.delete_records(3);
        topic.check(1, "after a deletion into the removed offsets").await;
        assert_eq!(topic.shape().await, [(first, 4, 0)]);
        topic.append(NO_PRODUCER, &[("d", Some("1"))]);
        topic.check(1, "with a record after the removed offsets").await;
        topic.compact_all();
        assert_eq!(topic.shape().await, [(5, 5, 1)], "a gap in the middle needs no batch");
        topic.delete_records(6);
        topic.check(1, "after a deletion up to the end").await;
        assert_eq!(topic.shape().await, []);
    }
}

#[tokio::test]
async fn a_partition_without_records_can_be_read_to_its_end() {
    let mut topic = Compacted::new(2);
    for _ in 0..20 {
        topic.append(NO_PRODUCER, &[("a", Some("1")), ("b", Some("1")), ("a", None), ("b", None)]);
        topic.tables.flush().expect("flushes");
    }
    topic.compact_all();
    topic.check(100, "emptied").await;
    assert_eq!(topic.shape().await, [(0, 79, 0)]);
    topic.restart();
    topic.check(100, "emptied and restarted").await;
}

#[tokio::test]
async fn missing_records_that_no_run_covers_are_not_skipped() {
    let mut topic = Compacted::new(3);
    topic.append(NO_PRODUCER, &[("a", Some("1"))]);
    // The state machine expects records that are neither in memory nor in a run.
    topic.apply(commands::encode_extend(&[(PARTITION, 5)]));
    assert!(topic.fetch(1, 100).await.expect("within the bounds").is_empty());
}

#[tokio::test]
async fn every_offset_of_a_compacted_partition_leads_to_the_end() {
    let mut skipped = 0;
    for seed in 0..12 {
        let mut topic = Compacted::new(seed);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % end
        };
        for step in 0..60 {
            topic.now_ms += random(300) as i64;
            match random(20) {
                0..10 => {
                    let keys: Vec<String> = (0..=random(8)).map(|_| format!("k{}", random(6))).collect();
                    let value = "v".repeat(random(120) as usize);
                    let pairs: Vec<Pair<'_>> = keys
                        .iter()
                        .map(|key| (key.as_str(), (random(2) == 0).then_some(value.as_str())))
                        .collect();
                    let producer = if random(2) == 0 { (topic.end, 0, 0) } else { NO_PRODUCER };
                    topic.append(producer, &pairs);
                }
                10..13 => drop(topic.tables.flush().expect("flushes")),
                13..17 => drop(topic.merge()),
                17 => topic.delete_records(
                    topic.log_start + random((topic.end - topic.log_start) as u64 + 1) as i64 / 2,
                ),
                18 => topic.compact_all(),
                _ => topic.restart(),
            }
            if step % 4 == 0 {
                let max_bytes = [1, 300, 2000][random(3) as usize];
                topic.check(max_bytes, &format!("seed {seed}, step {step}")).await;
            }
        }
        // Tombstones for all remaining keys, and enough time: no record remains.
        for n in 0..6 {
            topic.append(NO_PRODUCER, &[(&format!("k{n}"), None)]);
        }
        topic.compact_all();
        topic.check(1000, &format!("seed {seed}, at the end")).await;
        let shape = topic.shape().await;
        skipped += usize::from(shape.last().is_some_and(|(_, _, records)| *records == 0));
    }
    assert_eq!(skipped, 12, "the last records of every history must be removed, or the test shows nothing");
}
