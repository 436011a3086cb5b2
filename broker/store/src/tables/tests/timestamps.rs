//! Ages and lookups by time for batches without timestamps or with wrong headers.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    time::UNIX_EPOCH,
};

use millstream_model::batch::{
    BatchBuilder, Codec, NewRecord, check_crc, decode_records, stamp_max_timestamp,
};

use super::*;
use crate::disk::OsDisk;

/// Age of the newest piece of a partition, and the result of a lookup by time.
fn age(tables: &Tables) -> Option<i64> {
    tables.pieces(P1).iter().map(|piece| piece.age_from_ms).max()
}

fn first_at(tables: &Tables, partition: PartitionId, time: i64) -> Option<i64> {
    let found = tables.first_batch_at_or_after_time(partition, time, 0).expect("reads");
    found.map(|batch| BatchHeader::parse(&batch).expect("a header").base_offset)
}

fn newest(tables: &Tables, partition: PartitionId) -> Option<i64> {
    let found = tables.max_timestamp_batch(partition, 0).expect("reads");
    found.map(|batch| BatchHeader::parse(&batch).expect("a header").base_offset)
}

fn appended(batch: StoredBatch, appended_ms: i64) -> StoredBatch {
    StoredBatch { appended_ms, ..batch }
}

#[test]
fn a_batch_is_as_old_as_its_timestamp_or_its_append_also_in_runs_that_were_merged_and_opened_again() {
    let disk = SimDisk::new(1);
    let mut tables = open(&disk);
    // Without timestamps, from a clock that is far ahead, and correct ones.
    let batches = [(-1, 5000), (9_000_000, 5001), (4000, 5002)];
    for (n, (timestamp, appended_ms)) in (0..).zip(batches) {
        put(&tables, n, P1, appended(batch(n as i64 * 10, 10, 40, timestamp), appended_ms));
        let expected = if n == 0 { 5000 } else { 5001 };
        assert_eq!(age(&tables), Some(expected), "in memory");
        tables.flush().expect("flushes");
        assert_eq!(age(&tables), Some(expected), "in a run");
    }
    let check = |tables: &Tables, context: &str| {
        assert_eq!(age(tables), Some(5001), "{context}");
        assert_eq!((first_at(tables, P1, 0), first_at(tables, P1, 5001)), (Some(10), Some(10)), "{context}");
        assert_eq!((first_at(tables, P1, 9_000_001), newest(tables, P1)), (None, Some(10)), "{context}");
    };
    check(&tables, "in runs");
    assert!(merge_all(&tables, &keep) > 0, "three small runs are merged");
    check(&tables, "merged");
    drop(tables);
    tables = open(&disk);
    check(&tables, "opened again");
    tables.set_log_start(P1, 20);
    assert_eq!(age(&tables), Some(4000), "that of the one that is left");
}

#[test]
fn a_batch_of_an_unchecked_entry_is_found_by_the_times_of_its_records() {
    let disk = SimDisk::new(1);
    let tables = open(&disk);
    let times = |n: i64| [1003, 1010 + n];
    // The last one is too small, and not below the first record's.
    for (n, wrong) in (0..).zip([-1, 0, 99, 1003]) {
        let mut builder = BatchBuilder::new(Codec::None);
        for timestamp_ms in times(n) {
            builder.push(NewRecord { timestamp_ms, ..NewRecord::default() });
        }
        let mut bytes = builder.build().expect("a batch").to_vec();
        stamp_max_timestamp(&mut bytes, wrong);
        let unchecked = appended(stored(&bytes, n * 2), 2000);
        put(&tables, n as u64, P1, tables.with_true_times(unchecked));
    }
    let check = |context: &str| {
        for n in 0..4 {
            assert_eq!(first_at(&tables, P1, 1010 + n), Some(n * 2), "{context}");
        }
        assert_eq!((newest(&tables, P1), age(&tables)), (Some(6), Some(1013)), "{context}");
        for batch in fetch_all(&tables, P1, 0, 1 << 20).expect("reads") {
            let header = BatchHeader::parse(&batch).expect("a header");
            assert_eq!(header.max_timestamp, times(header.base_offset / 2)[1], "{context}");
            assert_eq!(check_crc(&batch), Ok(()), "{context}");
        }
    };
    check("in memory");
    tables.flush().expect("flushes");
    check("in a run");
}

/// Run and manifest as version 0.1 wrote them.
const OLD_MANIFEST: &[u8] = include_bytes!("v1/manifest");
const OLD_RUN: &[u8] = include_bytes!("v1/run-0000000000000000.run");
/// Time of the first record in it; the next ones follow one second apart.
const BEGIN_MS: i64 = 1_760_000_000_000;

