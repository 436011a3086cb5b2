//! Replaces a log that does not open by a repaired one, and keeps the old files aside.
//!
//! The new log is first written in full to another directory. Then a marker is made durable in the log's
//! directory; while it exists no log opens: the old files are moved aside and the new ones into place. An
//! interrupted repair continues where it stopped.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};

use super::{
    Draft, OpenError, Wal, WalConfig,
    files::Lives,
    inspect::{Inspected, payload_at},
    layout::{DIR, FILE_BYTES_MAX, file_name, file_seq, in_dir},
    memory::ChunkPool,
    recovery::{REPAIR_NAME, register_lives},
    salvage::{GroupSalvage, Source},
    scan::{LogFile, list},
};
use crate::disk::{Disk, DiskFile, OpenMode};

/// The new log is written to this directory.
pub(crate) const NEW_DIR: &str = "repair.tmp";
/// Bytes of entries that are appended before a write.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// Why a log could not be repaired. Nothing was lost; the repair can be run again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// The old log cannot be read, or the new one cannot be created.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The new log could not be written, for instance because the disk is full.
    #[error("the repaired log cannot be written: {reason}")]
    NotWritten {
        /// The cause.
        reason: String,
    },
    /// The flushed marks of the runs cannot be written.
    #[error(transparent)]
    Manifest(crate::tables::OpenError),
    /// An entry that was readable a moment ago no longer is.
    #[error("entry {id} of {group} is no longer readable: the disk returns different bytes each time")]
    Unsteady {
        /// The group.
        group: RaftGroupId,
        /// The entry.
        id: LogId,
    },
}

fn disk_error(what: &Path) -> impl FnOnce(io::Error) -> RepairError {
    let what = what.display().to_string();
    move |e| OpenError::Io { what, reason: e.to_string() }.into()
}

/// Writes the new log and returns the names of its files, for [`replace`]. The old one is unchanged.
pub(crate) fn write(
    disk: &Arc<dyn Disk>,
    inspected: &Inspected,
    mut config: WalConfig,
) -> Result<Vec<String>, RepairError> {
    let listing = list(&**disk)?;
    let longest = listing.files.iter().map(|file| file.len).max().unwrap_or(0);
    config.file_bytes = file_bytes_for(longest, config.file_bytes);
    let mut lives = Lives::new(config.salt);
    register_lives(&**disk, &listing, &mut lives)?;
    let below: Arc<dyn Disk> = Arc::new(Below { disk: disk.clone(), dir: NEW_DIR.into() });
    clear(&*below)?;
    let wal = Wal::create_stepped(below.clone(), config, inspected.next_seq, lives)?;
    for (group, salvage) in &inspected.salvage.groups {
        write_group(&wal, &listing.files, *group, salvage)?;
    }
    if let Some(failed) = wal.finish() {
        return Err(RepairError::NotWritten { reason: failed.to_string() });
    }
    Ok(list(&*below)?.files.iter().map(|file| file_name(file.seq)).collect())
}

/// Length of the new files: at least `least`, and enough for an entry that fills the longest of the old ones.
fn file_bytes_for(longest: u64, least: u64) -> u64 {
    if longest <= least { least } else { longest.saturating_mul(2).min(FILE_BYTES_MAX) }
}

/// Moves the old log to the directory `aside` and the new one into its place.
pub(crate) fn replace(disk: &Arc<dyn Disk>, aside: &Path, names: &[String]) -> Result<(), RepairError> {
    mark(&**disk, aside, names)?;
    finish(disk).map(|_| ())
}

/// Continues an interrupted repair whose new log was complete; returns whether there was one.
pub(crate) fn finish(disk: &Arc<dyn Disk>) -> Result<bool, RepairError> {
    let Some(moves) = read_mark(&**disk)? else { return Ok(false) };
    let (dir, new_dir) = (Path::new(DIR), Path::new(NEW_DIR).join(DIR));
    disk.create_dir(&moves.aside).map_err(disk_error(&moves.aside))?;
    let names = disk.list(dir).map_err(disk_error(dir))?;
    for (name, _) in names {
        if file_seq(&name).is_some() && !moves.names.contains(&name) {
            disk.rename(&in_dir(&name), &moves.aside.join(&name)).map_err(disk_error(&in_dir(&name)))?;
        }
    }
    disk.sync_dir(&moves.aside).map_err(disk_error(&moves.aside))?;
    disk.sync_dir(dir).map_err(disk_error(dir))?;
    for name in &moves.names {
        match disk.rename(&new_dir.join(name), &in_dir(name)) {
            // Already moved.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(disk_error(&in_dir(name))(e)),
            _ => {}
        }
    }
    disk.sync_dir(dir).map_err(disk_error(dir))?;
    disk.remove(&in_dir(REPAIR_NAME)).map_err(disk_error(&in_dir(REPAIR_NAME)))?;
    disk.sync_dir(dir).map_err(disk_error(dir))?;
    Ok(true)
}

