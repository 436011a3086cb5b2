//! Checkpoints: the state of one group's machine, one file per group.

use std::{
    io::{self, IoSlice, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};
use millstream_model::{LogId, RaftGroupId};

use super::{
    error::{CheckpointError, Damage, DiskError},
    layout::{DIR, u32_at, u64_at},
    manifest::replace_file,
};
use crate::disk::{Disk, DiskFile, OpenMode};

const MAGIC: [u8; 8] = *b"MILLCKP\x01";
const HEAD_BYTES: usize = 40;
/// The CRC is the last field of the head.
const CRC_AT: usize = 36;
const CRC: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;
/// Bytes of a state that are written or verified at once.
const PIECE_BYTES: usize = 256 << 10;

/// The file of a group's checkpoint in the store's directory.
pub(super) fn path(group: RaftGroupId) -> PathBuf {
    Path::new(DIR).join(format!("checkpoint-{:08x}", group.0))
}

fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::new(CRC);
    digest.update(bytes);
    digest
}

/// The head of a checkpoint of a state with this length and CRC.
fn head(group: RaftGroupId, id: LogId, state_bytes: u64, state_crc: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&id.term.to_le_bytes());
    head[16..24].copy_from_slice(&id.index.to_le_bytes());
    head[24..32].copy_from_slice(&state_bytes.to_le_bytes());
    head[32..CRC_AT].copy_from_slice(&group.0.to_le_bytes());
    // The CRC covers the head and the state, and the head is known last.
    let crc = checksum_combine(CRC, digest(&head[..CRC_AT]).finalize(), state_crc, state_bytes) as u32;
    head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A group's checkpoint in its file, verified when it was written or opened. Stays readable after a newer one
/// replaces it.
#[derive(Clone)]
pub struct Checkpoint {
    id: LogId,
    file: Arc<dyn DiskFile>,
    state_bytes: u64,
}

impl Checkpoint {
    /// The last log entry that it covers.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// A reader of the machine's state.
    pub fn state(&self) -> impl Read + use<> {
        let at = HEAD_BYTES as u64;
        StateReader { file: self.file.clone(), at, end: at + self.state_bytes }
    }
}

struct StateReader {
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
}

impl Read for StateReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min((self.end - self.at).min(usize::MAX as u64) as usize);
        if wanted == 0 {
            return Ok(0);
        }
        match self.file.read_at(&mut buf[..wanted], self.at)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.at += n as u64;
                Ok(n)
            }
        }
    }
}

/// Writes a state in pieces, after the space for its head.
struct StateWriter<'a> {
    file: &'a dyn DiskFile,
    piece: Vec<u8>,
    /// File offset of the next piece.
    at: u64,
    digest: Digest,
}

impl StateWriter<'_> {
    fn write_piece(&mut self) -> io::Result<()> {
        self.digest.update(&self.piece);
        self.file.write_at(&[IoSlice::new(&self.piece)], self.at)?;
        self.at += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }
}

impl Write for StateWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE_BYTES {
            self.write_piece()?;
        }
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.write_piece() }
    }
}

/// Writes a checkpoint with the state that `write` produces; on return it is durable and the previous one is
/// gone.
pub(super) fn save(
    disk: &dyn Disk,
    group: RaftGroupId,
    id: LogId,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Checkpoint, CheckpointError> {
    let write_all = |file: &dyn DiskFile| {
        // Until the state is written, the file has an invalid head.
        file.write_at(&[IoSlice::new(&[0; HEAD_BYTES])], 0)?;
        let (at, digest) = (HEAD_BYTES as u64, Digest::new(CRC));
        let mut state = StateWriter { file, piece: Vec::new(), at, digest };
        write(&mut state)?;
        state.flush()?;
        let state_bytes = state.at - HEAD_BYTES as u64;
        file.write_at(&[IoSlice::new(&head(group, id, state_bytes, state.digest.finalize()))], 0)?;
        Ok(state_bytes)
    };
    let (file, state_bytes) = replace_file(disk, &path(group), write_all)?;
    Ok(Checkpoint { id, file, state_bytes })
}

/// Opens the newest checkpoint and verifies every byte; `None` if there never was one.
pub(super) fn open(disk: &dyn Disk, group: RaftGroupId) -> Result<Option<Checkpoint>, CheckpointError> {
    let path = path(group);
    let file = match disk.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::new(&path, &error).into()),
    };
    match check(group, file).map_err(|error| DiskError::new(&path, &error))? {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(reason) => Err(CheckpointError::Damaged { group, damage: Damage::new(&path, 0, reason) }),
    }
}

