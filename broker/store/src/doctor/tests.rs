//! The doctor finds damage to a log, loses nothing that can be salvaged, and leaves a log that opens.

mod traces;

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;
use millstream_model::LogId;
use tempfile::TempDir;

use super::*;
use crate::{
    disk::sim::SimDisk,
    tables::Tables,
    wal::{Draft, RecoveryBase, Wal},
};

const ONE: RaftGroupId = RaftGroupId(1);
const TWO: RaftGroupId = RaftGroupId(2);
/// Treats all content as opaque.
const NONE: Replicas =
    Replicas { membership_kind: None, checkpoint_members: None, recreate_membership: None };

fn config() -> WalConfig {
    WalConfig {
        file_bytes: 64 << 10,
        first_file_bytes: 16 << 10,
        chunk_bytes: 64 << 10,
        ..WalConfig::default()
    }
}

fn disk_of(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn open_log(disk: &SimDisk) -> Result<Wal, OpenError> {
    Wal::open_stepped(disk_of(disk), config(), &RecoveryBase::default()).map(|(wal, _)| wal)
}

fn payload(group: RaftGroupId, index: u64) -> Bytes {
    let bytes = 200 + (index * 977 % 3000) as usize;
    Bytes::from(vec![(index as u8) ^ (group.0 as u8) << 6; bytes])
}

fn append(wal: &Wal, group: RaftGroupId, indexes: Range<u64>) {
    for index in indexes {
        let draft = Draft { id: LogId::new(3, index), kind: 1, payload: payload(group, index) };
        wal.group(group).append([draft], |_| {}).expect("appended");
        wal.step();
    }
}

/// First and last index of the group, each entry checked.
fn indexes(wal: &Wal, group: RaftGroupId) -> Option<(u64, u64)> {
    let state = wal.group(group).state();
    let first = state.purged.map_or(0, |id| id.index + 1);
    let last = state.last?.index;
    for entry in wal.group(group).read(first..last + 1, usize::MAX).expect("readable") {
        assert_eq!(entry.payload, payload(group, entry.id.index), "{group}: {}", entry.id);
        assert_eq!((entry.id.term, entry.kind), (3, 1));
    }
    Some((first, last))
}

/// A store whose log has two groups over several files, 60 entries each, a few of them purged.
fn store() -> SimDisk {
    let disk = SimDisk::new(11);
    drop(Tables::open(disk_of(&disk), Default::default()).expect("tables"));
    let wal = open_log(&disk).expect("opens");
    wal.group(ONE).save_vote(b"vote one", |_| {}).expect("voted");
    wal.group(TWO).save_vote(b"vote two", |_| {}).expect("voted");
    for round in 0..6 {
        append(&wal, ONE, round * 10..round * 10 + 10);
        append(&wal, TWO, round * 10..round * 10 + 10);
        if round == 1 {
            wal.group(ONE).purge(LogId::new(3, 4)).expect("purged");
        }
    }
    wal.group(ONE).save_committed(LogId::new(3, 55));
    wal.group(ONE).save_vote(b"last vote", |_| {}).expect("voted");
    while wal.step_prepare() {}
    wal.shutdown();
    disk
}

/// Name and offset of the frame of an entry.
fn place(disk: &SimDisk, group: RaftGroupId, index: u64) -> (PathBuf, u64) {
    let mut found = None;
    wal::inspect::dump(&disk_of(disk), &mut |frame| {
        if frame.kind == "entry" && frame.group == group && frame.id.index == index {
            found = Some((Path::new("wal").join(&frame.file), frame.offset as u64));
        }
        true
    })
    .expect("dumped");
    found.expect("the entry is there")
}

fn repair(disk: &SimDisk) -> (PathBuf, Vec<GroupReport>, bool) {
    match repair_log(&disk_of(disk), config(), &NONE).expect("repaired") {
        Repaired::Replaced { aside, groups, votes_uncertain, .. } => (aside, groups, votes_uncertain),
        other => panic!("{other:?}"),
    }
}

fn report(disk: &SimDisk) -> Report {
    inspect_disk(&disk_of(disk), &NONE).expect("looked at")
}

#[test]
fn a_sound_store_is_called_sound_and_left_alone() {
    let disk = store();
    let before = disk.files();
    let report = report(&disk);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.entries_lost(), 0);
    let entries: u64 =
        report.log.files.iter().flat_map(|file| file.groups.values()).map(|(a, b)| b - a + 1).sum();
    assert_eq!(entries, 120);
    assert_eq!(report.log.groups[0].last, Some(LogId::new(3, 59)));
    assert!(!report.log.votes_uncertain);
    assert_eq!(repair_log(&disk_of(&disk), config(), &NONE).expect("looked at"), Repaired::Nothing);
    assert_eq!(disk.files(), before);
}

