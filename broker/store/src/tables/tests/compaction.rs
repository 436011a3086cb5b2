//! Log compaction: what must stay stays at its offset, hidden values go, and repeating it changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millstream_model::batch::decode_records;

use super::*;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const NO_PRODUCER: (i64, i16, i32) = (-1, -1, -1);
/// Attribute bits: transactional, control.
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

type Pair<'a> = (&'a str, Option<&'a str>);

/// A batch of keys and values with timestamps one millisecond apart.
fn pairs(base: i64, timestamp_ms: i64, pairs: &[Pair<'_>]) -> StoredBatch {
    made(base, timestamp_ms, Codec::None, NO_PRODUCER, 0, pairs)
}

fn made(
    base: i64,
    timestamp_ms: i64,
    codec: Codec,
    (id, epoch, sequence): (i64, i16, i32),
    attributes: i16,
    pairs: &[Pair<'_>],
) -> StoredBatch {
    let mut builder = BatchBuilder::new(codec).producer(id, epoch, sequence);
    for (n, (key, value)) in pairs.iter().enumerate() {
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        builder.push(NewRecord {
            timestamp_ms: timestamp_ms + n as i64,
            key,
            value,
            headers: &[(b"h", value)],
        });
    }
    stored(&with_attributes(&builder.build().expect("a batch"), attributes), base)
}

/// Sets attribute bits and corrects the CRC.
fn with_attributes(batch: &[u8], bits: i16) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[22] |= bits as u8;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// A transaction's end.
fn marker(base: i64, producer: i64, commit: bool) -> StoredBatch {
    let mut builder = BatchBuilder::new(Codec::None).producer(producer, 0, -1);
    let key = [0, 0, 0, u8::from(commit)];
    builder.push(NewRecord { timestamp_ms: 1, key: Some(&key), value: Some(&[0; 6]), headers: &[] });
    stored(&with_attributes(&builder.build().expect("a batch"), TRANSACTIONAL | CONTROL), base)
}

fn policy_at(now_ms: i64) -> PartitionPolicy {
    let compact = CompactPolicy {
        now_ms,
        delete_retention_ms: 1000,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        min_dirty_ratio: 0.0,
    };
    PartitionPolicy { compact: Some(compact), ..keep(P1) }
}

/// Compacts until nothing is due; returns the number of rounds.
fn compact_at(tables: &Tables, now_ms: i64) -> usize {
    merge_all(tables, &|_| policy_at(now_ms))
}

/// A record as a consumer sees it.
type Seen = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn seen_in(batch: &Bytes) -> Vec<Seen> {
    let header = BatchHeader::parse(batch).expect("a header");
    let decoded = decode_records(batch, 1 << 20).expect("decodes");
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let one = |r: millstream_model::batch::Record<'_>| {
        let at = header.base_offset + i64::from(r.offset_delta);
        (at, header.base_timestamp + r.timestamp_delta, owned(r.key), owned(r.value))
    };
    decoded.iter().map(|record| one(record.expect("a record"))).collect()
}

fn seen(tables: &Tables) -> Vec<Seen> {
    fetch_all(tables, P1, 0, 700).expect("reads").iter().flat_map(seen_in).collect()
}

/// Offsets with key and value, as text.
fn texts(tables: &Tables) -> Vec<(i64, String)> {
    let text =
        |bytes: Option<Vec<u8>>| bytes.map_or("-".to_string(), |b| String::from_utf8_lossy(&b).into_owned());
    seen(tables)
        .into_iter()
        .map(|(at, _, key, value)| (at, format!("{}={}", text(key), text(value))))
        .collect()
}

fn said(rows: &[(i64, &str)]) -> Vec<(i64, String)> {
    rows.iter().map(|(at, text)| (*at, text.to_string())).collect()
}

fn filled(batches: &[StoredBatch]) -> (SimDisk, Tables) {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    for (n, batch) in batches.iter().enumerate() {
        put(&tables, n as u64, P1, batch.clone());
        if n % 2 == 1 {
            tables.flush().expect("flushes");
        }
    }
    tables.flush().expect("flushes");
    (disk, tables)
}

#[test]
fn the_newest_value_of_each_key_stays_at_its_offset() {
    let (disk, tables) = filled(&[
        pairs(0, 10, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))]),
        pairs(3, 20, &[("c", Some("1")), ("b", Some("2"))]),
        pairs(5, 30, &[("a", Some("3")), ("d", Some("1"))]),
    ]);
    compact_at(&tables, 100);
    let expected = said(&[(3, "c=1"), (4, "b=2"), (5, "a=3"), (6, "d=1")]);
    assert_eq!(texts(&tables), expected);
    assert_eq!(texts(&open(&disk)), expected);
    // A later value hides one that was compacted before.
    put(&tables, 3, P1, pairs(7, 40, &[("c", Some("2"))]));
    tables.flush().expect("flushes");
    compact_at(&tables, 200);
    assert_eq!(texts(&tables), said(&[(4, "b=2"), (5, "a=3"), (6, "d=1"), (7, "c=2")]));
    let headers: Vec<_> = fetch_all(&tables, P1, 0, 700)
        .expect("reads")
        .iter()
        .map(|batch| BatchHeader::parse(batch).expect("a header"))
        .map(|header| (header.base_offset, header.last_offset(), header.max_timestamp))
        .collect();
    assert_eq!(headers, [(3, 4, 21), (5, 6, 31), (7, 7, 40)], "offsets and times are those of the records");
}

