//! The log: with any files, it opens or reports an error; and a log that opened once can be written, and
//! reopens with the same votes and entries.
#![no_main]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::{image, seeds};
use millstream_model::{LogId, RaftGroupId};
use millstream_store::{
    disk::{Disk, sim::SimDisk},
    doctor,
    wal::{Draft, GroupState, LogEntry, RecoveryBase, Wal},
};

type Content = BTreeMap<RaftGroupId, (GroupState, Vec<LogEntry>)>;

fn content(wal: &Wal) -> Content {
    let of = |group: RaftGroupId| {
        let log = wal.group(group);
        let state = log.state();
        let first = state.purged.map_or(0, |id| id.index + 1);
        let entries = log.read(first..state.last.map_or(0, |id| id.index + 1), usize::MAX).expect("readable");
        (group, (state, entries))
    };
    wal.groups().into_iter().map(of).collect()
}

/// Appends to every group with an entry; a group without one may expect any index.
fn append(wal: &Wal) {
    for group in wal.groups() {
        let log = wal.group(group);
        let Some(last) = log.state().last.filter(|last| last.index < u64::MAX - 1) else { continue };
        let draft =
            Draft { id: LogId::new(last.term, last.index + 1), kind: 1, payload: Bytes::from_static(b"new") };
        log.append([draft], |written| written.expect("the disk takes it")).expect("it follows");
    }
    wal.step();
    wal.step_seal();
}

fuzz_target!(|data: &[u8]| {
    let disk = SimDisk::new(1);
    for file in image::log_files(data) {
        let path = Path::new("wal").join(format!("wal-{:016x}.log", file.number));
        disk.create_dir(Path::new("wal")).expect("made");
        disk.write_file(path, &file.bytes).expect("written");
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = seeds::wal_config(image::crc(data));
    let _ = doctor::inspect_disk(&shared, &doctor::Replicas::default());
    let Ok((wal, _)) = Wal::open_stepped(shared.clone(), config.clone(), &RecoveryBase::default()) else {
        return;
    };
    append(&wal);
    let before = content(&wal);
    drop(wal);
    let (wal, _) = Wal::open_stepped(shared, config.clone(), &RecoveryBase::default())
        .expect("what opened once opens again");
    let mut after = content(&wal);
    // Marks are written with entries only, so the last ones may be lost.
    after.iter_mut().for_each(|(group, (state, _))| {
        state.committed = before.get(group).and_then(|(state, _)| state.committed);
    });
    assert!(before == after, "what was there is not there any more");
});