#[test]
fn a_torn_tail_is_not_a_fault_and_is_shown() {
    let disk = store();
    let wal = open_log(&disk).expect("opens");
    append(&wal, ONE, 60..62);
    drop(wal);
    let (path, offset) = place(&disk, ONE, 61);
    disk.overwrite(&path, offset + 512, &[0; 20]).expect("there");
    let report = report(&disk);
    assert!(report.is_sound(), "{:?}", report.log);
    let torn: Vec<&Problem> = report.log.files.iter().flat_map(|file| &file.problems).collect();
    assert_eq!(torn.len(), 1);
    assert_eq!(
        (torn[0].kind.clone(), &torn[0].frames_bad[..]),
        (ProblemKind::Torn, &[(ONE, LogId::new(3, 61))][..])
    );
    assert_eq!(report.log.groups[0].last, Some(LogId::new(3, 60)));
}

#[test]
fn a_rotten_entry_is_named_and_only_its_group_loses_what_follows() {
    let disk = store();
    let (path, offset) = place(&disk, ONE, 33);
    disk.overwrite(&path, offset + 60, &[0xee; 40]).expect("there");
    let before = disk.files();
    let report = report(&disk);
    assert!(!report.is_sound());
    let damaged: Vec<(&FileReport, &Problem)> = report
        .log
        .files
        .iter()
        .flat_map(|file| file.problems.iter().map(move |problem| (file, problem)))
        .collect();
    assert_eq!(damaged.len(), 1);
    let (file, problem) = damaged[0];
    assert!(path.ends_with(&file.name) && problem.range.contains(&(offset as usize)), "{problem:?}");
    assert_eq!(
        (problem.kind.clone(), &problem.frames_bad[..]),
        (ProblemKind::Damaged, &[(ONE, LogId::new(3, 33))][..])
    );
    let groups = &report.log.groups;
    assert_eq!((groups[0].missing, groups[0].behind_missing), (Some((33, 33)), Some((34, 59))));
    assert_eq!((groups[1].missing, groups[1].behind_missing), (None, None));
    assert_eq!((report.entries_lost(), report.log.votes_uncertain), (27, true));
    assert!(open_log(&disk).is_err());

    let (aside, groups, _) = repair(&disk);
    assert_eq!(groups, report.log.groups);
    for (path, bytes) in before.iter().filter(|(path, _)| path.to_string_lossy().contains("wal/wal-")) {
        let kept = aside.join(path.file_name().expect("a name"));
        assert_eq!(&disk.read_file(&kept).expect("kept aside"), bytes, "{}", kept.display());
    }
    let wal = open_log(&disk.crash()).expect("opens");
    assert_eq!((indexes(&wal, ONE), indexes(&wal, TWO)), (Some((5, 32)), Some((0, 59))));
    assert_eq!(wal.group(ONE).state().vote.as_deref(), Some(&b"last vote"[..]));
    assert_eq!(wal.group(TWO).state().vote.as_deref(), Some(&b"vote two"[..]));
    assert_eq!(wal.group(ONE).state().committed, Some(LogId::new(3, 32)));
    append(&wal, ONE, 33..40);
}

