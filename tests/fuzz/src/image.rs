//! Files of a store, described by a short input: where the nonzero bytes are, and which checksums to correct.
//! So a mutation gets past the checksums and reaches the code behind them.
//!
//! The input is a sequence of steps, each one byte and its arguments: 0 begins the next file (number,
//! blocks), 1 writes bytes to it (block, length, what to correct, the bytes). Layouts are those of
//! docs/formats.md, implemented independently.

use crc_fast::{CrcAlgorithm, checksum};

/// Length of a block in bytes.
pub const BLOCK_BYTES: usize = 4096;
const FILE_BLOCKS_MAX: usize = 40;
const FILES_MAX: usize = 6;
const SEGMENT_MAGIC: [u8; 4] = 0x4753_4d4d_u32.to_le_bytes();
const SEGMENT_HEAD_BYTES: usize = 44;
const FRAME_HEAD_BYTES: usize = 40;
const BATCH_HEAD_BYTES: usize = 61;

/// A file that an input describes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct File {
    /// The number in its name.
    pub number: u64,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// CRC-32C.
pub fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A number, if there are enough bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// The same, of eight bytes.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// Writes bytes, if they are within bounds.
pub fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(what.len())) {
        place.copy_from_slice(what);
    }
}

/// Writes the checksum of a range.
fn put_crc(bytes: &mut [u8], at: usize, of: std::ops::Range<usize>) {
    if let Some(stretch) = bytes.get(of) {
        let crc = crc(stretch).to_le_bytes();
        put(bytes, at, &crc);
    }
}

/// What to correct in bytes that are written to a log file.
const FIX_HEAD: u8 = 1;
const FIX_SEGMENT: u8 = 2;
const FIX_FRAMES: u8 = 4;
const FIX_LIFE: u8 = 8;

fn fix_log(file: &mut File, at: usize, len: usize, fix: u8) {
    let bytes = &mut file.bytes;
    if fix & FIX_HEAD != 0 {
        put(bytes, 8, &file.number.to_le_bytes());
        put_crc(bytes, 40, 0..40);
    }
    if fix & FIX_FRAMES != 0 {
        let mut frame = at + SEGMENT_HEAD_BYTES;
        while let Some(payload) = u32_at(bytes, frame).filter(|_| frame < at + len) {
            let end = frame + FRAME_HEAD_BYTES + payload as usize;
            let Some(whole) = bytes.get(frame..end) else { break };
            let crc = crc(&[&whole[..4], &whole[8..]].concat()).to_le_bytes();
            put(bytes, frame + 4, &crc);
            frame = end;
        }
    }
    if fix & FIX_LIFE != 0 {
        let life = u64_at(bytes, 24).unwrap_or(0).to_le_bytes();
        put(bytes, at + 32, &life);
    }
    if fix & FIX_SEGMENT != 0 {
        put(bytes, at, &SEGMENT_MAGIC);
        put(bytes, at + 8, &(file.number << 32 | at as u64).to_le_bytes());
        put_crc(bytes, at + 40, at..at + 40);
    }
}

/// A cursor over the input.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// The log files that an input describes.
pub fn log_files(input: &[u8]) -> Vec<File> {
    files(input, fix_log)
}

/// The runs that an input describes; corrections are made at their ends.
pub fn run_files(input: &[u8]) -> Vec<File> {
    let mut fixes = 0;
    let mut found = files(input, |_, _, _, fix| fixes |= fix);
    found.iter_mut().for_each(|file| fix_run(file, fixes));
    found
}

fn files(input: &[u8], mut fix: impl FnMut(&mut File, usize, usize, u8)) -> Vec<File> {
    let (mut steps, mut found) = (Steps(input), Vec::<File>::new());
    while let Some(step) = steps.byte() {
        if step & 1 == 0 {
            let (Some(number), Some(blocks)) = (steps.byte(), steps.byte()) else { break };
            if found.len() == FILES_MAX {
                break;
            }
            let blocks = usize::from(blocks).min(FILE_BLOCKS_MAX);
            found.push(File { number: number.into(), bytes: vec![0; blocks * BLOCK_BYTES] });
            continue;
        }
        let (Some(block), Some(high), Some(low), Some(what)) =
            (steps.byte(), steps.byte(), steps.byte(), steps.byte())
        else {
            break;
        };
        let bytes = steps.take(u16::from_be_bytes([high, low]).into()).to_vec();
        let Some(file) = found.last_mut() else { continue };
        let at = usize::from(block) * BLOCK_BYTES;
        put(&mut file.bytes, at, &bytes);
        fix(file, at, bytes.len(), what);
    }
    found
}

