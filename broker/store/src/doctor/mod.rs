//! Looks at the data directory of a broker that does not run, says what is wrong with it, and repairs its log when
//! it is told to.
//!
//! Nothing here deletes anything: what a repair takes out of the log is kept below `damaged/`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::RaftGroupId;

pub use crate::wal::{
    inspect::{FileReport, FrameRecord, FrameState, LogReport, Problem, ProblemKind},
    rebuild::RepairError,
    salvage::{Beginning, GroupReport, Refound},
};
use crate::{
    disk::{Disk, OpenMode, OsDisk},
    tables::{self, Tables, Verified},
    wal::{
        self, OpenError, WalConfig,
        inspect::{Inspected, Known},
    },
};

/// A running broker holds a lock on this file.
const LOCK_NAME: &str = "LOCK";
/// More than a broker writes into [`IDENTITY_NAME`].
const IDENTITY_BYTES_MAX: u64 = 4096;
/// Everything that a repair takes out goes below this directory, in one of its own each time.
const ASIDE_DIR: &str = "damaged";

/// Name of the file in which a broker notes that its node is the only one of its cluster.
pub const IDENTITY_NAME: &str = "identity";

/// What the doctor has to know of the replicas whose log this is: the store only keeps their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replicas {
    /// Kind of the entries that say who belongs to a group; nothing is known of that without one.
    pub membership_kind: Option<u8>,
    /// What a checkpoint's first bytes say of who belongs to the group.
    pub checkpoint_members: Option<MembersFn>,
    /// What is written for groups that have lost what they began with: only where everything that was found, or else
    /// the content of the file [`IDENTITY_NAME`], says that they have one and the same member. Told whether votes may
    /// be lost.
    pub refound: Option<RefoundFn>,
}

/// See [`Replicas::checkpoint_members`].
pub type MembersFn = fn(&[u8]) -> Option<Bytes>;

/// See [`Replicas::refound`].
pub type RefoundFn = fn(&BTreeMap<RaftGroupId, Beginning>, Option<&[u8]>, bool) -> Option<Refound>;

/// Why a data directory could not be looked at or repaired.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is no such directory, or nothing of a broker in it.
    #[error("{0} is not the data directory of a broker")]
    NotAStore(PathBuf),
    /// A broker runs on it.
    #[error("a broker runs on {0}; stop it first")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// What was tried to use.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The log cannot even be looked at.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The log could not be repaired.
    #[error(transparent)]
    Repair(#[from] RepairError),
}

/// What a data directory is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The write-ahead log.
    pub log: LogReport,
    /// Runs, manifest and checkpoints.
    pub tables: Verified,
}

impl Report {
    /// Whether a broker starts on it and everything that was durable is there.
    pub fn is_sound(&self) -> bool {
        let stray = |finding: &tables::Finding| matches!(finding, tables::Finding::Stray { .. });
        self.log.is_sound() && self.tables.findings.iter().all(stray)
    }

    /// Whether a repair of the log makes anything better.
    pub fn can_be_repaired(&self) -> bool {
        self.log.refused.is_some() || !self.log.refounded.is_empty()
    }

    /// Entries that a repair of the log without other nodes loses.
    pub fn entries_lost(&self) -> u64 {
        self.log.groups.iter().map(GroupReport::lost).sum()
    }
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// The log was sound.
    Nothing,
    /// An earlier repair was interrupted, and is finished now.
    Finished,
    /// The log was replaced.
    Replaced {
        /// Where the old one is.
        aside: PathBuf,
        /// What each group has now, and what it lost.
        groups: Vec<GroupReport>,
        /// Groups whose first entry was written again.
        refounded: Vec<RaftGroupId>,
        /// Whether a vote may be lost: in a cluster the node must join again under a new id.
        votes_uncertain: bool,
    },
}

/// Looks at everything and changes nothing. It reads every byte, so it takes as long as the disk does.
pub fn inspect(dir: &Path, replicas: &Replicas) -> Result<Report, DoctorError> {
    let (disk, _lock) = open(dir)?;
    let mut report = inspect_disk(&disk, replicas)?;
    let missing = missing_checkpoints(&report);
    report.tables.findings.extend(missing);
    Ok(report)
}

/// Groups whose log was cut and that have nothing to go on from. Only a broker's directory has checkpoints at all; a
/// log alone, which [`inspect_disk`] may be asked about, does without.
fn missing_checkpoints(report: &Report) -> Vec<tables::Finding> {
    let at = |group: &GroupReport| report.tables.checkpointed.get(&group.group).map(|id| id.index);
    let cut = report.log.groups.iter().filter(|group| group.purged.map(|id| id.index) > at(group));
    let missing = cut.map(|group| tables::Finding::NoCheckpoint {
        group: group.group,
        file: Tables::checkpoint_path(group.group).display().to_string(),
    });
    missing.collect()
}

/// Gives every frame of the log to `visit`, in order, until it says to stop.
pub fn dump(dir: &Path, visit: &mut dyn FnMut(FrameRecord) -> bool) -> Result<(), DoctorError> {
    let (disk, _lock) = open(dir)?;
    Ok(wal::inspect::dump(&disk, visit)?)
}

