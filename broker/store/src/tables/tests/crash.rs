//! A power cut at every moment of a history: what was flushed is present, and nothing else claims to be.

use super::*;

/// A history of inserts, flushes, checkpoints and merges that stops at the first error. Records what was
/// reported durable: flushed entries, and the newest checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reported {
    flushed: Option<u64>,
    checkpoint: Option<u64>,
}

const ENTRIES: u64 = 24;
const PARTITIONS: u64 = 3;

fn entry(index: u64) -> (PartitionId, StoredBatch) {
    (PartitionId(index % PARTITIONS), batch((index / PARTITIONS) as i64 * 3, 3, 60, index as i64))
}

fn policy(id: PartitionId) -> PartitionPolicy {
    PartitionPolicy { log_start: if id.0 == 1 { 6 } else { 0 }, ..keep(id) }
}

fn history(disk: &SimDisk, reported: &mut Reported) -> Option<()> {
    let (tables, _) = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).ok()?;
    for index in 0..ENTRIES {
        let (partition, batch) = entry(index);
        put(&tables, index, partition, batch);
        if index % 4 == 3 {
            let flushed = tables.flush().ok()?;
            reported.flushed = flushed.groups.first().map(|(_, id)| id.index);
        }
        if index % 9 == 8 {
            tables.save_state(GROUP, LogId::new(1, index), &index.to_le_bytes()).ok()?;
            reported.checkpoint = Some(index);
            reported.flushed = reported.flushed.max(Some(index));
        }
        if index % 6 == 5 {
            tables.merge_once(&policy).ok()?;
        }
    }
    Some(())
}

/// Opens what is left, checks it against what was reported durable, and continues the history.
fn check(disk: &SimDisk, reported: &Reported, context: &str) {
    let opened = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny());
    let (tables, manifest) = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
    tables.validate();
    let flushed = manifest.flushed.get(&GROUP).map(|id| id.index);
    assert!(flushed >= reported.flushed, "{context}: flushed up to {flushed:?}, reported {reported:?}");
    let loaded = tables.load_state(GROUP).unwrap_or_else(|e| panic!("{context}: {e}"));
    let checkpoint = loaded.map(|(id, state)| {
        assert_eq!(state[..], id.index.to_le_bytes(), "{context}");
        id.index
    });
    assert!(checkpoint >= reported.checkpoint, "{context}: checkpoint {checkpoint:?}, reported {reported:?}");
    assert!(checkpoint <= flushed, "{context}: the checkpoint counts on batches that no run has");
    // The log brings the rest, from the checkpoint on.
    tables.set_log_start(PartitionId(1), 6);
    for index in checkpoint.map_or(0, |index| index + 1)..ENTRIES {
        let (partition, batch) = entry(index);
        put(&tables, index, partition, batch);
    }
    for _ in 0..2 {
        for partition in (0..PARTITIONS).map(PartitionId) {
            let from = policy(partition).log_start;
            let read = fetch_all(&tables, partition, from, 300).unwrap_or_else(|e| panic!("{context}: {e}"));
            let expected: Vec<Bytes> = (0..ENTRIES)
                .map(entry)
                .filter(|(id, batch)| *id == partition && batch.next_offset > from)
                .map(|(_, batch)| batch.bytes)
                .collect();
            assert!(
                read == expected,
                "{context}: {partition} has {} of {} batches",
                read.len(),
                expected.len()
            );
        }
        tables.flush().unwrap_or_else(|e| panic!("{context}: {e}"));
        merge_all(&tables, &policy);
    }
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_told_to_be_durable() {
    for seed in 0..6 {
        let mut moments = 0;
        loop {
            let disk = SimDisk::new(seed * 1000 + moments);
            disk.cut_power_after(moments);
            let mut reported = Reported::default();
            let ended = history(&disk, &mut reported);
            check(&disk.crash(), &reported, &format!("seed {seed}, power cut after {moments} operations"));
            if ended.is_some() {
                break;
            }
            moments += 1;
        }
        assert!(moments > 100, "only {moments} moments");
    }
}

#[test]
fn the_end_of_the_process_at_any_moment_followed_by_a_power_cut_loses_nothing_either() {
    let mut moments = 0;
    loop {
        let disk = SimDisk::new(moments);
        disk.cut_power_after(moments);
        let mut reported = Reported::default();
        let ended = history(&disk, &mut reported);
        // The next process dies during its recovery, too.
        let disk = disk.crash();
        disk.cut_power_after(moments % 7);
        drop(Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()));
        check(&disk.crash(), &reported, &format!("power cut after {moments} operations, then again"));
        if ended.is_some() {
            break;
        }
        moments += 1;
    }
}

#[test]
fn a_full_disk_is_an_error_and_room_makes_it_go_on() {
    let disk = SimDisk::new(3);
    let tables = open(&disk);
    for index in 0..ENTRIES {
        let (partition, batch) = entry(index);
        put(&tables, index, partition, batch);
    }
    disk.set_capacity(Some(5000));
    for _ in 0..3 {
        tables.flush().expect_err("no room");
        assert_eq!(run_files(&disk).len(), 0, "half a run is not left behind");
    }
    assert!(tables.save_state(GROUP, LogId::new(1, ENTRIES - 1), b"state").is_err());
    disk.set_capacity(None);
    tables.flush().expect("room again");
    check(&disk.crash(), &Reported { flushed: Some(ENTRIES - 1), checkpoint: None }, "after a full disk");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let print = || {
        let disk = SimDisk::new(9);
        history(&disk, &mut Reported::default()).expect("no fault");
        (disk.fingerprint(), disk.files())
    };
    assert!(print() == print());
}
