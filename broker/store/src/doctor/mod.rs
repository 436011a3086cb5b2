//! Looks at the data directory of a broker that does not run, says what is wrong with it, and repairs its log when
//! it is told to.
//!
//! Nothing here deletes anything: what a repair takes out of the log is kept below `damaged/`.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_model::{GroupId, LogId};

pub use crate::wal::{
    inspect::{FileReport, FrameRecord, FrameState, LogReport, Problem, ProblemKind},
    rebuild::RepairError,
    salvage::GroupReport,
};
use crate::{
    disk::{Disk, OsDisk},
    tables::{self, Tables, Verified},
    wal::{self, OpenError, WalConfig, inspect::Inspected},
};

/// A running broker holds a lock on this file.
const LOCK_NAME: &str = "LOCK";
/// Everything that a repair takes out goes below this directory, in one of its own each time.
const ASIDE_DIR: &str = "damaged";

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
        let torn_only = |file: &FileReport| file.problems.iter().all(|p| p.kind == ProblemKind::Torn);
        let stray = |finding: &tables::Finding| matches!(finding, tables::Finding::Stray { .. });
        self.log.refused.is_none()
            && self.log.files.iter().all(torn_only)
            && self.tables.findings.iter().all(stray)
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
        /// Whether a vote may be lost: in a cluster the node must join again under a new id.
        votes_uncertain: bool,
    },
}

/// Looks at everything and changes nothing. It reads every byte, so it takes as long as the disk does.
pub fn inspect(dir: &Path) -> Result<Report, DoctorError> {
    let (disk, _lock) = open(dir)?;
    let mut report = inspect_disk(&disk)?;
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

/// Makes a log that does not open one that does. Every group keeps its entries up to the first that is gone; the
/// old files are moved aside, whole. A log that opens is left alone.
pub fn repair(dir: &Path) -> Result<Repaired, DoctorError> {
    let (disk, _lock) = open(dir)?;
    repair_log(&disk, WalConfig::default())
}

/// The same for a disk that is known to be nobody else's.
pub fn repair_log(disk: &Arc<dyn Disk>, config: WalConfig) -> Result<Repaired, DoctorError> {
    if wal::rebuild::finish(disk)? {
        return Ok(Repaired::Finished);
    }
    let (inspected, _) = inspect_log(disk)?;
    if inspected.report.refused.is_none() {
        return Ok(Repaired::Nothing);
    }
    let aside = free_aside(&**disk)?;
    wal::rebuild::rebuild(disk, &inspected, &aside, config)?;
    let LogReport { groups, votes_uncertain, .. } = inspected.report;
    Ok(Repaired::Replaced { aside, groups, votes_uncertain })
}

/// What [`inspect`] does, for a disk that is known to be nobody else's.
pub fn inspect_disk(disk: &Arc<dyn Disk>) -> Result<Report, DoctorError> {
    let (inspected, tables) = inspect_log(disk)?;
    Ok(Report { log: inspected.report, tables })
}

fn inspect_log(disk: &Arc<dyn Disk>) -> Result<(Inspected, Verified), DoctorError> {
    let tables = tables::verify(disk);
    let flushed: HashMap<GroupId, u64> =
        tables.flushed.iter().map(|(group, id)| (*group, id.index)).collect();
    // An entry can be done without when both its batches and what it did to the state are elsewhere.
    let covered = |(group, state): (&GroupId, &LogId)| {
        let batches = tables.flushed.get(group)?;
        Some((*group, *state.min(batches)))
    };
    let covered: HashMap<GroupId, LogId> = tables.checkpointed.iter().filter_map(covered).collect();
    Ok((wal::inspect::inspect(disk, &flushed, &covered)?, tables))
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
