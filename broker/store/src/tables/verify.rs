//! Reads everything and reports what is damaged, for a repair. Changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::{LogId, PartitionId, RaftGroupId, batch::check_crc};

use super::{
    CheckpointError, Damage, DiskError, OPEN_FILES_MAX, OpenError, ReadError, checkpoint,
    layout::{DIR, run_id},
    manifest::{self, Manifest},
    read::Batches,
    run::{Part, read_index},
    run_files::RunFiles,
};
use crate::disk::Disk;

/// About this many bytes of a run are read and verified at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes of each checkpoint that are kept for inspection: more than a cluster's membership takes.
const CHECKPOINT_HEAD_BYTES: u64 = 64 << 10;

/// A damaged, missing or superfluous file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The manifest, or a run's index: the store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A part of one partition: the rest can be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A checkpoint: its group does not start.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint that the log continues from: its group does not start.
    #[error("checkpoint of {group}: {file} is missing, and the log begins after it")]
    NoCheckpoint {
        /// The group.
        group: RaftGroupId,
        /// The file.
        file: String,
    },
    /// A run that the manifest does not name: the next start removes it.
    #[error("{file} is left over from a crash")]
    Stray {
        /// The file.
        file: String,
    },
}

/// The content of the tables, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Live runs.
    pub runs: usize,
    /// Partitions in them.
    pub partitions: usize,
    /// Batches in these partitions.
    pub batches: u64,
    /// Bytes of the batches.
    pub bytes: u64,
    /// Checkpoints.
    pub checkpoints: usize,
    /// Whether the manifest can be read: without it the content of the runs is unknown.
    pub has_manifest: bool,
    /// For each group, the last entry whose batches are in runs.
    pub flushed: BTreeMap<RaftGroupId, LogId>,
    /// For each group, the last entry that its checkpoint covers.
    pub checkpointed: BTreeMap<RaftGroupId, LogId>,
    /// For each group, the first bytes of its checkpoint.
    pub checkpoint_heads: BTreeMap<RaftGroupId, Bytes>,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
}

/// Reads and verifies every byte of runs, manifest and checkpoints. Blocks for as long as that takes.
pub fn verify(disk: &Arc<dyn Disk>) -> Verified {
    let mut verified = Verified::default();
    let names = match disk.list(Path::new(DIR)) {
        Ok(names) => names,
        Err(error) => {
            verified.findings.push(OpenError::from(DiskError::new(Path::new(DIR), &error)).into());
            return verified;
        }
    };
    match manifest::load(&**disk).and_then(|manifest| manifest.ok_or_else(manifest::missing)) {
        Ok(manifest) => verified.manifest(disk, &manifest, &names),
        Err(error) => verified.findings.push(error.into()),
    }
    for group in names.iter().filter_map(|(name, _)| checkpoint_group(name)) {
        match checkpoint::open(&**disk, group) {
            Ok(found) => {
                verified.checkpoints += 1;
                let Some(found) = found else { continue };
                let mut head = Vec::new();
                if let Err(error) = found.state().take(CHECKPOINT_HEAD_BYTES).read_to_end(&mut head) {
                    let error = CheckpointError::from(DiskError::new(&checkpoint::path(group), &error));
                    verified.findings.push(error.into());
                }
                verified.checkpointed.insert(group, found.id());
                verified.checkpoint_heads.insert(group, head.into());
            }
            Err(error) => verified.findings.push(error.into()),
        }
    }
    verified
}

fn checkpoint_group(name: &str) -> Option<RaftGroupId> {
    let digits = name.strip_prefix("checkpoint-")?;
    u32::from_str_radix(digits, 16).ok().map(RaftGroupId)
}

impl Verified {
    fn manifest(&mut self, disk: &Arc<dyn Disk>, manifest: &Manifest, names: &[(String, u64)]) {
        self.has_manifest = true;
        self.flushed = manifest.flushed.clone();
        let files = RunFiles::new(disk.clone(), READ_BYTES, OPEN_FILES_MAX);
        let mut partitions = BTreeSet::new();
        for (&id, record) in &manifest.runs {
            match read_index(&**disk, id, record) {
                Ok(index) => {
                    self.runs += 1;
                    let (_, parts) = index.into_run(record.file_bytes);
                    partitions.extend(parts.iter().map(|(partition, _)| *partition));
                    parts.iter().for_each(|(partition, part)| self.part(&files, *partition, part));
                }
                Err(error) => self.findings.push(error.into()),
            }
        }
        self.partitions = partitions.len();
        let stray = |name: &&String| run_id(name).is_some_and(|id| !manifest.runs.contains_key(&id));
        let strays = names.iter().map(|(name, _)| name).filter(stray);
        self.findings.extend(strays.map(|name| Finding::Stray { file: format!("{DIR}/{name}") }));
    }

    fn part(&mut self, files: &RunFiles, partition: PartitionId, part: &Part) {
        for region in 0..part.regions as usize {
            if let Err(error) = self.region(files, partition, part, region) {
                self.findings.push(error.into());
            }
        }
    }

    fn region(
        &mut self,
        files: &RunFiles,
        partition: PartitionId,
        part: &Part,
        region: usize,
    ) -> Result<(), ReadError> {
        let span = part.span(region..region + 1);
        let bytes = files.read(&part.run, part.position + span.start as u64, span.len());
        let bytes = bytes.map_err(|e| part.unreadable(partition, &e))?;
        part.verify(partition, region..region + 1, &bytes)?;
        for batch in Batches::of(&bytes) {
            let (range, _) = batch.map_err(|reason| part.damaged(partition, span.start, reason))?;
            if check_crc(&bytes[range.clone()]).is_err() {
                let reason = "the batch has a checksum mismatch, although the run is as it was written";
                let damage =
                    Damage::new(&part.run.path(), part.position + (span.start + range.start) as u64, reason);
                return Err(ReadError::Damaged { partition, damage });
            }
            self.batches += 1;
            self.bytes += range.len() as u64;
        }
        Ok(())
    }
}