/// Makes a log that does not open one that does, and gives groups that have lost their first entry that one again,
/// where it is known. Every group keeps its entries up to the first that is gone; the old files are moved aside, whole.
/// A log that opens and lacks nothing is left alone.
pub fn repair(dir: &Path, replicas: &Replicas) -> Result<Repaired, DoctorError> {
    let (disk, _lock) = open(dir)?;
    let repaired = repair_log(&disk, WalConfig::default(), replicas)?;
    // The place where the new log was written, empty now.
    for left in [Path::new(wal::rebuild::NEW_DIR).join("wal"), wal::rebuild::NEW_DIR.into()] {
        match fs::remove_dir(dir.join(&left)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DoctorError::Io { path: left, error });
            }
            _ => {}
        }
    }
    Ok(repaired)
}

/// The same for a disk that is known to be nobody else's.
pub fn repair_log(
    disk: &Arc<dyn Disk>,
    config: WalConfig,
    replicas: &Replicas,
) -> Result<Repaired, DoctorError> {
    if wal::rebuild::finish(disk)? {
        return Ok(Repaired::Finished);
    }
    let (inspected, tables) = inspect_log(disk, replicas)?;
    let report = Report { log: inspected.report.clone(), tables };
    if !report.can_be_repaired() {
        return Ok(Repaired::Nothing);
    }
    let aside = free_aside(&**disk)?;
    let names = wal::rebuild::write(disk, &inspected, config)?;
    let LogReport { groups, votes_uncertain, refounded, .. } = inspected.report;
    let ends = groups.iter().map(|group| (group.group, group.last.or(group.purged))).collect();
    // Before the log is cut: a store in which this is lower than it could be is as good as before.
    tables::lower_flushed(&**disk, &ends, &aside).map_err(RepairError::Manifest)?;
    wal::rebuild::replace(disk, &aside, &names)?;
    Ok(Repaired::Replaced { aside, groups, refounded, votes_uncertain })
}

/// What [`inspect`] does, for a disk that is known to be nobody else's.
pub fn inspect_disk(disk: &Arc<dyn Disk>, replicas: &Replicas) -> Result<Report, DoctorError> {
    let (inspected, tables) = inspect_log(disk, replicas)?;
    Ok(Report { log: inspected.report, tables })
}

fn inspect_log(disk: &Arc<dyn Disk>, replicas: &Replicas) -> Result<(Inspected, Verified), DoctorError> {
    let tables = tables::verify(disk);
    // What a checkpoint has done to the state, and its batches: no checkpoint is written before these are in runs.
    let covered = tables.checkpointed.iter().filter(|_| tables.has_manifest);
    let members = |head: &Bytes| replicas.checkpoint_members.and_then(|members| members(head));
    let identity = read_identity(&**disk);
    let known = Known {
        flushed: tables.flushed.iter().map(|(group, id)| (*group, id.index)).collect(),
        covered: covered.map(|(group, id)| (*group, *id)).collect(),
        checkpoints: tables.checkpoint_heads.iter().map(|(group, head)| (*group, members(head))).collect(),
        membership_kind: replicas.membership_kind,
        refound: Some(&|found, uncertain| replicas.refound?(found, identity.as_deref(), uncertain)),
    };
    Ok((wal::inspect::inspect(disk, &known)?, tables))
}

/// What a broker noted of its node, if it can be read.
fn read_identity(disk: &dyn Disk) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(IDENTITY_NAME), OpenMode::Read).ok()?;
    let mut bytes = vec![0; file.len().ok()?.min(IDENTITY_BYTES_MAX) as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

/// A directory that is not there yet.
fn free_aside(disk: &dyn Disk) -> Result<PathBuf, DoctorError> {
    for n in 1..10_000 {
        let path = Path::new(ASIDE_DIR).join(format!("{n:04}"));
        match disk.list(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(DoctorError::Io { path, error }),
            Ok(_) => {}
        }
    }
    let error = io::ErrorKind::AlreadyExists.into();
    Err(DoctorError::Io { path: ASIDE_DIR.into(), error })
}

/// The directory's disk, and the lock that keeps a broker from starting on it meanwhile.
fn open(dir: &Path) -> Result<(Arc<dyn Disk>, Option<File>), DoctorError> {
    let io_error = |path: PathBuf| move |error| DoctorError::Io { path, error };
    match fs::metadata(dir.join("wal")) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(DoctorError::NotAStore(dir.to_path_buf())),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(DoctorError::NotAStore(dir.to_path_buf()));
        }
        Err(e) => return Err(io_error(dir.join("wal"))(e)),
    }
    let lock = lock(dir)?;
    let disk = OsDisk::new(dir).map_err(io_error(dir.to_path_buf()))?;
    Ok((Arc::new(disk), lock))
}

/// Takes the lock if there is one to take: a copy of a data directory may have none, and none is made.
fn lock(dir: &Path) -> Result<Option<File>, DoctorError> {
    let path = dir.join(LOCK_NAME);
    let file = match OpenOptions::new().read(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DoctorError::Io { path, error }),
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DoctorError::InUse(dir.to_path_buf())),
        Err(error) => Err(DoctorError::Io { path, error: error.into() }),
    }
}

#[cfg(test)]
mod tests;
