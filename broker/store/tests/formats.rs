//! A reader in another language, written from `docs/formats.md` alone, reads the same from a log as the
//! broker.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};
use millstream_store::{
    disk::OsDisk,
    doctor,
    wal::{Draft, RecoveryBase, Wal, WalConfig},
};
use tempfile::TempDir;

/// A log of several files, some of which were recycled, as a kill leaves it.
fn write_log(dir: &Path) {
    let config = WalConfig {
        file_bytes: 128 << 10,
        first_file_bytes: 32 << 10,
        chunk_bytes: 128 << 10,
        salt: 0xabcd_0123,
        ..WalConfig::default()
    };
    let disk = Arc::new(OsDisk::new(dir).expect("a directory"));
    for start in [0, 60] {
        let (wal, _) =
            Wal::open_stepped(disk.clone(), config.clone(), &RecoveryBase::default()).expect("opens");
        wal.group(RaftGroupId(0)).save_vote(&[start as u8; 17], |_| {}).expect("voted");
        for index in start..start + 60 {
            for group in [RaftGroupId(1), RaftGroupId(7)] {
                let payload = Bytes::from(vec![index as u8; 100 + (index as usize * 977 + 13) % 5000]);
                let draft = Draft { id: LogId::new(2, index), kind: 1, payload };
                wal.group(group).append([draft], |_| {}).expect("appended");
            }
            wal.group(RaftGroupId(7)).save_committed(LogId::new(2, index));
            wal.step();
        }
        wal.group(RaftGroupId(1)).truncate_after(Some(LogId::new(2, start + 59))).expect("truncated");
        for group in [RaftGroupId(1), RaftGroupId(7)] {
            wal.group(group).purge(LogId::new(2, start + 40)).expect("purged");
        }
        wal.reclaim().expect("reclaimed");
        while wal.step_prepare() {}
        wal.step_seal();
    }
}

fn reader(dir: &Path) -> Option<Output> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/formats/wal_reader.py");
    match Command::new("python3").arg(script).arg(dir.join("wal")).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("not compared, python3 cannot be run: {error}");
            None
        }
    }
}

#[test]
fn a_reader_written_from_the_description_finds_the_same_frames() {
    let dir = TempDir::new().expect("a directory");
    write_log(dir.path());
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut groups: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    doctor::dump(dir.path(), &mut |frame| {
        *kinds.entry(frame.kind).or_default() += 1;
        if frame.kind == "entry" {
            let found = groups.entry(frame.group.0).or_insert((frame.id.index, frame.id.index));
            *found = (found.0.min(frame.id.index), found.1.max(frame.id.index));
        }
        true
    })
    .expect("dumped");
    assert!(kinds["entry"] > 40 && kinds["state"] > 2 && kinds["truncate"] >= 1, "{kinds:?}");
    let Some(output) = reader(dir.path()) else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object = |pairs: Vec<String>| format!("{{{}}}", pairs.join(", "));
    let frames = object(kinds.iter().map(|(kind, count)| format!("\"{kind}\": {count}")).collect());
    assert!(text.contains(&format!("\"frames\": {frames}")), "{frames}: {text}");
    let ranges = groups.iter().map(|(group, (first, last))| format!("\"{group}\": [{first}, {last}]"));
    let ranges = object(ranges.collect());
    assert!(text.contains(&format!("\"groups\": {ranges}")), "{ranges}: {text}");
    assert!(text.contains("\"torn\": false"), "{text}");
}

#[test]
fn it_tells_damage_as_the_broker_does() {
    let dir = TempDir::new().expect("a directory");
    write_log(dir.path());
    let mut logs: Vec<PathBuf> = fs::read_dir(dir.path().join("wal"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-")))
        .collect();
    logs.sort();
    let mut bytes = fs::read(&logs[0]).expect("readable");
    bytes[4096 + 60] ^= 1;
    fs::write(&logs[0], &bytes).expect("writable");
    assert!(
        !doctor::inspect(dir.path(), &doctor::Replicas::default()).expect("looked at").log.files[0]
            .problems
            .is_empty()
    );
    let Some(output) = reader(dir.path()) else { return };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("damaged"), "{text}");
}
