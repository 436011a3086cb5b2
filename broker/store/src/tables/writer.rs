//! Writes runs: batches in order, then the index, then the footer, in large direct writes.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use crc_fast::{CrcAlgorithm, Digest};
use millstream_model::{PartitionId, batch::BatchHeader};

use super::{
    error::{DiskError, WriteError},
    layout::{FOOTER_BYTES, Footer, HEAD_BYTES, PartEntry, Region, crc, head, run_path},
    run::Index,
};
use crate::disk::{AlignedBuf, BLOCK_BYTES, Disk, DiskFile, OpenMode, align_up};

/// Bytes of one write.
const WRITE_BYTES: usize = 1 << 20;
/// Number of regions that a part is divided into, if it is large enough for large regions.
const REGIONS_PER_PART: u64 = 64;
/// Regions of large parts are up to this many times larger than those of small ones, so that their index
/// stays small.
const REGION_GROWTH_MAX: u64 = 4;

/// A run that is being written. Dropping it unfinished leaves a file that no manifest names.
pub(super) struct RunWriter {
    id: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    buffer: AlignedBuf,
    filled: usize,
    /// Where in the buffer the bytes start that are not in the open region's checksum yet.
    unsummed: usize,
    /// Bytes written to the file.
    written: u64,
    /// Bytes of a region of a small part.
    region_bytes: usize,
    part_bytes_max: u64,
    parts: Vec<PartEntry>,
    regions: Vec<Region>,
    open: Option<OpenPart>,
}

struct OpenPart {
    entry: PartEntry,
    region_bytes: u64,
    /// The open region, and its running checksum.
    region: Option<(Region, Digest)>,
    last_end: i64,
}

/// A part to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewPart {
    pub(super) partition: PartitionId,
    pub(super) start: i64,
    pub(super) clean_end: i64,
    /// Its expected size in bytes.
    pub(super) bytes_expected: u64,
}

/// A run that is durable but not in the manifest yet.
pub(super) struct Written {
    pub(super) index: Index,
    pub(super) file_bytes: u64,
}

