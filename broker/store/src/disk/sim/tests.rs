//! The simulated disk stays within its fault budget, and uses all of it.

use std::io::IoSlice;

use super::*;
use crate::disk::{AlignedBuf, BLOCK_BYTES};

fn block(byte: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
    buf.fill(byte);
    buf
}

fn put(file: &dyn DiskFile, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_at(&[IoSlice::new(bytes)], at)
}

const FILE: &str = "a";

#[test]
fn what_was_synced_survives_every_power_cut_and_what_was_not_survives_some() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = disk.open(Path::new(FILE), OpenMode::Create).expect("opens");
        put(&*file, &[1; 8192], 0).expect("writes");
        file.sync().expect("syncs");
        disk.sync_dir(Path::new("")).expect("syncs");
        put(&*file, &[2; 8192], 4096).expect("writes");
        let after = disk.crash();
        let bytes = after.read_file(FILE).expect("its name is durable");
        assert_eq!(bytes[..4096], [1; 4096], "seed {seed}");
        assert!(bytes.len() >= 8192 && bytes[4096..].iter().all(|b| [0, 1, 2].contains(b)), "seed {seed}");
        match bytes[4096..].iter().filter(|b| **b == 2).count() {
            0 => lost += 1,
            8192 => kept += 1,
            _ => torn += 1,
        }
        assert!(file.sync().is_err(), "a handle from before the power cut does nothing");
    }
    assert!(kept > 10 && lost > 10 && torn > 10, "{kept} kept, {lost} lost, {torn} torn");
}

#[test]
fn a_write_to_a_direct_file_is_durable_when_it_returns_and_torn_by_sectors_when_it_does_not() {
    let mut partly = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = disk.open(Path::new(FILE), OpenMode::Direct).expect("opens");
        disk.sync_dir(Path::new("")).expect("syncs");
        put(&*file, &block(1), 0).expect("writes");
        disk.cut_power_after(0);
        assert!(put(&*file, &block(2), 0).is_err());
        assert!(disk.is_off() && put(&*file, &block(3), 0).is_err());
        let bytes = disk.crash().read_file(FILE).expect("its name is durable");
        assert_eq!(bytes.len(), BLOCK_BYTES);
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]) && [1, 2].contains(&sector[0]), "seed {seed}");
        }
        partly += u32::from(bytes.contains(&1) && bytes.contains(&2));
    }
    assert!(partly > 20, "{partly} of 200 torn");
}

#[test]
fn a_durable_write_survives_among_others_that_do_not_and_takes_none_of_them_along() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let fresh = disk.open(Path::new(FILE), OpenMode::DirectCreate).expect("opens");
        disk.sync_dir(Path::new("")).expect("syncs");
        for at in 0..4 {
            put(&*fresh, &block(1), at * 4096).expect("writes");
        }
        let file = disk.open(Path::new(FILE), OpenMode::Direct).expect("opens");
        put(&*file, &block(2), 4096).expect("writes");
        put(&*fresh, &block(3), 8192).expect("writes");
        let bytes = disk.crash().read_file(FILE).expect("there");
        assert_eq!(bytes[4096..8192], [2; 4096], "seed {seed}");
        lost += u32::from(bytes[..4096] != [1; 4096]);
    }
    assert!(lost > 20, "{lost} of 100");
}

#[test]
fn what_is_allocated_is_durable() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let file = disk.open(Path::new(FILE), OpenMode::DirectCreate).expect("opens");
        disk.sync_dir(Path::new("")).expect("syncs");
        file.allocate(5 * 4096).expect("allocated");
        assert_eq!(disk.crash().read_file(FILE).expect("there"), vec![0; 5 * 4096], "seed {seed}");
    }
}

#[test]
fn names_are_durable_after_their_directory_is_synced_and_renames_are_whole() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("d")).expect("made");
        disk.write_file("d/old", b"old").expect("put");
        disk.write_file("d/new.tmp", b"new").expect("put");
        disk.open(Path::new("d/fresh"), OpenMode::Create).expect("opens");
        disk.rename(Path::new("d/new.tmp"), Path::new("d/old")).expect("renamed");
        let after = disk.crash();
        let bytes = after.read_file("d/old").expect("the name is never gone");
        let tmp = after.read_file("d/new.tmp").is_ok();
        assert_eq!(bytes == b"old", tmp, "seed {seed}: the rename is half done");
        seen.insert((tmp, after.read_file("d/fresh").is_ok()));

        let disk = after;
        disk.rename(Path::new("d/old"), Path::new("d/last")).expect("renamed");
        disk.sync_dir(Path::new("d")).expect("synced");
        assert!(disk.crash().read_file("d/last").is_ok());
    }
    assert_eq!(seen.len(), 4, "each of the two steps is kept or lost on its own");
}

#[test]
fn a_sync_of_one_directory_takes_the_steps_along_that_it_rests_on() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("from")).expect("made");
        disk.create_dir(Path::new("to")).expect("made");
        disk.open(Path::new("from/x"), OpenMode::Create).expect("opens");
        disk.rename(Path::new("from/x"), Path::new("to/y")).expect("renamed");
        disk.sync_dir(Path::new("to")).expect("synced");
        let names: Vec<PathBuf> = disk.crash().files().into_keys().collect();
        assert_eq!(names, [PathBuf::from("to/y")], "seed {seed}");
    }
}