/// Removes the incomplete new log of an earlier attempt.
fn clear(below: &dyn Disk) -> Result<(), RepairError> {
    let dir = Path::new(DIR);
    below.create_dir(dir).map_err(disk_error(dir))?;
    for (name, _) in below.list(dir).map_err(disk_error(dir))? {
        below.remove(&dir.join(&name)).map_err(disk_error(&dir.join(&name)))?;
    }
    Ok(())
}

fn write_group(
    wal: &Wal,
    files: &[LogFile],
    group: RaftGroupId,
    salvage: &GroupSalvage,
) -> Result<(), RepairError> {
    let not_written = |e: super::AppendError| RepairError::NotWritten { reason: e.to_string() };
    let log = wal.group(group);
    if let Some(purged) = salvage.purged {
        log.purge(purged).map_err(not_written)?;
    }
    let (result_tx, result_rx) = mpsc::channel();
    let pool = ChunkPool::new(WalConfig::default().chunk_bytes, 2 * WalConfig::default().chunk_bytes);
    let mut pending = 0;
    for (&index, kept) in &salvage.entries {
        let id = LogId::new(kept.term, index);
        let payload = content(&pool, files, &kept.source)?.ok_or(RepairError::Unsteady { group, id })?;
        pending += payload.len();
        log.append([Draft { id, kind: kept.kind, payload }], |_| {}).map_err(not_written)?;
        log.release_memory(index);
        if pending > PENDING_BYTES_MAX {
            wal.step();
            pending = 0;
        }
    }
    if let Some(id) =
        salvage.committed.and_then(|index| log.term_at(index).map(|term| LogId::new(term, index)))
    {
        log.save_committed(id);
    }
    if let Some(vote) = &salvage.vote {
        let done = move |result| drop(result_tx.send(result));
        log.save_vote(vote, done).map_err(not_written)?;
    }
    wal.step();
    match result_rx.try_recv() {
        Ok(Err(failed)) => Err(RepairError::NotWritten { reason: failed.to_string() }),
        _ => Ok(()),
    }
}

/// The content of an entry; `None` if it can no longer be read.
fn content(pool: &Arc<ChunkPool>, files: &[LogFile], source: &Source) -> Result<Option<Bytes>, OpenError> {
    match source {
        Source::Given(payload) => Ok(Some(payload.clone())),
        Source::File(place) => match files.iter().find(|file| file.seq == place.seq) {
            Some(file) => payload_at(pool, file, *place),
            None => Ok(None),
        },
    }
}

/// The content of the marker file: the moves that a repair has begun.
struct PendingMoves {
    aside: PathBuf,
    names: Vec<String>,
}

/// Makes the decision to replace the old log durable.
fn mark(disk: &dyn Disk, aside: &Path, names: &[String]) -> Result<(), RepairError> {
    let path = in_dir(REPAIR_NAME);
    let temporary = in_dir("repair.tmp");
    let text = format!("{}\n{}\n", aside.display(), names.join("\n"));
    let write = || -> io::Result<()> {
        let file = disk.open(&temporary, OpenMode::Create)?;
        file.write_at(&[IoSlice::new(text.as_bytes())], 0)?;
        file.sync()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(Path::new(DIR))
    };
    write().map_err(disk_error(&path))
}

fn read_mark(disk: &dyn Disk) -> Result<Option<PendingMoves>, RepairError> {
    let path = in_dir(REPAIR_NAME);
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(disk_error(&path)(e)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let aside = lines.next().map(PathBuf::from).unwrap_or_default();
    Ok(Some(PendingMoves { aside, names: lines.map(str::to_string).collect() }))
}

/// A view of a directory of another disk as a disk of its own.
struct Below {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Disk for Below {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.dir.join(path), mode)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(&self.dir.join(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(&self.dir.join(from), &self.dir.join(to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(&self.dir.join(path))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(&self.dir.join(dir))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(&self.dir.join(dir))
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::layout::payload_bytes_max, *};

    #[test]
    fn every_entry_of_the_old_files_fits_into_the_new_ones() {
        let least = WalConfig::default().file_bytes;
        assert_eq!(file_bytes_for(least, least), least, "files of the usual length stay so");
        for longest in [least + 4096, 128 << 20, 512 << 20, 768 << 20, FILE_BYTES_MAX] {
            let file_bytes = file_bytes_for(longest, least);
            let largest = (longest as usize).min(payload_bytes_max(FILE_BYTES_MAX));
            assert!(payload_bytes_max(file_bytes) >= largest, "{longest} to {file_bytes}");
        }
    }
}