#[test]
fn a_record_that_was_not_looked_at_for_the_longest_lag_starts_a_compaction() {
    let policy = |now_ms| {
        let policy = policy_at(now_ms);
        let compact = policy.compact.map(|c| CompactPolicy { max_lag_ms: 500, min_dirty_ratio: 0.9, ..c });
        PartitionPolicy { compact, ..policy }
    };
    let (_, tables) = filled(&[pairs(0, 10, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))])]);
    merge_all(&tables, &|_| policy(20));
    put(&tables, 1, P1, pairs(3, 100, &[("a", Some("2"))]));
    tables.flush().expect("flushes");
    let all = said(&[(0, "a=1"), (1, "b=1"), (2, "c=1"), (3, "a=2")]);
    assert_eq!((merge_all(&tables, &|_| policy(600)), texts(&tables)), (0, all), "too little, and not old");
    merge_all(&tables, &|_| policy(601));
    assert_eq!(texts(&tables), said(&[(1, "b=1"), (2, "c=1"), (3, "a=2")]));
    assert_eq!(merge_all(&tables, &|_| policy(10_000)), 0, "what was looked at has no age");
}

#[test]
fn the_time_at_which_age_makes_the_next_compaction_due_is_known() {
    let policy = |now_ms| {
        let policy = policy_at(now_ms);
        let compact = policy.compact.map(|c| CompactPolicy { max_lag_ms: 500, min_dirty_ratio: 1.0, ..c });
        PartitionPolicy { compact, ..policy }
    };
    let (_, tables) = filled(&[pairs(0, 10, &[("a", Some("1")), ("b", Some("1"))])]);
    assert_eq!(tables.compaction_due_ms(), i64::MAX, "no merge has run yet");
    merge_all(&tables, &|_| policy(20));
    assert_eq!(tables.compaction_due_ms(), i64::MAX, "all of it was compacted: it was all dirty");
    put(&tables, 1, P1, pairs(2, 100, &[("a", None)]));
    merge_all(&tables, &|_| policy(110));
    assert!(tables.has_in_memory(P1) && tables.compaction_due_ms() == i64::MAX, "merges see runs only");
    tables.flush().expect("flushes");
    merge_all(&tables, &|_| policy(120));
    assert!(!tables.has_in_memory(P1));
    let due = tables.compaction_due_ms();
    assert_eq!((due, texts(&tables).len()), (601, 3), "when the record is too old");
    assert_eq!(merge_all(&tables, &|_| policy(due - 1)), 0, "not sooner");
    assert_eq!(merge_all(&tables, &|_| policy(due)), 1);
    let due = tables.compaction_due_ms();
    assert_eq!((due, texts(&tables)), (1601, said(&[(1, "b=1"), (2, "a=-")])), "when the tombstone is");
    assert_eq!(merge_all(&tables, &|_| policy(due - 1)), 0, "not sooner");
    assert_eq!(merge_all(&tables, &|_| policy(due)), 1);
    assert_eq!((tables.compaction_due_ms(), texts(&tables)), (i64::MAX, said(&[(1, "b=1")])));
}