impl RunWriter {
    pub(super) fn create(
        disk: &dyn Disk,
        id: u64,
        (region_bytes, part_bytes_max): (usize, u64),
    ) -> Result<RunWriter, WriteError> {
        let path = run_path(id);
        let file = disk.open(&path, OpenMode::DirectCreate).map_err(|e| DiskError::new(&path, &e))?;
        let mut writer = RunWriter {
            id,
            path,
            file,
            buffer: AlignedBuf::zeroed(WRITE_BYTES),
            filled: 0,
            unsummed: 0,
            written: 0,
            region_bytes,
            part_bytes_max,
            parts: Vec::new(),
            regions: Vec::new(),
            open: None,
        };
        writer.put(&head(id))?;
        Ok(writer)
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.written + self.filled as u64
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == self.buffer.len() {
                self.write_out()?;
            }
        }
        Ok(())
    }

    /// Extends the open region's checksum to the end of the buffer: in large steps, while the bytes are in
    /// the processor's cache.
    fn sum_up(&mut self) {
        if let Some((_, digest)) = self.open.as_mut().and_then(|part| part.region.as_mut()) {
            digest.update(&self.buffer[self.unsummed..self.filled]);
        }
        self.unsummed = self.filled;
    }

    /// Ends the open region, if there is one.
    fn end_region(&mut self) {
        self.sum_up();
        let ended = self.open.as_mut().and_then(|part| part.region.take());
        self.regions.extend(ended.map(|(region, digest)| Region { crc: digest.finalize() as u32, ..region }));
    }

    /// Writes the buffer, whose filled part is a multiple of a block.
    fn write_out(&mut self) -> Result<(), WriteError> {
        self.sum_up();
        let written = self.file.write_at(&[IoSlice::new(&self.buffer[..self.filled])], self.written);
        written.map_err(|e: io::Error| DiskError::new(&self.path, &e))?;
        self.written += self.filled as u64;
        self.filled = 0;
        self.unsummed = 0;
        Ok(())
    }

    /// Starts a part. Parts must come sorted by partition and offset.
    pub(super) fn start_part(&mut self, part: NewPart) {
        debug_assert!(self.open.is_none(), "one part at a time");
        let small = self.region_bytes as u64;
        let entry = PartEntry {
            partition: part.partition,
            start: part.start,
            end: part.start,
            max_timestamp: i64::MIN,
            delete_horizon: i64::MAX,
            clean_end: part.clean_end,
            position: self.bytes(),
            bytes: 0,
            regions: 0,
        };
        let region_bytes = (part.bytes_expected / REGIONS_PER_PART).clamp(small, small * REGION_GROWTH_MAX);
        self.open = Some(OpenPart { entry, region_bytes, region: None, last_end: part.start });
    }

    /// Adds a batch to the part. The header has the largest timestamp of the batch's records, whatever the
    /// bytes say.
    pub(super) fn push(
        &mut self,
        batch: &[u8],
        header: &BatchHeader,
        age_from_ms: i64,
    ) -> Result<(), WriteError> {
        let part = self.open.as_ref().expect("a part is started before batches come");
        if u64::from(part.entry.bytes) + batch.len() as u64 > self.part_bytes_max && part.entry.bytes > 0 {
            self.split_part(header.base_offset);
        }
        let part = self.open.as_mut().expect("a part is started before batches come");
        if header.base_offset < part.last_end || header.total_bytes() != batch.len() {
            return Err(WriteError::NotABatch {
                partition: part.entry.partition,
                offset: header.base_offset,
            });
        }
        let starts = part.region.is_none();
        let full = part.add(batch, header, age_from_ms);
        if starts {
            self.unsummed = self.filled;
        }
        self.put(batch)?;
        if full {
            self.end_region();
        }
        Ok(())
    }

    /// Continues in another part of the same partition, so that none exceeds its bound.
    fn split_part(&mut self, at: i64) {
        let Some(part) = &self.open else { return };
        let next = NewPart {
            partition: part.entry.partition,
            start: at,
            clean_end: part.entry.clean_end,
            bytes_expected: part.region_bytes * REGIONS_PER_PART,
        };
        self.end_part(at);
        self.start_part(next);
    }

    /// Ends the part, which covers all offsets below `end`.
    pub(super) fn end_part(&mut self, end: i64) {
        self.end_region();
        let Some(mut part) = self.open.take() else { return };
        if end <= part.entry.start {
            // It was continued in another run before it had a batch.
            debug_assert!(part.entry.bytes == 0, "batches have offsets");
            return;
        }
        part.entry.end = end;
        self.parts.push(part.entry);
    }

    /// Writes index and footer; on return the file's content is durable, but not yet its name.
    pub(super) fn finish(mut self) -> Result<Written, WriteError> {
        debug_assert!(self.open.is_none(), "the last part is ended");
        let index_position = self.bytes();
        let mut index = Vec::with_capacity(self.parts.len() * 64 + self.regions.len() * 32 + BLOCK_BYTES);
        self.parts.iter().for_each(|part| part.write(&mut index));
        self.regions.iter().for_each(|region| region.write(&mut index));
        let end = align_up((index_position as usize) + index.len() + FOOTER_BYTES);
        index.resize(end - FOOTER_BYTES - index_position as usize, 0);
        let counts = (self.parts.len() as u32, self.regions.len() as u32);
        let footer = Footer::new(self.id, index_position, counts, crc(&index));
        self.put(&index)?;
        self.put(&footer.encode())?;
        if self.filled > 0 {
            self.write_out()?;
        }
        self.file.sync().map_err(|e| DiskError::new(&self.path, &e))?;
        debug_assert!(index_position >= HEAD_BYTES as u64 && self.written == end as u64);
        let index = Index { footer, parts: self.parts, regions: self.regions };
        Ok(Written { index, file_bytes: self.written })
    }
}

impl OpenPart {
    /// Adds a batch to the part's totals; returns whether it fills the region.
    fn add(&mut self, batch: &[u8], header: &BatchHeader, age_from_ms: i64) -> bool {
        let entry = &mut self.entry;
        let (region, _) = self.region.get_or_insert_with(|| {
            let region = Region {
                base_offset: header.base_offset,
                max_timestamp: i64::MIN,
                age_from_ms: i64::MIN,
                position: entry.bytes,
                crc: 0,
            };
            entry.regions += 1;
            (region, Digest::new(CrcAlgorithm::Crc32Iscsi))
        });
        region.max_timestamp = region.max_timestamp.max(header.max_timestamp);
        region.age_from_ms = region.age_from_ms.max(age_from_ms);
        entry.max_timestamp = entry.max_timestamp.max(header.max_timestamp);
        if header.attributes.has_delete_horizon() {
            entry.delete_horizon = entry.delete_horizon.min(header.base_timestamp);
        }
        entry.bytes += batch.len() as u32;
        self.last_end = header.next_offset();
        u64::from(entry.bytes - region.position) >= self.region_bytes
    }
}
