//! Groups that have lost their beginning or end: what is known from elsewhere is recreated, and what cannot
//! be known is reported.

use super::*;

/// Entries of kind 1 are all that the groups know of their members.
fn alone(
    found: &BTreeMap<RaftGroupId, Beginning>,
    identity: Option<&[u8]>,
    uncertain: bool,
) -> Option<RecreatedMembership> {
    assert!(found.values().flat_map(|group| &group.memberships).count() > 0 || identity.is_some());
    let term = found.values().map(|group| group.term_max).max()?;
    let vote = Bytes::from(format!("term {term}, {}", if uncertain { "or later" } else { "certainly" }));
    Some(RecreatedMembership { id: LogId::new(3, 0), kind: 1, members: payload(TWO, 0), vote })
}

const ALONE: Replicas = Replicas {
    membership_kind: Some(1),
    checkpoint_members: Some(|head| Some(Bytes::copy_from_slice(head))),
    recreate_membership: Some(alone),
};

#[test]
fn a_first_entry_that_is_known_is_written_again_and_costs_nothing() {
    let disk = store();
    let (path, offset) = place(&disk, TWO, 0);
    disk.overwrite(&path, offset + 20, &[0xee; 60]).expect("there");
    assert_eq!(report(&disk).log.groups[1].missing, Some((0, 0)));
    assert_eq!(report(&disk).entries_lost(), 60, "it is unknown");
    let report = inspect_disk(&disk_of(&disk), &ALONE).expect("inspected");
    assert_eq!((report.is_sound(), report.entries_lost()), (false, 0));
    assert_eq!(report.log.recreated_groups, [RaftGroupId(0), TWO], "of the metadata group nothing is left");
    repair_log(&disk_of(&disk), config(), &ALONE).expect("repaired");
    let disk = disk.crash();
    let wal = open_log(&disk).expect("opens");
    assert_eq!((indexes(&wal, ONE), indexes(&wal, TWO)), (Some((5, 59)), Some((0, 59))));
    for group in [RaftGroupId(0), ONE, TWO] {
        assert_eq!(wal.group(group).state().vote.as_deref(), Some(&b"term 3, or later"[..]), "{group}");
    }
    drop(wal);
    let report = inspect_disk(&disk_of(&disk), &ALONE).expect("inspected");
    assert!(report.is_sound() && report.log.without_members.is_empty(), "{:?}", report.log);
}

#[test]
fn a_log_that_opens_and_has_lost_its_first_entry_is_not_sound() {
    let disk = SimDisk::new(12);
    drop(Tables::open(disk_of(&disk), Default::default()).expect("tables"));
    let wal = open_log(&disk).expect("opens");
    wal.group(ONE).save_vote(b"a vote", |_| {}).expect("voted");
    append(&wal, TWO, 0..3);
    wal.shutdown();
    assert!(report(&disk).is_sound(), "to those who do not know what it means");
    let judge = Replicas { recreate_membership: None, ..ALONE };
    let report = inspect_disk(&disk_of(&disk), &judge).expect("inspected");
    assert_eq!((report.is_sound(), &report.log.without_members[..]), (false, &[ONE][..]));
    assert_eq!(repair_log(&disk_of(&disk), config(), &judge).expect("inspected"), Repaired::Nothing);
    repair_log(&disk_of(&disk), config(), &ALONE).expect("repaired");
    let report = inspect_disk(&disk_of(&disk), &ALONE).expect("inspected");
    assert!(report.is_sound(), "{:?}", report.log);
    assert_eq!(
        report.log.groups.iter().map(|group| group.group).collect::<Vec<_>>(),
        [ONE, TWO],
        "no other is made up"
    );
}

#[test]
fn runs_are_never_said_to_have_more_of_a_log_than_it_has() {
    let dir = TempDir::new().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir.path()).expect("a disk"));
    let tables = Tables::open(disk.clone(), Default::default()).expect("tables").0;
    let (wal, _) = Wal::open(disk.clone(), WalConfig::default(), &RecoveryBase::default()).expect("opens");
    for group in [ONE, TWO] {
        append(&wal, group, 0..20);
        tables.applied(group, LogId::new(3, 19));
    }
    tables.flush().expect("flushed");
    wal.shutdown();
    drop(tables);
    let mut found = None;
    super::super::dump(dir.path(), &mut |frame| {
        if (frame.kind, frame.group, frame.id.index) == ("entry", ONE, 7) {
            found = Some((frame.file, frame.offset));
        }
        true
    })
    .expect("dumped");
    let (file, offset) = found.expect("the entry is there");
    let path = dir.path().join("wal").join(file);
    let mut bytes = fs::read(&path).expect("there");
    bytes[offset + 20..offset + 60].fill(0xee);
    fs::write(&path, bytes).expect("written");
    let Repaired::Replaced { aside, .. } = super::super::repair(dir.path(), &NONE).expect("repaired") else {
        panic!("it was damaged")
    };
    let flushed = Tables::open(disk, Default::default()).expect("tables").1.flushed;
    assert_eq!(flushed[&ONE], LogId::new(3, 6), "what comes next is not taken for what was there");
    assert_eq!(flushed[&TWO], LogId::new(3, 19));
    assert!(dir.path().join(aside).join("manifest").exists(), "the old one is kept");
    assert!(!dir.path().join(wal::rebuild::NEW_DIR).exists(), "nothing is left behind");
}