#[test]
fn a_second_compaction_changes_nothing_and_does_not_even_start() {
    let (disk, tables) = filled(&[
        pairs(0, 10, &[("a", Some("1")), ("a", Some("2"))]),
        pairs(2, 20, &[("b", None), ("c", Some("1"))]),
    ]);
    compact_at(&tables, 100);
    let before = disk.files();
    assert_eq!(tables.merge_once(&|_| policy_at(101)).expect("merges"), MergeOutcome::default());
    assert!(disk.files() == before);
}

#[test]
fn a_tombstone_stays_for_its_time_after_it_was_first_cleaned_and_then_goes() {
    let (disk, tables) = filled(&[
        pairs(0, 10, &[("a", Some("1")), ("b", Some("1"))]),
        pairs(2, 20, &[("a", None), ("c", Some("1"))]),
    ]);
    compact_at(&tables, 5000);
    let with = said(&[(1, "b=1"), (2, "a=-"), (3, "c=1")]);
    assert_eq!(texts(&tables), with);
    assert_eq!(seen(&tables)[1].1, 20, "its timestamp is what it was");
    let tables = open(&disk);
    put(&tables, 2, P1, pairs(4, 30, &[("b", Some("2"))]));
    tables.flush().expect("flushes");
    assert_eq!(tables.merge_once(&|_| policy_at(5999)).expect("merges").compacted_partitions, 1);
    let with = said(&[(2, "a=-"), (3, "c=1"), (4, "b=2")]);
    assert_eq!(texts(&tables), with, "a millisecond too early");
    compact_at(&tables, 6000);
    assert_eq!(texts(&tables), said(&[(3, "c=1"), (4, "b=2")]));
    let last = fetch_all(&tables, P1, 2, 700).expect("reads");
    let header = BatchHeader::parse(&last[0]).expect("a header");
    assert!(!header.attributes.has_delete_horizon(), "nothing more is to be deleted");
    assert_eq!((header.base_offset, header.last_offset()), (2, 3));
    assert_eq!(tables.merge_once(&|_| policy_at(7000)).expect("merges"), MergeOutcome::default());
}

#[test]
fn what_is_younger_than_the_lag_stays_as_it_is() {
    let (_disk, tables) = filled(&[
        pairs(0, 10, &[("a", Some("1")), ("a", Some("2"))]),
        pairs(2, 20, &[("a", Some("3")), ("a", Some("4"))]),
        pairs(4, 5000, &[("a", Some("5")), ("a", Some("6"))]),
    ]);
    let lagging = |now_ms| {
        move |_| {
            let mut policy = policy_at(now_ms);
            policy.compact.iter_mut().for_each(|compact| compact.min_lag_ms = 1000);
            policy
        }
    };
    merge_all(&tables, &lagging(1000));
    assert_eq!(texts(&tables).len(), 6, "everything is young");
    merge_all(&tables, &lagging(5500));
    assert_eq!(texts(&tables), said(&[(3, "a=4"), (4, "a=5"), (5, "a=6")]));
    merge_all(&tables, &lagging(6001));
    assert_eq!(texts(&tables), said(&[(5, "a=6")]));
}

