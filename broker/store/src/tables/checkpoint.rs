//! Checkpoints: the state of one group's machine, in a file of its own.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use millstream_model::{GroupId, LogId};

use super::{
    error::{CheckpointError, Damage},
    layout::{DIR, u32_at, u64_at},
    manifest::{read_file, replace_file},
};
use crate::disk::Disk;

const MAGIC: [u8; 8] = *b"MILLCKP\x01";
const HEAD_BYTES: usize = 40;
/// The CRC is the last field of the head.
const CRC_AT: usize = 36;

/// The file of a group's checkpoint in the store's directory.
pub(super) fn path(group: GroupId) -> PathBuf {
    Path::new(DIR).join(format!("checkpoint-{:08x}", group.0))
}

fn crc_of(file: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&file[..CRC_AT]);
    digest.update(&file[HEAD_BYTES..]);
    digest.finalize() as u32
}

fn encode(group: GroupId, id: LogId, state: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + state.len());
    out.extend(MAGIC);
    out.extend(id.term.to_le_bytes());
    out.extend(id.index.to_le_bytes());
    out.extend((state.len() as u64).to_le_bytes());
    out.extend(group.0.to_le_bytes());
    out.extend([0; 4]);
    out.extend(state);
    let crc = crc_of(&out);
    out[CRC_AT..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(group: GroupId, file: Vec<u8>) -> Result<(LogId, Bytes), &'static str> {
    if file.len() < HEAD_BYTES {
        return Err("it is shorter than a checkpoint");
    }
    if crc_of(&file) != u32_at(&file, CRC_AT) {
        return Err("the checksum does not fit");
    }
    if file[..8] != MAGIC {
        return Err("it is not a checkpoint of this version");
    }
    if u64_at(&file, 24) != (file.len() - HEAD_BYTES) as u64 {
        return Err("it does not have the length that it says");
    }
    if u32_at(&file, 32) != group.0 {
        return Err("it is another group's");
    }
    let id = LogId::new(u64_at(&file, 8), u64_at(&file, 16));
    Ok((id, Bytes::from(file).slice(HEAD_BYTES..)))
}

/// Writes a checkpoint; when this returns it is durable and the one before is gone.
pub(super) fn save(disk: &dyn Disk, group: GroupId, id: LogId, state: &[u8]) -> Result<(), CheckpointError> {
    Ok(replace_file(disk, &path(group), &encode(group, id, state))?)
}

/// Reads the newest checkpoint; `None` if there never was one.
pub(super) fn load(disk: &dyn Disk, group: GroupId) -> Result<Option<(LogId, Bytes)>, CheckpointError> {
    let path = path(group);
    let Some(file) = read_file(disk, &path)? else { return Ok(None) };
    let decoded = decode(group, file);
    decoded
        .map(Some)
        .map_err(|reason| CheckpointError::Damaged { group, damage: Damage::new(&path, 0, reason) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(17);

    #[test]
    fn it_reads_back_for_its_group_only() {
        for state in [&b""[..], b"some state"] {
            let file = encode(GROUP, LogId::new(2, 3), state);
            assert_eq!(decode(GROUP, file.clone()), Ok((LogId::new(2, 3), Bytes::copy_from_slice(state))));
            assert!(decode(GroupId(16), file).is_err());
        }
    }

    #[test]
    fn every_flip_and_every_cut_is_seen() {
        let whole = encode(GROUP, LogId::new(2, 3), b"some state");
        for at in 0..whole.len() {
            assert!(decode(GROUP, whole[..at].to_vec()).is_err(), "cut at {at}");
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(decode(GROUP, bytes).is_err(), "flipped {at}");
        }
        assert!(decode(GROUP, [whole, vec![0]].concat()).is_err());
    }
}
