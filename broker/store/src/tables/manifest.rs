//! The manifest: which runs are live and up to which entry each group is flushed.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_model::{LogId, RaftGroupId};

use super::{
    error::{Damage, DiskError, OpenError},
    layout::{DIR, crc, u32_at, u64_at},
};
use crate::disk::{Disk, DiskFile, OpenMode};

const MAGIC: [u8; 8] = *b"MILLMAN\x01";
const HEAD_BYTES: usize = 32;
const GROUP_BYTES: usize = 24;
const RUN_BYTES: usize = 24;
const CRC_BYTES: usize = 4;

/// What is known to be durable in runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// For each group, the last log entry up to which all batches are in runs.
    pub flushed: BTreeMap<RaftGroupId, LogId>,
    /// Number of manifests written so far.
    pub version: u64,
    /// The next run gets this id or a higher one.
    pub(super) next_run: u64,
    /// The live runs, by id.
    pub(super) runs: BTreeMap<u64, RunRecord>,
}

/// The manifest's entry of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunRecord {
    pub(super) file_bytes: u64,
    pub(super) index_crc: u32,
}

impl Manifest {
    /// Number of live runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = HEAD_BYTES + self.flushed.len() * GROUP_BYTES + self.runs.len() * RUN_BYTES + CRC_BYTES;
        let mut out = Vec::with_capacity(bytes);
        out.extend(MAGIC);
        out.extend(self.version.to_le_bytes());
        out.extend(self.next_run.to_le_bytes());
        out.extend((self.flushed.len() as u32).to_le_bytes());
        out.extend((self.runs.len() as u32).to_le_bytes());
        for (group, id) in &self.flushed {
            out.extend(group.0.to_le_bytes());
            out.extend([0; 4]);
            out.extend(id.term.to_le_bytes());
            out.extend(id.index.to_le_bytes());
        }
        for (id, run) in &self.runs {
            out.extend(id.to_le_bytes());
            out.extend(run.file_bytes.to_le_bytes());
            out.extend(run.index_crc.to_le_bytes());
            out.extend([0; 4]);
        }
        let crc = crc(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, &'static str> {
        if bytes.len() < HEAD_BYTES + CRC_BYTES {
            return Err("it is shorter than a manifest");
        }
        let (body, stored) = bytes.split_at(bytes.len() - CRC_BYTES);
        if crc(body) != u32_at(stored, 0) {
            return Err("checksum mismatch");
        }
        if body[..8] != MAGIC {
            return Err("it is not a manifest of this version");
        }
        let (groups, runs) = (u32_at(body, 24) as usize, u32_at(body, 28) as usize);
        let groups_end = HEAD_BYTES + groups * GROUP_BYTES;
        if body.len() != groups_end + runs * RUN_BYTES {
            return Err("its entry count does not match its length");
        }
        let group =
            |entry: &[u8]| (RaftGroupId(u32_at(entry, 0)), LogId::new(u64_at(entry, 8), u64_at(entry, 16)));
        let run = |entry: &[u8]| {
            (u64_at(entry, 0), RunRecord { file_bytes: u64_at(entry, 8), index_crc: u32_at(entry, 16) })
        };
        Ok(Manifest {
            flushed: body[HEAD_BYTES..groups_end].chunks_exact(GROUP_BYTES).map(group).collect(),
            version: u64_at(body, 8),
            next_run: u64_at(body, 16),
            runs: body[groups_end..].chunks_exact(RUN_BYTES).map(run).collect(),
        })
    }
}

fn manifest_path() -> PathBuf {
    Path::new(DIR).join("manifest")
}

