//! Inspects the data directory of a stopped broker, reports what is wrong with it, and repairs its log on
//! request.
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
    salvage::{Beginning, GroupReport, RecreatedMembership},
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
/// Larger than any [`IDENTITY_NAME`] file that a broker writes.
const IDENTITY_BYTES_MAX: u64 = 4096;
/// Each repair moves what it takes out to a new directory below this one.
const ASIDE_DIR: &str = "damaged";

/// Name of the file in which a broker records that its node is the only one of its cluster.
pub const IDENTITY_NAME: &str = "identity";

/// What the doctor must know of the log's replicas: the store treats their content as opaque bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replicas {
    /// The kind of membership entries; without one, memberships are unknown.
    pub membership_kind: Option<u8>,
    /// Reads the membership from a checkpoint's first bytes.
    pub checkpoint_members: Option<MembersFn>,
    /// Recreates the membership of groups that have lost it: only if everything found, or else the content of
    /// the file [`IDENTITY_NAME`], names the same single member. The flag says whether votes may be lost.
    pub recreate_membership: Option<RecreateMembershipFn>,
}

/// See [`Replicas::checkpoint_members`].
pub type MembersFn = fn(&[u8]) -> Option<Bytes>;

/// See [`Replicas::recreate_membership`].
pub type RecreateMembershipFn =
    fn(&BTreeMap<RaftGroupId, Beginning>, Option<&[u8]>, bool) -> Option<RecreatedMembership>;

/// Why a data directory could not be inspected or repaired.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The directory is absent or is not a broker's.
    #[error("{0} is not the data directory of a broker")]
    NotAStore(PathBuf),
    /// A broker is running on it.
    #[error("a broker runs on {0}; stop it first")]
    InUse(PathBuf),
    /// An operation of the operating system failed.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// The log cannot be inspected.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The log could not be repaired.
    #[error(transparent)]
    Repair(#[from] RepairError),
}

/// The state of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The write-ahead log.
    pub log: LogReport,
    /// Runs, manifest and checkpoints.
    pub tables: Verified,
}

impl Report {
    /// Whether a broker starts on it with everything that was durable.
    pub fn is_sound(&self) -> bool {
        let stray = |finding: &tables::Finding| matches!(finding, tables::Finding::Stray { .. });
        self.log.is_sound() && self.tables.findings.iter().all(stray)
    }

    /// Whether a repair of the log would improve anything.
    pub fn can_be_repaired(&self) -> bool {
        self.log.refused.is_some() || !self.log.recreated_groups.is_empty()
    }

    /// Number of entries that a repair of the log without other nodes loses.
    pub fn entries_lost(&self) -> u64 {
        self.log.groups.iter().map(GroupReport::lost).sum()
    }
}

/// The result of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// The log was undamaged.
    Nothing,
    /// An interrupted repair has been completed.
    Finished,
    /// The log was replaced.
    Replaced {
        /// Where the old one is.
        aside: PathBuf,
        /// What each group has now, and what it lost.
        groups: Vec<GroupReport>,
        /// Groups whose first entry was recreated.
        recreated_groups: Vec<RaftGroupId>,
        /// Whether a vote may be lost: in a cluster the node must join again under a new id.
        votes_uncertain: bool,
    },
}

/// Reads and checks everything without changing it. This reads every byte, so it takes as long as the disk
/// does.
pub fn inspect(dir: &Path, replicas: &Replicas) -> Result<Report, DoctorError> {
    let (disk, _lock) = open(dir)?;
    let mut report = inspect_disk(&disk, replicas)?;
    let missing = missing_checkpoints(&report);
    report.tables.findings.extend(missing);
    Ok(report)
}

/// Groups whose log was purged and that have no checkpoint. Only a broker's directory has checkpoints; a bare
/// log, which [`inspect_disk`] accepts too, has none.
fn missing_checkpoints(report: &Report) -> Vec<tables::Finding> {
    let at = |group: &GroupReport| report.tables.checkpointed.get(&group.group).map(|id| id.index);
    let cut = report.log.groups.iter().filter(|group| group.purged.map(|id| id.index) > at(group));
    let missing = cut.map(|group| tables::Finding::NoCheckpoint {
        group: group.group,
        file: Tables::checkpoint_path(group.group).display().to_string(),
    });
    missing.collect()
}

/// Passes every frame of the log, in order, to `visit` until it returns to stop.
pub fn dump(dir: &Path, visit: &mut dyn FnMut(FrameRecord) -> bool) -> Result<(), DoctorError> {
    let (disk, _lock) = open(dir)?;
    Ok(wal::inspect::dump(&disk, visit)?)
}

/// Replaces a log that does not open by one that does, and recreates lost first entries of groups where their
/// content is known. Every group keeps its entries up to the first lost one; the old files are moved aside
/// unchanged. A log that opens and lacks nothing is left alone.
pub fn repair(dir: &Path, replicas: &Replicas) -> Result<Repaired, DoctorError> {
    let (disk, _lock) = open(dir)?;
    let repaired = repair_log(&disk, WalConfig::default(), replicas)?;
    // The directory where the new log was written, now empty.
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

/// The same for a disk without concurrent users.
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
    let LogReport { groups, votes_uncertain, recreated_groups, .. } = inspected.report;
    let ends = groups.iter().map(|group| (group.group, group.last.or(group.purged))).collect();
    // Before the log is truncated: a lower mark than necessary does no harm.
    tables::lower_flushed(&**disk, &ends, &aside).map_err(RepairError::Manifest)?;
    wal::rebuild::replace(disk, &aside, &names)?;
    Ok(Repaired::Replaced { aside, groups, recreated_groups, votes_uncertain })
}

/// [`inspect`] for a disk without concurrent users.
pub fn inspect_disk(disk: &Arc<dyn Disk>, replicas: &Replicas) -> Result<Report, DoctorError> {
    let (inspected, tables) = inspect_log(disk, replicas)?;
    Ok(Report { log: inspected.report, tables })
}

fn inspect_log(disk: &Arc<dyn Disk>, replicas: &Replicas) -> Result<(Inspected, Verified), DoctorError> {
    let tables = tables::verify(disk);
    // What a checkpoint covers is in runs too: no checkpoint is written before its batches are.
    let covered = tables.checkpointed.iter().filter(|_| tables.has_manifest);
    let members = |head: &Bytes| replicas.checkpoint_members.and_then(|members| members(head));
    let identity = read_identity(&**disk);
    let known = Known {
        flushed: tables.flushed.iter().map(|(group, id)| (*group, id.index)).collect(),
        covered: covered.map(|(group, id)| (*group, *id)).collect(),
        checkpoints: tables.checkpoint_heads.iter().map(|(group, head)| (*group, members(head))).collect(),
        membership_kind: replicas.membership_kind,
        recreate_membership: Some(&|found, uncertain| {
            replicas.recreate_membership?(found, identity.as_deref(), uncertain)
        }),
    };
    Ok((wal::inspect::inspect(disk, &known)?, tables))
}

/// The broker's record of its node, if readable.
fn read_identity(disk: &dyn Disk) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(IDENTITY_NAME), OpenMode::Read).ok()?;
    let mut bytes = vec![0; file.len().ok()?.min(IDENTITY_BYTES_MAX) as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

/// A new directory below `damaged/`.
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

/// Takes the lock if the file exists: a copy of a data directory may have none, and none is created.
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