#[test]
fn after_a_failed_sync_a_second_one_succeeds_and_the_bytes_are_gone() {
    let mut gone = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.write_file(FILE, &[1; 4096]).expect("put");
        let file = disk.open(Path::new(FILE), OpenMode::Direct).expect("opens");
        drop(file);
        disk.set_refuses_direct(true);
        let file = disk.open(Path::new(FILE), OpenMode::Direct).expect("opens");
        assert!(!file.is_direct() && !file.is_durable());
        put(&*file, &[2; 4096], 0).expect("writes");
        disk.fail(Op::Sync, FILE, 1, io::ErrorKind::Other);
        file.sync().expect_err("the fault");
        file.sync().expect("the cache has nothing more to write");
        assert_eq!(disk.read_file(FILE).expect("there"), [2; 4096]);
        if seed % 2 == 0 {
            disk.open(Path::new(FILE), OpenMode::DirectRead).expect("opens");
            let medium = disk.read_file(FILE).expect("there");
            assert_eq!(
                disk.crash().read_file(FILE).expect("there"),
                medium,
                "reads from the medium are correct"
            );
            continue;
        }
        gone += u32::from(disk.crash().read_file(FILE).expect("there") != [2; 4096]);
    }
    assert!(gone > 5, "{gone} of 25");
}

#[test]
fn the_end_of_the_process_loses_nothing_and_makes_nothing_durable() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.write_file(FILE, &[1; 4096]).expect("put");
        let file = disk.open(Path::new(FILE), OpenMode::Create).expect("opens");
        put(&*file, &[2; 4096], 0).expect("writes");
        let next = disk.kill();
        assert_eq!(next.read_file(FILE).expect("there"), [2; 4096]);
        lost += u32::from(next.crash().read_file(FILE).expect("there") != [2; 4096]);
    }
    assert!(lost > 10, "{lost} of 50");
}

#[test]
fn a_full_disk_takes_only_what_it_has_room_for() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(3 * 4096));
    let file = disk.open(Path::new(FILE), OpenMode::Direct).expect("opens");
    put(&*file, &block(1), 0).expect("fits");
    let three = [block(2), block(2), block(2)];
    let slices: Vec<IoSlice<'_>> = three.iter().map(|b| IoSlice::new(b)).collect();
    let refused = file.write_at(&slices, 4096).expect_err("full");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!((file.len().expect("known"), disk.free_bytes().expect("known")), (3 * 4096, 0));
    put(&*file, &block(3), 0).expect("bytes that are there can be written");
    disk.remove(Path::new(FILE)).expect("removed");
    assert_eq!(disk.free_bytes().expect("known"), 3 * 4096);
}

#[test]
fn reads_are_short_or_fail_where_that_was_asked_for() {
    let disk = SimDisk::new(1);
    disk.write_file(FILE, &[1; 64 << 10]).expect("put");
    disk.set_short_reads(true);
    let file = disk.open(Path::new(FILE), OpenMode::Read).expect("opens");
    let mut buf = vec![0; 64 << 10];
    let short = (0..20).filter(|_| file.read_at(&mut buf, 0).expect("reads") < buf.len()).count();
    assert!(short > 2, "{short} of 20");
    buf.fill(0);
    file.read_exact_at(&mut buf, 0).expect("the rest is read too");
    assert!(buf.iter().all(|b| *b == 1));
    disk.spoil(FILE, 5000..5001).expect("there");
    assert!(file.read_exact_at(&mut buf, 0).is_err());
    file.read_exact_at(&mut buf[..4096], 0).expect("the bad sector is elsewhere");
    disk.flip(FILE, 10, 4).expect("there");
    file.read_exact_at(&mut buf[..4096], 0).expect("rot is silent");
    assert_eq!(buf[10], 5);
}

#[test]
fn direct_files_refuse_what_is_not_aligned() {
    let disk = SimDisk::new(1);
    let file = disk.open(Path::new(FILE), OpenMode::DirectCreate).expect("opens");
    assert!(file.is_direct() && !file.is_durable());
    let buf = block(1);
    assert!(put(&*file, &buf[..512], 0).is_err() && put(&*file, &buf, 512).is_err());
    put(&*file, &buf, 0).expect("aligned");
    file.sync().expect("synced");
    assert!(disk.open(Path::new("no/b"), OpenMode::Create).is_err(), "the directory is not there");
    let read_only = disk.open(Path::new(FILE), OpenMode::DirectRead).expect("opens");
    assert!(put(&*read_only, &buf, 0).is_err());
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        let file = disk.open(Path::new(FILE), OpenMode::Create).expect("opens");
        for i in 0..20 {
            put(&*file, &[i; 3000], u64::from(i) * 1500).expect("writes");
        }
        disk.sync_dir(Path::new("")).expect("synced");
        let after = disk.crash();
        (after.fingerprint(), after.files())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn the_nth_operation_of_a_kind_fails_and_the_hook_sees_all() {
    let disk = SimDisk::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    disk.set_hook(move |op, path| log.lock().push((op, path.to_path_buf())));
    disk.fail(Op::Open, "wal-", 2, io::ErrorKind::PermissionDenied);
    disk.open(Path::new("other"), OpenMode::Create).expect("another name");
    disk.open(Path::new("wal-1"), OpenMode::Create).expect("the first");
    assert!(disk.open(Path::new("wal-2"), OpenMode::Create).is_err());
    disk.open(Path::new("wal-3"), OpenMode::Create).expect("once only");
    assert_eq!(seen.lock().len(), 4);
    assert_eq!((disk.count(Op::Open), disk.changes()), (4, 4));
}