#[test]
fn a_single_wrong_bit_anywhere_costs_nothing() {
    let disk = store();
    let (path, offset) = place(&disk, TWO, 20);
    let segment = offset / 4096 * 4096;
    for at in [
        0,
        7,
        9,
        20,
        30,
        34,
        segment,
        segment + 5,
        segment + 12,
        segment + 35,
        segment + 42,
        offset,
        offset + 5,
        offset + 8,
        offset + 33,
        offset + 100,
    ] {
        let rotten = disk.fork();
        rotten.flip(&path, at, 0x20).expect("there");
        assert!(open_log(&rotten).is_err(), "a wrong bit at {at}");
        let report = report(&rotten);
        assert_eq!(
            (report.is_sound(), report.entries_lost()),
            (false, 0),
            "at {at}: {:?}",
            report.log.groups
        );
        repair(&rotten);
        let wal = open_log(&rotten.crash()).unwrap_or_else(|e| panic!("at {at}: {e}"));
        assert_eq!((indexes(&wal, ONE), indexes(&wal, TWO)), (Some((5, 59)), Some((0, 59))), "at {at}");
        assert_eq!(wal.group(ONE).state().vote.as_deref(), Some(&b"last vote"[..]));
    }
}

#[test]
fn a_missing_file_costs_what_was_in_it_and_what_needs_it() {
    let disk = store();
    let files: Vec<FileReport> = report(&disk).log.files.into_iter().filter(|file| file.frames > 0).collect();
    assert!(files.len() > 4, "{} files", files.len());
    for file in &files {
        let disk = disk.fork();
        disk.remove(&Path::new("wal").join(&file.name)).expect("removed");
        let refused = open_log(&disk).map(|_| ()).err();
        let report = report(&disk);
        assert_eq!(report.log.refused, refused, "without {}", file.name);
        // All entries of the first one may be purged, and every file repeats the votes.
        let needed = file.groups.iter().any(|(group, (_, last))| *group == TWO || *last > 4);
        assert_eq!(refused.is_some(), needed || file.seq > files[0].seq, "without {}", file.name);
        if refused.is_none() {
            let wal = open_log(&disk).expect("opens");
            assert_eq!(wal.group(TWO).state().vote.as_deref(), Some(&b"vote two"[..]));
            continue;
        }
        repair(&disk);
        let wal = open_log(&disk.crash()).unwrap_or_else(|e| panic!("without {}: {e}", file.name));
        for (group, first) in [(ONE, 5), (TWO, 0)] {
            let gone = file.groups.get(&group).copied().filter(|(_, last)| *last >= first);
            let expected = match gone {
                Some((from, _)) if from <= first => None,
                Some((from, _)) => Some((first, from - 1)),
                None => Some((first, 59)),
            };
            assert_eq!(indexes(&wal, group), expected, "{group} without {}", file.name);
            // Any file can be missing: the others repeat it.
            assert!(wal.group(group).state().vote.is_some(), "{group} without {}", file.name);
        }
    }
}

#[test]
fn a_file_that_was_cut_short_loses_only_its_end() {
    let disk = store();
    let (path, offset) = place(&disk, ONE, 58);
    let whole = disk.read_file(&path).expect("there");
    disk.write_file(&path, &whole[..offset as usize]).expect("cut");
    let report = report(&disk);
    assert!(
        !report.is_sound()
            && report.log.files.iter().any(|f| f.problems.iter().any(|p| p.kind == ProblemKind::Short))
    );
    assert!(open_log(&disk).is_err(), "it was stopped in order, and said where it ended");
    repair(&disk);
    let wal = open_log(&disk.crash()).expect("opens");
    assert_eq!(indexes(&wal, ONE), Some((5, 57)));
}

#[test]
fn what_state_and_runs_have_is_not_lost() {
    let disk = store();
    let (path, offset) = place(&disk, ONE, 33);
    disk.overwrite(&path, offset + 60, &[0xee; 40]).expect("there");
    let look = |index| {
        let covered = HashMap::from([(ONE, LogId::new(3, index))]);
        wal::inspect::inspect(&disk_of(&disk), &Known { covered, ..Known::default() }).expect("looked at")
    };
    let before = look(32).report.groups[0].clone();
    assert_eq!(
        (before.lost(), before.purged),
        (27, Some(LogId::new(3, 4))),
        "all up to there are in the log too"
    );
    let behind = look(40);
    let group = &behind.report.groups[0];
    assert_eq!(
        (group.lost(), group.purged, group.last),
        (0, Some(LogId::new(3, 40)), Some(LogId::new(3, 59)))
    );
    let names = wal::rebuild::write(&disk_of(&disk), &behind, config()).expect("written");
    wal::rebuild::replace(&disk_of(&disk), Path::new("damaged/0001"), &names).expect("repaired");
    let wal = open_log(&disk.crash()).expect("opens");
    assert_eq!((indexes(&wal, ONE), indexes(&wal, TWO)), (Some((41, 59)), Some((0, 59))));
}

