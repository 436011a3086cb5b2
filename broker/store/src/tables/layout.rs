//! The on-disk format of runs. All numbers are little endian; `docs/formats.md` describes it for readers in
//! other languages.

use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};
use millstream_model::PartitionId;

/// The directory of runs, manifest and checkpoints in the store's directory.
pub(super) const DIR: &str = "tables";

const HEAD_MAGIC: [u8; 7] = *b"MILLRUN";
const FOOT_MAGIC: [u8; 7] = *b"MILLEND";
/// The version that is written.
const VERSION: u8 = 2;
/// The previous version, whose regions have no age and whose batches may have wrong timestamps in their
/// headers.
pub(super) const VERSION_UNTRUE_TIMES: u8 = 1;
/// Batches start after the head.
pub(super) const HEAD_BYTES: usize = 32;
/// Length of the footer at the end of the file.
pub(super) const FOOTER_BYTES: usize = 48;
/// Length of a part in the index.
pub(super) const PART_BYTES: usize = 64;

/// Length of a region in the index.
pub(super) fn region_bytes(version: u8) -> usize {
    if version == VERSION_UNTRUE_TIMES { 24 } else { 32 }
}

pub(super) fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    u64_at(bytes, at) as i64
}

/// Path of a run in the store's directory.
pub(super) fn run_path(id: u64) -> PathBuf {
    Path::new(DIR).join(format!("run-{id:016x}.run"))
}

/// The id in a run's file name; `None` for any other file.
pub(super) fn run_id(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("run-")?.strip_suffix(".run")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The first bytes of a run.
pub(super) fn head(id: u64) -> [u8; HEAD_BYTES] {
    head_of(id, VERSION)
}

/// The same for a run of any version.
pub(super) fn head_of(id: u64, version: u8) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..7].copy_from_slice(&HEAD_MAGIC);
    head[7] = version;
    head[8..16].copy_from_slice(&id.to_le_bytes());
    let crc = crc(&head[..28]);
    head[28..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A region: consecutive batches that are read and verified together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Offset of the first batch.
    pub(super) base_offset: i64,
    /// Largest timestamp of its batches' records.
    pub(super) max_timestamp: i64,
    /// Time from which the age of its youngest batch counts.
    pub(super) age_from_ms: i64,
    /// Bytes from the start of the part; the region ends at the next one or at the part's end.
    pub(super) position: u32,
    /// CRC-32C of all its bytes.
    pub(super) crc: u32,
}

impl Region {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.base_offset.to_le_bytes());
        out.extend(self.max_timestamp.to_le_bytes());
        out.extend(self.age_from_ms.to_le_bytes());
        out.extend(self.position.to_le_bytes());
        out.extend(self.crc.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8]) -> Region {
        Region {
            base_offset: i64_at(bytes, 0),
            max_timestamp: i64_at(bytes, 8),
            age_from_ms: i64_at(bytes, 16),
            position: u32_at(bytes, 24),
            crc: u32_at(bytes, 28),
        }
    }

    /// Reads a region of a run of version 1 that was written at `written_ms`. Its timestamps came from
    /// unverified headers: no record in it is younger than the run, apart from those with a future timestamp.
    pub(super) fn read_untrue(bytes: &[u8], written_ms: i64) -> Region {
        Region {
            base_offset: i64_at(bytes, 0),
            max_timestamp: i64_at(bytes, 8).max(written_ms),
            age_from_ms: written_ms,
            position: u32_at(bytes, 16),
            crc: u32_at(bytes, 20),
        }
    }
}

/// The part of one partition in a run.
///
/// A part covers all offsets of `start..end`, whether or not it has batches for them: it replaces the parts
/// of these offsets in older runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartEntry {
    pub(super) partition: PartitionId,
    pub(super) start: i64,
    pub(super) end: i64,
    /// Largest timestamp of its batches; `i64::MIN` if there is none.
    pub(super) max_timestamp: i64,
    /// The earliest delete horizon of its tombstones; `i64::MAX` if there is none.
    pub(super) delete_horizon: i64,
    /// Offsets below this one have been compacted.
    pub(super) clean_end: i64,
    /// Where its batches start, in bytes from the start of the file.
    pub(super) position: u64,
    pub(super) bytes: u32,
    pub(super) regions: u32,
}