#[test]
fn the_dirty_ratio_decides_when() {
    let (_disk, tables) = filled(&[pairs(0, 10, &[("a", Some("1")); 40])]);
    compact_at(&tables, 100);
    let mut keys: Vec<String> = (0..20).map(|n| format!("key-{n}")).collect();
    keys.push("a".to_string());
    let rows: Vec<Pair<'_>> = keys.iter().map(|key| (key.as_str(), Some("2"))).collect();
    put(&tables, 1, P1, pairs(40, 20, &rows));
    tables.flush().expect("flushes");
    compact_at(&tables, 100);
    put(&tables, 2, P1, pairs(61, 30, &[("a", Some("3"))]));
    tables.flush().expect("flushes");
    let lazy = |_| {
        let mut policy = policy_at(200);
        policy.compact.iter_mut().for_each(|compact| compact.min_dirty_ratio = 0.5);
        policy
    };
    assert_eq!(tables.merge_once(&lazy).expect("merges").compacted_partitions, 0);
    assert_eq!(tables.merge_once(&|_| policy_at(200)).expect("merges").compacted_partitions, 1);
}

#[test]
fn each_producers_newest_batch_stays_even_without_its_records() {
    let (one, two) = ((7, 1, 0), (8, 0, 0));
    let (_disk, tables) = filled(&[
        made(0, 10, Codec::Zstd, one, 0, &[("a", Some("1"))]),
        made(1, 20, Codec::Zstd, (7, 1, 1), 0, &[("a", Some("2"))]),
        made(2, 30, Codec::None, two, 0, &[("b", Some("1")), ("b", Some("2"))]),
        pairs(4, 40, &[("a", Some("3")), ("b", Some("3"))]),
    ]);
    compact_at(&tables, 100);
    assert_eq!(texts(&tables), said(&[(4, "a=3"), (5, "b=3")]));
    let producers = |tables: &Tables| -> Vec<(i64, i16, i32, i64)> {
        let all = fetch_all(tables, P1, 0, 700).expect("reads");
        let headers = all.iter().map(|batch| BatchHeader::parse(batch).expect("a header"));
        headers
            .filter(|h| h.is_idempotent())
            .map(|h| (h.producer_id, h.producer_epoch, h.last_sequence(), h.last_offset()))
            .collect()
    };
    assert_eq!(producers(&tables), [(7, 1, 1, 1), (8, 0, 1, 3)]);
    // A newer batch of the producer makes the empty one unnecessary; time does the same for the other one.
    put(&tables, 4, P1, made(6, 50, Codec::None, (7, 1, 2), 0, &[("z", Some("1"))]));
    tables.flush().expect("flushes");
    compact_at(&tables, 200);
    assert_eq!(producers(&tables), [(8, 0, 1, 3), (7, 1, 2, 6)]);
    put(&tables, 5, P1, pairs(7, 60, &[("y", Some("1"))]));
    tables.flush().expect("flushes");
    compact_at(&tables, 40 * 24 * 60 * 60 * 1000);
    assert_eq!(producers(&tables), [(7, 1, 2, 6)]);
}

#[test]
fn a_producer_whose_records_have_no_timestamps_is_as_old_as_their_append() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let appended_ms = 40 * DAY_MS;
    let at = |batch: StoredBatch| StoredBatch { appended_ms, ..batch };
    let (_disk, tables) = filled(&[
        at(made(0, -1, Codec::None, (7, 1, 0), 0, &[("a", Some("1"))])),
        at(made(1, -1, Codec::None, (8, 0, 0), 0, &[("a", Some("2"))])),
    ]);
    let producers = || -> Vec<i64> {
        let all = fetch_all(&tables, P1, 0, 700).expect("reads");
        all.iter().map(|batch| BatchHeader::parse(batch).expect("a header").producer_id).collect()
    };
    compact_at(&tables, appended_ms + DAY_MS);
    assert_eq!(producers(), [7, 8]);
    put(&tables, 5, P1, at(pairs(2, appended_ms, &[("y", Some("1"))])));
    tables.flush().expect("flushes");
    compact_at(&tables, appended_ms + 8 * DAY_MS);
    assert_eq!(producers(), [8, -1]);
}