#[test]
fn that_the_last_entries_of_a_group_may_be_gone_is_said() {
    let whole = store();
    let uncertain = |disk: &SimDisk| -> Vec<(RaftGroupId, u64)> {
        let groups = report(disk).log.groups;
        let uncertain = groups.into_iter().filter(|group| group.end_uncertain);
        uncertain.map(|group| (group.group, group.last.map_or(0, |id| id.index))).collect()
    };
    assert_eq!(uncertain(&whole), []);
    for (group, index) in [(ONE, 59), (TWO, 59)] {
        let (path, offset) = place(&whole, group, index);
        let disk = whole.fork();
        disk.overwrite(&path, offset + 60, &[0xee; 40]).expect("there");
        assert_eq!(uncertain(&disk), [(group, index - 1)], "what it says of itself fits");
        let disk = whole.fork();
        disk.overwrite(&path, offset + 20, &[0xee; 80]).expect("there");
        assert!(uncertain(&disk).contains(&(group, index - 1)), "it may be anybody's");
    }
    let (path, offset) = place(&whole, ONE, 33);
    let disk = whole.fork();
    disk.overwrite(&path, offset + 20, &[0xee; 80]).expect("there");
    assert_eq!(uncertain(&disk), [], "later entries rule it out");
}

#[test]
fn a_log_of_which_only_files_that_were_made_ahead_are_left_is_not_sound() {
    let disk = store();
    let files: Vec<FileReport> = report(&disk).log.files;
    assert!(files.last().is_some_and(|file| file.frames == 0), "the last one is made ahead");
    for file in files.iter().filter(|file| file.frames > 0) {
        disk.remove(&Path::new("wal").join(&file.name)).expect("removed");
    }
    let report = report(&disk);
    assert!(matches!(report.log.refused, Some(OpenError::Missing { .. })), "{:?}", report.log.refused);
    assert_eq!(open_log(&disk).map(|_| ()).err(), report.log.refused, "as a start says");
    assert!(!report.is_sound());
}

#[test]
fn that_a_group_may_have_been_there_of_which_nothing_is_left_is_said() {
    let whole = store();
    assert!(!report(&whole).log.others_uncertain);
    let files = report(&whole).log.files;
    let emptied = |from: usize| {
        let disk = whole.fork();
        for file in files[from..].iter().filter(|file| file.frames > 0) {
            let path = Path::new("wal").join(&file.name);
            disk.overwrite(&path, 4096, &vec![0; (file.bytes - 4096) as usize]).expect("there");
        }
        report(&disk).log
    };
    let all = emptied(0);
    assert!(all.others_uncertain && all.groups.is_empty(), "{:?}", all.groups);
    let (path, offset) = place(&whole, ONE, 0);
    let disk = whole.fork();
    disk.overwrite(&path, offset + 20, &[0xee; 80]).expect("there");
    assert!(!report(&disk).log.others_uncertain, "the next file begins with all of them");
}

#[test]
fn that_nothing_tells_what_was_in_a_file_is_said() {
    let whole = store();
    let files: Vec<FileReport> =
        report(&whole).log.files.into_iter().filter(|file| file.frames > 0).collect();
    let disk = whole.fork();
    let last = files.last().expect("there is one");
    disk.write_file(Path::new("wal").join(&last.name), &[]).expect("emptied");
    let log = report(&disk).log;
    assert!(log.refused.is_some() && log.others_uncertain, "{log:?}");
    assert!(log.groups.iter().all(|group| group.end_uncertain), "{:?}", log.groups);

    let disk = whole.fork();
    let tables = Tables::open(disk_of(&disk), Default::default()).expect("tables").0;
    tables.applied(ONE, LogId::new(3, 19));
    tables.flush().expect("flushed");
    for file in report(&disk).log.files {
        disk.remove(&Path::new("wal").join(&file.name)).expect("removed");
    }
    let log = report(&disk).log;
    assert!(matches!(log.refused, Some(OpenError::GroupMissing { .. })) && log.others_uncertain, "{log:?}");
}