/// A time after every test.
const LATER_MS: i64 = 4_000_000_000_000;

/// A store with a run of version 1, of four partitions: batches of five records each, whose headers' largest
/// timestamps are -1, with any codec; then 0, one that is too small, and a correct one; then records without
/// timestamps; then correct ones.
fn old_store(dir: &tempfile::TempDir) -> (Tables, Vec<PartitionId>) {
    let tables = dir.path().join("tables");
    fs::create_dir_all(&tables).expect("made");
    fs::write(tables.join("manifest"), OLD_MANIFEST).expect("written");
    let run = tables.join("run-0000000000000000.run");
    fs::write(&run, OLD_RUN).expect("written");
    // A restored backup may set this to anything.
    File::options().write(true).open(run).expect("there").set_modified(UNIX_EPOCH).expect("set");
    let tables = open_old(dir);
    let partitions = tables.partitions_in_runs();
    // Their ids are in the order of creation.
    assert_eq!(partitions.iter().map(|&p| tables.end_in_runs(p)).collect::<Vec<_>>(), ENDS.map(Some));
    (tables, partitions)
}

const ENDS: [i64; 4] = [15, 15, 4, 10];

fn open_old(dir: &tempfile::TempDir) -> Tables {
    let config = TablesConfig { merge_runs_min: 2, ..TablesConfig::default() };
    Tables::open(Arc::new(OsDisk::new(dir.path()).expect("a directory")), config).expect("opens").0
}

/// `behind`: the first batch after those of version 1 in the first partition, and the first with timestamps
/// in the third.
fn check_old(tables: &Tables, partitions: &[PartitionId], behind: (Option<i64>, Option<i64>), context: &str) {
    let [minus, zero, none, right] = partitions[..] else { panic!("{partitions:?}") };
    for partition in [minus, zero, right] {
        for (second, base) in [(0, 0), (3, 0), (4, 0), (5, 5), (13, 5), (14, 5)] {
            let found = first_at(tables, partition, BEGIN_MS + second * 1000);
            assert_eq!(found, Some(base), "{context}: {partition} {second}");
        }
    }
    let next = first_at(tables, minus, BEGIN_MS + 24_001);
    assert_eq!((next, first_at(tables, none, 0)), behind, "{context}");
}

#[test]
fn a_run_of_an_earlier_version_is_no_older_than_its_file_and_its_records_are_found_by_their_times() {
    let dir = tempfile::tempdir().expect("a directory");
    let created = fs::metadata(dir.path()).expect("there");
    let restored_ms = created.ctime() * 1000 + created.ctime_nsec() / 1_000_000;
    let (tables, partitions) = old_store(&dir);
    for &partition in &partitions {
        let ages: Vec<_> = tables.pieces(partition).iter().map(|piece| piece.age_from_ms).collect();
        assert!(matches!(ages[..], [age] if age >= restored_ms), "{partition}: {ages:?}");
    }
    check_old(&tables, &partitions, (None, None), "version 1");
    let newest: Vec<_> = partitions.iter().map(|&partition| newest(&tables, partition)).collect();
    assert_eq!(newest, [Some(10), Some(10), Some(0), Some(5)]);
    // Merged with others: the result has correct headers and an age of its own.
    for (n, end) in ENDS.into_iter().enumerate() {
        put(&tables, 1000 + n as u64, partitions[n], appended(batch(end, 1, 10, LATER_MS), LATER_MS + 9));
    }
    tables.flush().expect("flushes");
    assert!(merge_all(&tables, &keep) > 0);
    assert!(tables.runs.read().values().all(|run| !run.has_untrue_times), "version 1 is gone");
    for tables in [tables, open_old(&dir)] {
        check_old(&tables, &partitions, (Some(15), Some(4)), "merged");
        for &partition in &partitions {
            for batch in fetch_all(&tables, partition, 0, 1 << 20).expect("reads") {
                let header = BatchHeader::parse(&batch).expect("a header");
                let records = decode_records(&batch, 1 << 20).expect("decodes");
                let times = records.iter().map(|r| header.base_timestamp + r.expect("good").timestamp_delta);
                assert_eq!(times.max(), Some(header.max_timestamp), "{partition}");
            }
            let ages: Vec<_> = tables.pieces(partition).iter().map(|piece| piece.age_from_ms).collect();
            assert_eq!(ages, [LATER_MS], "{partition}: the newest batch's");
        }
    }
}