#[test]
fn a_transaction_hides_older_values_only_once_it_is_committed() {
    let write = |base, producer, value| {
        made(base, 20, Codec::None, (producer, 0, 0), TRANSACTIONAL, &[("a", Some(value))])
    };
    let (_disk, tables) = filled(&[
        pairs(0, 10, &[("a", Some("old"))]),
        write(1, 7, "aborted"),
        marker(2, 7, false),
        pairs(3, 30, &[("b", Some("1"))]),
    ]);
    compact_at(&tables, 100);
    assert!(texts(&tables).contains(&(0, "a=old".to_string())), "{:?}", texts(&tables));
    put(&tables, 4, P1, write(4, 8, "open"));
    put(&tables, 5, P1, pairs(5, 40, &[("b", Some("2"))]));
    tables.flush().expect("flushes");
    compact_at(&tables, 200);
    let still = texts(&tables);
    assert!(
        still.contains(&(0, "a=old".to_string())) && still.contains(&(4, "a=open".to_string())),
        "{still:?}"
    );
    put(&tables, 6, P1, marker(6, 8, true));
    tables.flush().expect("flushes");
    compact_at(&tables, 300);
    let after = texts(&tables);
    let values: Vec<&str> =
        after.iter().map(|(_, text)| text.as_str()).filter(|text| !text.contains('\0')).collect();
    assert_eq!(values, ["a=open", "b=2"]);
    let markers = fetch_all(&tables, P1, 0, 700).expect("reads");
    let markers = markers.iter().filter(|b| BatchHeader::parse(b).expect("a header").attributes.is_control());
    assert_eq!(markers.count(), 2, "markers stay");
}

#[test]
fn compressed_batches_stay_compressed_and_whole_ones_are_not_touched() {
    for codec in CODECS {
        let many: Vec<String> = (0..30).map(|n| format!("key-{n}")).collect();
        let rows: Vec<Pair<'_>> =
            many.iter().map(|key| (key.as_str(), Some("a value that repeats, a value"))).collect();
        let (first, second) =
            (made(0, 10, codec, NO_PRODUCER, 0, &rows), made(30, 10, codec, NO_PRODUCER, 0, &rows[..20]));
        let (_disk, tables) = filled(&[first, second.clone()]);
        compact_at(&tables, 100);
        let all = fetch_all(&tables, P1, 0, 9000).expect("reads");
        let header = BatchHeader::parse(&all[0]).expect("a header");
        assert_eq!((header.attributes.codec(), header.record_count), (Ok(codec), 10));
        assert_eq!(all[1], second.bytes, "nothing of it is hidden: not a byte changes");
        assert_eq!(seen(&tables).len(), 30);
    }
}

#[test]
fn bytes_that_cannot_be_decoded_stay_as_they_are() {
    let mut broken = made(1, 20, Codec::Zstd, NO_PRODUCER, 0, &[("a", Some("x")); 5]).bytes.to_vec();
    let len = broken.len();
    broken[len - 3..].fill(0xff);
    let broken = stored(&with_attributes(&broken, 0), 1);
    let (_disk, tables) = filled(&[
        pairs(0, 10, &[("a", Some("1"))]),
        broken.clone(),
        pairs(6, 30, &[("b", Some("1")), ("b", Some("2"))]),
    ]);
    compact_at(&tables, 100);
    let all = fetch_all(&tables, P1, 0, 700).expect("reads");
    assert_eq!(all.len(), 3);
    assert_eq!(all[1], broken.bytes);
    assert_eq!(seen_in(&all[0]).len(), 1, "it hides nothing");
}