impl PartEntry {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.partition.0.to_le_bytes());
        for number in [self.start, self.end, self.max_timestamp, self.delete_horizon, self.clean_end] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.position.to_le_bytes());
        out.extend(self.bytes.to_le_bytes());
        out.extend(self.regions.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8]) -> PartEntry {
        PartEntry {
            partition: PartitionId(u64_at(bytes, 0)),
            start: i64_at(bytes, 8),
            end: i64_at(bytes, 16),
            max_timestamp: i64_at(bytes, 24),
            delete_horizon: i64_at(bytes, 32),
            clean_end: i64_at(bytes, 40),
            position: u64_at(bytes, 48),
            bytes: u32_at(bytes, 56),
            regions: u32_at(bytes, 60),
        }
    }
}

/// The last bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) version: u8,
    pub(super) run: u64,
    /// Where the index starts, in bytes from the start of the file.
    pub(super) index_position: u64,
    pub(super) parts: u32,
    pub(super) regions: u32,
    /// CRC-32C of everything from the index to the footer, padding included.
    pub(super) index_crc: u32,
}

impl Footer {
    /// The footer of a newly written run.
    pub(super) fn new(run: u64, index_position: u64, (parts, regions): (u32, u32), index_crc: u32) -> Footer {
        Footer { version: VERSION, run, index_position, parts, regions, index_crc }
    }

    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[..8].copy_from_slice(&self.run.to_le_bytes());
        out[8..16].copy_from_slice(&self.index_position.to_le_bytes());
        out[16..20].copy_from_slice(&self.parts.to_le_bytes());
        out[20..24].copy_from_slice(&self.regions.to_le_bytes());
        out[24..28].copy_from_slice(&self.index_crc.to_le_bytes());
        out[36..43].copy_from_slice(&FOOT_MAGIC);
        out[43] = self.version;
        let crc = crc(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Footer> {
        let bytes = bytes.get(..FOOTER_BYTES)?;
        let whole = bytes[36..43] == FOOT_MAGIC && u32_at(bytes, 44) == crc(&bytes[..44]);
        let known = (VERSION_UNTRUE_TIMES..=VERSION).contains(&bytes[43]);
        (whole && known).then(|| Footer {
            version: bytes[43],
            run: u64_at(bytes, 0),
            index_position: u64_at(bytes, 8),
            parts: u32_at(bytes, 16),
            regions: u32_at(bytes, 20),
            index_crc: u32_at(bytes, 24),
        })
    }

    /// Length of the index, without padding.
    pub(super) fn index_bytes(&self) -> u64 {
        u64::from(self.parts) * PART_BYTES as u64
            + u64::from(self.regions) * region_bytes(self.version) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_feet_read_back() {
        let part = PartEntry {
            partition: PartitionId(7),
            start: 5,
            end: 60,
            max_timestamp: -1,
            delete_horizon: i64::MAX,
            clean_end: i64::MIN,
            position: 1 << 40,
            bytes: 77,
            regions: 3,
        };
        let region = Region {
            base_offset: 9,
            max_timestamp: i64::MIN,
            age_from_ms: 44,
            position: 12,
            crc: 0xdead_beef,
        };
        let mut out = Vec::new();
        part.write(&mut out);
        region.write(&mut out);
        assert_eq!(out.len(), PART_BYTES + region_bytes(VERSION));
        assert_eq!(PartEntry::read(&out), part);
        assert_eq!(Region::read(&out[PART_BYTES..]), region);
        let footer =
            Footer { version: VERSION, run: 3, index_position: 4096, parts: 1, regions: 1, index_crc: 5 };
        assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        for at in 0..FOOTER_BYTES {
            let mut bytes = footer.encode();
            bytes[at] ^= 1;
            assert_eq!(Footer::decode(&bytes), None, "flipped {at}");
        }
    }

    #[test]
    fn only_a_runs_name_has_an_id() {
        assert_eq!(run_id("run-000000000000001f.run"), Some(31));
        assert_eq!(run_path(31), Path::new("tables/run-000000000000001f.run"));
        for name in ["run-1f.run", "manifest", "run-000000000000001f.run.new", "run-00000000000000zz.run"] {
            assert_eq!(run_id(name), None, "{name}");
        }
    }
}