#[test]
fn a_repair_that_is_interrupted_anywhere_is_finished_by_the_next_one() {
    let disk = store();
    let (path, offset) = place(&disk, ONE, 33);
    disk.overwrite(&path, offset + 60, &[0xee; 40]).expect("there");
    let whole = disk.fork();
    let start = whole.changes();
    repair(&whole);
    let changes = whole.changes() - start;
    assert!(changes > 40, "{changes} operations");
    let mut unfinished = 0;
    for cut in 0..changes {
        let disk = disk.fork();
        disk.cut_power_after(cut);
        let _ = repair_log(&disk_of(&disk), config(), &NONE);
        let disk = disk.crash();
        // In between no broker takes it for a log.
        match open_log(&disk.fork()) {
            Err(OpenError::RepairUnfinished) => unfinished += 1,
            Err(OpenError::Damaged { .. }) => {}
            Err(other) => panic!("cut at {cut}: {other}"),
            Ok(wal) => assert_eq!(indexes(&wal, ONE), Some((5, 32)), "cut at {cut}"),
        }
        repair_log(&disk_of(&disk), config(), &NONE).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let disk = disk.crash();
        let wal = open_log(&disk).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert_eq!((indexes(&wal, ONE), indexes(&wal, TWO)), (Some((5, 32)), Some((0, 59))), "cut at {cut}");
        let aside = disk.files().into_keys().filter(|path| path.starts_with("damaged")).count();
        assert!(aside >= report(&whole).log.files.len().min(1), "cut at {cut}");
    }
    assert!(unfinished > 5, "{unfinished}");
}

#[test]
fn on_a_full_disk_a_repair_changes_nothing() {
    let disk = store();
    let (path, offset) = place(&disk, ONE, 33);
    disk.overwrite(&path, offset + 60, &[0xee; 40]).expect("there");
    let before = disk.files();
    let used: usize = before.values().map(Vec::len).sum();
    disk.set_capacity(Some(used as u64 + (40 << 10)));
    assert!(repair_log(&disk_of(&disk), config(), &NONE).is_err());
    let mut after = disk.files();
    after.retain(|path, _| !path.starts_with("repair.tmp"));
    assert_eq!(after, before);
    disk.set_capacity(None);
    repair(&disk);
    open_log(&disk).expect("opens");
}

#[test]
fn whatever_rots_the_repaired_log_opens_and_has_nothing_that_was_not_written() {
    let disk = store();
    let names: Vec<PathBuf> =
        disk.files().into_keys().filter(|path| path.to_string_lossy().contains("wal/wal-")).collect();
    let mut dice = 7u64;
    let mut roll = move |sides: usize| {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (dice >> 33) as usize % sides
    };
    let (mut whole, mut lost) = (0, 0);
    for round in 0..150 {
        let disk = disk.fork();
        for _ in 0..1 + roll(3) {
            let path = &names[roll(names.len())];
            let Ok(bytes) = disk.read_file(path) else { continue };
            match roll(6) {
                0 => drop(disk.remove(path)),
                1 => disk.write_file(path, &bytes[..roll(bytes.len())]).expect("cut"),
                2 => drop(disk.overwrite(path, (roll(bytes.len() / 4096) * 4096) as u64, &[0; 4096])),
                3 => {
                    drop(disk.overwrite(path, roll(bytes.len() / 512) as u64 * 512, &[roll(256) as u8; 512]))
                }
                _ => drop(disk.flip(path, roll(bytes.len()) as u64, 1 << roll(8))),
            }
        }
        let refused = open_log(&disk.fork()).is_err();
        let report = report(&disk);
        assert_eq!(report.log.refused.is_some(), refused, "round {round}");
        repair_log(&disk_of(&disk), config(), &NONE).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let wal = open_log(&disk.crash()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        for group in &report.log.groups {
            let found = indexes(&wal, group.group);
            if refused {
                assert_eq!(found.map(|(_, last)| last), group.last.map(|id| id.index), "round {round}");
            }
        }
        match report.entries_lost() {
            0 => whole += 1,
            _ => lost += 1,
        }
    }
    assert!(whole > 20 && lost > 20, "{whole} without a loss, {lost} with one");
}

#[test]
fn the_dump_shows_every_frame_in_order_and_stops_when_it_is_told_to() {
    let disk = store();
    let mut frames = Vec::new();
    wal::inspect::dump(&disk_of(&disk), &mut |frame| {
        frames.push(frame);
        true
    })
    .expect("dumped");
    let entries = frames.iter().filter(|frame| frame.kind == "entry").count();
    assert_eq!(entries, 120);
    assert!(frames.iter().all(|frame| frame.state == FrameState::Good));
    assert!(frames.is_sorted_by_key(|frame| (frame.file.clone(), frame.offset)));
    let kinds: std::collections::BTreeSet<&str> = frames.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["entry", "purge", "seal", "state", "vote"]);
    let mut seen = 0;
    wal::inspect::dump(&disk_of(&disk), &mut |_| {
        seen += 1;
        seen < 5
    })
    .expect("dumped");
    assert_eq!(seen, 5);
    let (path, offset) = place(&disk, ONE, 40);
    disk.flip(&path, offset + 41, 2).expect("there");
    let mut states = Vec::new();
    wal::inspect::dump(&disk_of(&disk), &mut |frame| {
        if frame.group == ONE && frame.id.index == 40 {
            states.push((frame.state, frame.payload == payload(ONE, 40)));
        }
        true
    })
    .expect("dumped");
    assert_eq!(states, [(FrameState::WrongBit(41, 1), true)]);
}