/// Replaces a file atomically with respect to crashes.
///
/// The directory is synced before the rename too: the names that the new file refers to are durable before it
/// is.
pub(super) fn replace_file<T>(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&dyn DiskFile) -> io::Result<T>,
) -> Result<(Arc<dyn DiskFile>, T), DiskError> {
    let new = path.with_extension("new");
    let replace = || {
        let file = disk.open(&new, OpenMode::Create)?;
        let written = write(&*file)?;
        file.sync()?;
        disk.sync_dir(Path::new(DIR))?;
        disk.rename(&new, path)?;
        disk.sync_dir(Path::new(DIR))?;
        Ok((file, written))
    };
    replace().map_err(|e: io::Error| {
        // A retry must not reuse a file of which the disk may have lost a part.
        let _ = disk.remove(&new);
        DiskError::new(path, &e)
    })
}

/// Reads a whole file; `None` if it is absent.
pub(super) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DiskError::new(path, &e)),
    }
}

/// Writes the manifest durably.
pub(super) fn save(disk: &dyn Disk, manifest: &Manifest) -> Result<(), DiskError> {
    let bytes = manifest.encode();
    replace_file(disk, &manifest_path(), |file| file.write_at(&[IoSlice::new(&bytes)], 0)).map(drop)
}

/// Reads the manifest; `None` if there is none.
pub(super) fn load(disk: &dyn Disk) -> Result<Option<Manifest>, OpenError> {
    let path = manifest_path();
    let Some(bytes) = read_file(disk, &path)? else { return Ok(None) };
    match Manifest::decode(&bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(reason) => Err(Damage::new(&path, 0, reason).into()),
    }
}

/// Lowers the flushed marks to where the groups' logs end now, for a repair that has truncated these:
/// otherwise later entries would be taken for flushed ones. The old manifest is kept in `aside`.
pub(crate) fn lower_flushed(
    disk: &dyn Disk,
    ends: &BTreeMap<RaftGroupId, Option<LogId>>,
    aside: &Path,
) -> Result<(), OpenError> {
    // A missing or damaged manifest is no concern of the log's repair.
    let Ok(Some(old)) = load(disk) else { return Ok(()) };
    let lowered = |(group, flushed): (&RaftGroupId, &LogId)| match ends.get(group) {
        Some(None) => None,
        Some(Some(end)) if end.index < flushed.index => Some((*group, *end)),
        _ => Some((*group, *flushed)),
    };
    let flushed: BTreeMap<RaftGroupId, LogId> = old.flushed.iter().filter_map(lowered).collect();
    if flushed == old.flushed {
        return Ok(());
    }
    let kept = aside.join("manifest");
    let keep = || -> io::Result<()> {
        disk.create_dir(aside)?;
        let file = disk.open(&kept, OpenMode::Create)?;
        file.write_at(&[IoSlice::new(&old.encode())], 0)?;
        file.sync()?;
        disk.sync_dir(aside)
    };
    keep().map_err(|e| DiskError::new(&kept, &e))?;
    Ok(save(disk, &Manifest { flushed, version: old.version + 1, ..old })?)
}

/// The error for a store that has files but no manifest.
pub(super) fn missing() -> OpenError {
    OpenError::Missing { file: manifest_path().display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            flushed: [(RaftGroupId(0), LogId::new(1, 2)), (RaftGroupId(9), LogId::new(3, u64::MAX))].into(),
            version: 8,
            next_run: 12,
            runs: [
                (3, RunRecord { file_bytes: 8192, index_crc: 5 }),
                (11, RunRecord { file_bytes: 1 << 40, index_crc: 0 }),
            ]
            .into(),
        }
    }

    #[test]
    fn it_reads_back() {
        assert_eq!(Manifest::decode(&manifest().encode()), Ok(manifest()));
        assert_eq!(Manifest::decode(&Manifest::default().encode()), Ok(Manifest::default()));
    }

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let whole = manifest().encode();
        for at in 0..whole.len() {
            assert!(Manifest::decode(&whole[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(Manifest::decode(&bytes).is_err(), "bit {bit} of {at}");
            }
        }
        assert!(Manifest::decode(&[whole.clone(), vec![0]].concat()).is_err());
    }
}