#[test]
fn a_tombstone_stays_after_a_batch_that_cannot_be_decoded() {
    let mut broken = made(0, 20, Codec::Zstd, NO_PRODUCER, 0, &[("a", Some("x")); 5]).bytes.to_vec();
    let len = broken.len();
    broken[len - 3..].fill(0xff);
    let broken = stored(&with_attributes(&broken, 0), 0);
    let (_disk, tables) = filled(&[broken, pairs(5, 30, &[("a", None)])]);
    for now in [100, 5000, 10_000] {
        compact_at(&tables, now);
        let all = fetch_all(&tables, P1, 0, 700).expect("reads");
        assert_eq!(all.len(), 2, "at {now}");
        assert_eq!(seen_in(&all[1]).len(), 1, "at {now}: the batch before it may have an older value");
    }
}

#[test]
fn a_partition_that_compaction_empties_reads_as_empty() {
    let (disk, tables) =
        filled(&[pairs(0, 10, &[("a", None), ("b", None)]), pairs(2, 20, &[("a", None), ("b", None)])]);
    compact_at(&tables, 100);
    compact_at(&tables, 5000);
    for tables in [tables, open(&disk)] {
        assert_eq!(fetch(&tables, P1, 0, 100), Ok(Vec::new()));
        put(&tables, 2, P1, pairs(4, 30, &[("c", Some("1"))]));
        assert_eq!(texts(&tables), said(&[(4, "c=1")]), "a gap in front of memory is read over");
    }
}

#[test]
fn more_keys_than_fit_into_memory_take_several_rounds() {
    let mut batches = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let keys: Vec<String> = (0..10).map(|k| format!("key-{}", n * 10 + k)).collect();
            let value = format!("round {round}");
            let rows: Vec<Pair<'_>> = keys.iter().map(|key| (key.as_str(), Some(value.as_str()))).collect();
            batches.push(pairs((round * 20 + n) * 10, 10, &rows));
        }
    }
    let (_disk, tables) = filled(&batches);
    let rounds = compact_at(&tables, 100);
    assert!(
        rounds >= 600 / 100,
        "{rounds} rounds for 600 records, with 40 keys at once and regions of a few records"
    );
    let texts = texts(&tables);
    assert_eq!(texts.len(), 200, "TablesConfig::tiny() allows 40 keys at once");
    assert!(texts.iter().all(|(at, text)| *at >= 400 && text.ends_with("round 2")));
}

/// What compaction must keep of a history of a partition.
struct Expect {
    all: BTreeMap<i64, Seen>,
    /// Offset of the newest value of each key, once it counts.
    newest: HashMap<Vec<u8>, i64>,
    open: HashMap<i64, Vec<(Vec<u8>, i64)>>,
    last_batch: HashMap<i64, i64>,
    markers: BTreeSet<i64>,
}

impl Expect {
    fn add(&mut self, batch: &StoredBatch) {
        let header = BatchHeader::parse(&batch.bytes).expect("a header");
        if header.attributes.is_control() {
            self.markers.insert(header.base_offset);
            let ended = self.open.remove(&header.producer_id).unwrap_or_default();
            let commit = seen_in(&batch.bytes)[0].2.as_deref() == Some(&[0, 0, 0, 1]);
            ended.into_iter().filter(|_| commit).for_each(|(key, at)| self.set(key, at));
            return;
        }
        if header.is_idempotent() {
            self.last_batch.insert(header.producer_id, header.last_offset());
        }
        for seen in seen_in(&batch.bytes) {
            let key = seen.2.clone().expect("a key");
            match header.attributes.is_transactional() {
                true => self.open.entry(header.producer_id).or_default().push((key, seen.0)),
                false => self.set(key, seen.0),
            }
            self.all.insert(seen.0, seen);
        }
    }

    fn set(&mut self, key: Vec<u8>, at: i64) {
        let newest = self.newest.entry(key).or_insert(at);
        *newest = at.max(*newest);
    }