#[test]
fn a_checkpoint_that_the_log_goes_on_from_and_that_is_missing_is_named() {
    let dir = TempDir::new().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir.path()).expect("a disk"));
    let tables = Tables::open(disk.clone(), Default::default()).expect("tables").0;
    let (wal, _) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("opens");
    append(&wal, ONE, 0..5);
    tables.save_state(ONE, LogId::new(3, 4), b"state").expect("written");
    wal.group(ONE).purge(LogId::new(3, 4)).expect("purged");
    wal.shutdown();
    assert!(inspect(dir.path(), &NONE).expect("looked at").is_sound());
    fs::remove_file(dir.path().join(Tables::checkpoint_path(ONE))).expect("it was there");
    let report = inspect(dir.path(), &NONE).expect("looked at");
    let findings: Vec<String> = report.tables.findings.iter().map(ToString::to_string).collect();
    assert!(!report.is_sound() && findings[0].contains("checkpoint-00000001 is missing"), "{findings:?}");
}

#[test]
fn a_directory_in_use_or_of_something_else_is_refused() {
    let dir = TempDir::new().expect("a directory");
    assert!(matches!(inspect(dir.path(), &NONE), Err(DoctorError::NotAStore(_))));
    assert!(matches!(inspect(&dir.path().join("none"), &NONE), Err(DoctorError::NotAStore(_))));
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0, "and nothing is made in it");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir.path()).expect("a disk"));
    drop(Tables::open(disk.clone(), Default::default()).expect("tables"));
    let (wal, _) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("opens");
    append(&wal, ONE, 0..5);
    wal.shutdown();
    let held = File::create(dir.path().join(LOCK_NAME)).expect("the lock file");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("locked");
    assert!(matches!(inspect(dir.path(), &NONE), Err(DoctorError::InUse(_))));
    assert!(matches!(super::repair(dir.path(), &NONE), Err(DoctorError::InUse(_))));
    assert!(matches!(dump(dir.path(), &mut |_| true), Err(DoctorError::InUse(_))));
    drop(held);
    let report = inspect(dir.path(), &NONE).expect("looked at");
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(super::repair(dir.path(), &NONE).expect("looked at"), Repaired::Nothing);
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error_and_not_a_loss() {
    let disk = store();
    let (path, offset) = place(&disk, ONE, 33);
    disk.spoil(&path, offset..offset + 1).expect("there");
    let before = disk.files();
    assert!(matches!(inspect_disk(&disk_of(&disk), &NONE), Err(DoctorError::Log(OpenError::Io { .. }))));
    assert!(repair_log(&disk_of(&disk), config(), &NONE).is_err());
    assert_eq!(disk.files(), before);
}