/// The inner error says why the file is not a checkpoint.
fn check(group: RaftGroupId, file: Arc<dyn DiskFile>) -> io::Result<Result<Checkpoint, &'static str>> {
    let file_bytes = file.len()?;
    let mut found = [0; HEAD_BYTES];
    if file_bytes < HEAD_BYTES as u64 {
        return Ok(Err("it is shorter than a checkpoint"));
    }
    file.read_exact_at(&mut found, 0)?;
    let id = LogId::new(u64_at(&found, 8), u64_at(&found, 16));
    let checkpoint = Checkpoint { id, state_bytes: file_bytes - HEAD_BYTES as u64, file };
    let mut digest = digest(&found[..CRC_AT]);
    let (mut state, mut piece) = (checkpoint.state(), vec![0; PIECE_BYTES]);
    loop {
        match state.read(&mut piece)? {
            0 => break,
            n => digest.update(&piece[..n]),
        }
    }
    if digest.finalize() as u32 != u32_at(&found, CRC_AT) {
        return Ok(Err("checksum mismatch"));
    }
    if found[..8] != MAGIC {
        return Ok(Err("it is not a checkpoint of this version"));
    }
    if u64_at(&found, 24) != checkpoint.state_bytes {
        return Ok(Err("its length field does not match the file"));
    }
    if u32_at(&found, 32) != group.0 {
        return Ok(Err("it belongs to another group"));
    }
    Ok(Ok(checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    const GROUP: RaftGroupId = RaftGroupId(17);

    fn disk() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_dir(Path::new(DIR)).expect("made");
        disk
    }

    /// Writes a state in pieces of this size.
    fn saved(disk: &SimDisk, state: &[u8], part: usize) {
        let write = |out: &mut dyn Write| state.chunks(part).try_for_each(|part| out.write_all(part));
        save(disk, GROUP, LogId::new(2, 3), write).expect("saved");
    }

    fn read(checkpoint: &Checkpoint) -> Vec<u8> {
        let mut state = Vec::new();
        checkpoint.state().read_to_end(&mut state).expect("readable");
        state
    }

    #[test]
    fn it_reads_back_for_its_group_only() {
        let long: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|n| (n / 7) as u8).collect();
        for (state, part) in
            [(&b""[..], 1), (b"some state", 3), (&long, 1000), (&long[..PIECE_BYTES], 4 * PIECE_BYTES)]
        {
            let disk = disk();
            saved(&disk, state, part);
            let found = open(&disk, GROUP).expect("whole").expect("there");
            assert_eq!(
                (found.id(), read(&found) == state),
                (LogId::new(2, 3), true),
                "{} bytes",
                state.len()
            );
            disk.rename(&path(GROUP), &path(RaftGroupId(16))).expect("renamed");
            assert!(
                open(&disk, RaftGroupId(16)).is_err() && open(&disk, GROUP).is_ok_and(|none| none.is_none())
            );
        }
    }

    #[test]
    fn one_that_is_read_stays_when_it_is_replaced() {
        let disk = disk();
        saved(&disk, b"old", 3);
        let old = open(&disk, GROUP).expect("whole").expect("there");
        saved(&disk, b"newer", 5);
        assert_eq!(read(&old), b"old");
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_old_one() {
        let disk = disk();
        saved(&disk, b"old", 3);
        let fails = |out: &mut dyn Write| out.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(save(&disk, GROUP, LogId::new(2, 4), fails), Err(CheckpointError::Disk(_))));
        assert_eq!(read(&open(&disk, GROUP).expect("whole").expect("there")), b"old");
        assert_eq!(disk.list(Path::new(DIR)).expect("listed").len(), 1, "nothing is left over");
    }

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let disk = disk();
        saved(&disk, b"some state", 10);
        let file = disk.open(&path(GROUP), OpenMode::Create).expect("emptied");
        let whole = [&head(GROUP, LogId::new(2, 3), 10, digest(b"some state").finalize())[..], b"some state"]
            .concat();
        let damaged = |bytes: &[u8]| {
            file.set_len(0).expect("emptied");
            file.write_at(&[IoSlice::new(bytes)], 0).expect("written");
            matches!(open(&disk, GROUP), Err(CheckpointError::Damaged { .. }))
        };
        assert!(!damaged(&whole));
        for at in 0..whole.len() {
            assert!(damaged(&whole[..at]), "cut at {at}");
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(damaged(&bytes), "flipped {at}");
        }
        assert!(damaged(&[whole, vec![0]].concat()));
    }
}
