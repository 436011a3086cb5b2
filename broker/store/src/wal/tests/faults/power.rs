//! Power cuts and kills.

use std::sync::Mutex;

use super::*;

/// One lifetime of a broker, with the count of what was acknowledged: a start, writes over many files,
/// purges, recycled files, a second start. Ends early when the disk stops working.
fn a_life(disk: &SimDisk) -> (usize, usize) {
    let (first, second) = (Arc::<AtomicUsize>::default(), Arc::default());
    let run = |rounds: std::ops::Range<u64>| {
        let Ok((wal, _)) = try_open(disk, &[]) else { return };
        for round in rounds {
            append(&wal, GROUP, round * 4..round * 4 + 4, 4000, &first);
            append(&wal, OTHER, round * 2..round * 2 + 2, 100, &second);
            wal.step();
            if round % 3 == 2 {
                // An error means that the log has failed.
                let _ = wal.group(GROUP).purge(LogId::new(1, round * 4 + 2));
                let _ = wal.group(OTHER).purge(LogId::new(1, round * 2 - 3));
                let _ = wal.reclaim();
            }
            wal.step_prepare();
        }
        wal.step_seal();
    };
    run(0..12);
    run(12..15);
    (first.load(Relaxed), second.load(Relaxed))
}

fn check_life(disk: &SimDisk, acknowledged: (usize, usize), when: &str) {
    let wal = try_open(disk, &[]).unwrap_or_else(|e| panic!("{when}: {e}")).0;
    for (group, count, bytes) in [(GROUP, acknowledged.0, 4000), (OTHER, acknowledged.1, 100)] {
        let state = wal.group(group).state();
        let end = state.last.or(state.purged).map_or(0, |id| id.index + 1);
        assert!(end >= count as u64, "{when}: {count} entries of {group} were acknowledged, {end} came back");
        let first = state.purged.map_or(0, |id| id.index + 1);
        if end > first {
            expect(&wal, group, first..end, bytes);
        }
    }
}

#[test]
fn the_power_can_go_at_every_operation_of_a_life_and_again_at_every_one_of_the_next_start() {
    let whole = SimDisk::new(0);
    a_life(&whole);
    let (changes, reused) = (whole.changes(), whole.count(Op::Rename));
    assert!(changes > 100 && reused > 12, "{changes} operations, {reused} renames");
    let mut starts = 0;
    for cut in 0..changes {
        for seed in 0..3 {
            let disk = SimDisk::new(cut * 31 + seed);
            disk.cut_power_after(cut);
            let acknowledged = a_life(&disk);
            let left = disk.crash();
            check_life(&left, acknowledged, &format!("cut at {cut}, seed {seed}"));
            for second in 0..if seed == 0 { 14 } else { 0 } {
                let disk = SimDisk::new(cut * 31 + seed);
                disk.cut_power_after(cut);
                a_life(&disk);
                let disk = disk.crash();
                disk.cut_power_after(second);
                // It may fail or succeed: then everything was covered.
                if let Ok((wal, _)) = try_open(&disk, &[]) {
                    wal.step();
                }
                if !disk.is_off() {
                    break;
                }
                starts += 1;
                check_life(&disk.crash(), acknowledged, &format!("cut at {cut} and {second}, seed {seed}"));
            }
        }
    }
    assert!(starts > 500, "{starts} second power cuts");
}

#[test]
fn what_a_killed_process_left_in_the_page_cache_counts_only_once_it_is_synced() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.set_refuses_direct(true);
        let wal = open(&disk);
        write(&wal, GROUP, 0..2, 1000);
        append(&wal, GROUP, 2..3, 1000, &Arc::default());
        // The write reaches the cache, and the process ends before the sync.
        let inside = disk.clone();
        let killed = Arc::new(Mutex::new(None));
        let slot = killed.clone();
        disk.set_hook(move |op, _| {
            let mut slot = slot.lock().expect("no panic");
            if op == Op::Sync && slot.is_none() {
                *slot = Some(inside.kill());
            }
        });
        wal.step();
        let disk = killed.lock().expect("no panic").take().expect("the process ended in a sync");
        let wal = open(&disk);
        expect(&wal, GROUP, 0..3, 1000);
        write(&wal, GROUP, 3..4, 1000);
        drop(wal);
        expect(&open(&disk.crash()), GROUP, 0..4, 1000);
    }
}