/// Describes files so that [`log_files`] or [`run_files`] return them.
pub fn describe(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for file in files {
        out.extend([0, file.number as u8, (file.bytes.len() / BLOCK_BYTES) as u8]);
        let mut extents: Vec<(usize, Vec<u8>)> = Vec::new();
        for (block, bytes) in file.bytes.chunks(BLOCK_BYTES).enumerate() {
            let begins = block == 0 || bytes.starts_with(&SEGMENT_MAGIC);
            match extents.last_mut() {
                // A longer one would not fit its length.
                Some((_, last)) if !begins && last.len() < 14 * BLOCK_BYTES => last.extend(bytes),
                _ => extents.push((block, bytes.to_vec())),
            }
        }
        for (block, mut bytes) in extents {
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            if !bytes.is_empty() {
                let fix = if block == 0 { FIX_HEAD } else { FIX_SEGMENT | FIX_FRAMES | FIX_LIFE };
                out.extend([1, block as u8, (bytes.len() >> 8) as u8, bytes.len() as u8, fix]);
                out.extend(bytes);
            }
        }
    }
    out
}

const RUN_HEAD_BYTES: usize = 32;
const RUN_FOOTER_BYTES: usize = 48;
const PART_BYTES: usize = 64;
const REGION_BYTES: usize = 32;

/// Corrects head, batches, regions, index and footer, by the bits of `fix`.
fn fix_run(file: &mut File, fix: u8) {
    let (id, bytes) = (file.number.to_le_bytes(), &mut file.bytes);
    let Some(footer) = bytes.len().checked_sub(RUN_FOOTER_BYTES) else { return };
    put(bytes, 0, b"MILLRUN\x02");
    put(bytes, 8, &id);
    put_crc(bytes, 28, 0..28);
    let index = u64_at(bytes, footer + 8).unwrap_or(0).min(footer as u64) as usize;
    if fix & 1 != 0 {
        fix_regions(bytes, index, footer);
    }
    put_crc(bytes, footer + 24, index..footer);
    put(bytes, footer, &id);
    put(bytes, footer + 36, b"MILLEND\x02");
    put_crc(bytes, footer + 44, footer..footer + 44);
}

/// Corrects the checksum of each region with a valid position.
fn fix_regions(bytes: &mut [u8], index: usize, footer: usize) {
    let parts = u32_at(bytes, footer + 16).unwrap_or(0).min(64) as usize;
    let mut region = index + parts * PART_BYTES;
    for part in (index..).step_by(PART_BYTES).take(parts) {
        let (Some(position), Some(len), Some(regions)) =
            (u64_at(bytes, part + 48), u32_at(bytes, part + 56), u32_at(bytes, part + 60))
        else {
            return;
        };
        for n in 0..regions.min(64) {
            let starts = u32_at(bytes, region + 24);
            let ends = if n + 1 < regions { u32_at(bytes, region + REGION_BYTES + 24) } else { Some(len) };
            let (Some(starts), Some(ends)) = (starts, ends) else { return };
            let (from, to) = (
                position.saturating_add(starts.into()) as usize,
                position.saturating_add(ends.into()) as usize,
            );
            if from >= RUN_HEAD_BYTES && from <= to && to <= bytes.len() {
                put_crc(bytes, region + 28, from..to);
            }
            region += REGION_BYTES;
        }
    }
}

/// A manifest that names exactly these runs, each flushed up to entry 1000 of group 1.
pub fn manifest(runs: &[File]) -> Vec<u8> {
    let mut out = b"MILLMAN\x01".to_vec();
    out.extend(1u64.to_le_bytes());
    out.extend(runs.iter().map(|run| run.number + 1).max().unwrap_or(1).to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend((runs.len() as u32).to_le_bytes());
    [1u64, 1, 1000].iter().for_each(|number| out.extend(number.to_le_bytes()));
    for run in runs {
        let footer = run.bytes.len().saturating_sub(RUN_FOOTER_BYTES);
        out.extend(run.number.to_le_bytes());
        out.extend((run.bytes.len() as u64).to_le_bytes());
        out.extend(u32_at(&run.bytes, footer + 24).unwrap_or(0).to_le_bytes());
        out.extend([0; 4]);
    }
    let crc = crc(&out);
    out.extend(crc.to_le_bytes());
    out
}

/// Corrects the checksums of record batches, for as long as their lengths can be followed.
pub fn fix_batches(records: &mut [u8]) {
    let mut at = 0;
    while let Some(length) = records.get(at + 8..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at.saturating_add(12).saturating_add(u32::from_be_bytes(*length) as usize);
        if end < at + BATCH_HEAD_BYTES || end > records.len() {
            return;
        }
        let crc = crc(&records[at + 21..end]).to_be_bytes();
        put(records, at + 17, &crc);
        at = end;
    }
}