    fn check(&self, tables: &Tables, context: &str) {
        let batches = fetch_all(tables, P1, 0, 900).expect("reads");
        let headers: Vec<_> = batches.iter().map(|b| BatchHeader::parse(b).expect("a header")).collect();
        let records: Vec<Seen> = batches
            .iter()
            .zip(&headers)
            .filter(|(_, header)| !header.attributes.is_control())
            .flat_map(|(batch, _)| seen_in(batch))
            .collect();
        assert!(records.is_sorted_by(|a, b| a.0 < b.0), "{context}: the order changed");
        for record in &records {
            assert_eq!(self.all.get(&record.0), Some(record), "{context}: a record changed");
        }
        let offsets: BTreeSet<i64> = records.iter().map(|record| record.0).collect();
        for (key, at) in &self.newest {
            let tombstone = self.all[at].3.is_none();
            assert!(tombstone || offsets.contains(at), "{context}: the newest {key:?}, at {at}, is gone");
        }
        let markers: BTreeSet<i64> =
            headers.iter().filter(|h| h.attributes.is_control()).map(|h| h.base_offset).collect();
        assert_eq!(markers, self.markers, "{context}: markers");
        for (producer, last) in &self.last_batch {
            let there = headers.iter().any(|h| h.producer_id == *producer && h.last_offset() == *last);
            assert!(there, "{context}: the newest batch of producer {producer}, at {last}, is gone");
        }
    }
}

#[test]
fn random_histories_keep_the_newest_value_of_every_key() {
    let mut removed = 0;
    for seed in 0..30 {
        let mut rng = TestRng::new(seed);
        let disk = SimDisk::new(seed);
        let mut tables = open(&disk);
        let (mut next, mut now) = (0, 1000);
        let mut expect = Expect {
            all: BTreeMap::new(),
            newest: HashMap::new(),
            open: HashMap::new(),
            last_batch: HashMap::new(),
            markers: BTreeSet::new(),
        };
        let mut log = Vec::new();
        for step in 0..120 {
            now += rng.roll(300) as i64;
            match rng.roll(20) {
                0..15 => {
                    let batch = random_batch(&mut rng, next, now, &expect.open);
                    next = batch.next_offset;
                    expect.add(&batch);
                    put(&tables, log.len() as u64, P1, batch.clone());
                    log.push(batch);
                }
                15 => drop(tables.flush().expect("flushes")),
                16 => {
                    tables = open(&disk);
                    log.iter().enumerate().for_each(|(n, batch)| put(&tables, n as u64, P1, batch.clone()));
                }
                _ => drop(tables.merge_once(&|_| policy_at(now)).expect("merges")),
            }
            tables.validate();
            expect.check(&tables, &format!("seed {seed}, step {step}"));
        }
        tables.flush().expect("flushes");
        compact_at(&tables, now);
        expect.check(&tables, &format!("seed {seed}, at the end"));
        removed += expect.all.len() - seen(&tables).len().min(expect.all.len());
    }
    assert!(removed > 1000, "{removed} records were removed in all");
}

fn random_batch(
    rng: &mut TestRng,
    base: i64,
    now: i64,
    open: &HashMap<i64, Vec<(Vec<u8>, i64)>>,
) -> StoredBatch {
    let producer = rng.roll(3) as i64 + 1;
    if open.contains_key(&producer) && rng.roll(2) == 0 {
        return marker(base, producer, rng.roll(3) > 0);
    }
    let keys: Vec<String> = (0..1 + rng.roll(6)).map(|_| format!("k{}", rng.roll(25))).collect();
    let value = format!("value {}", rng.roll(1000));
    let rows: Vec<Pair<'_>> =
        keys.iter().map(|key| (key.as_str(), (rng.roll(4) > 0).then_some(value.as_str()))).collect();
    let codec = CODECS[rng.roll(5) as usize];
    match rng.roll(3) {
        0 => made(base, now, codec, (producer, 0, base as i32), TRANSACTIONAL, &rows),
        1 => made(base, now, codec, (producer + 10, 0, base as i32), 0, &rows),
        _ => made(base, now, codec, NO_PRODUCER, 0, &rows),
    }
}
