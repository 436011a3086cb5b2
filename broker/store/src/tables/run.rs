//! Immutable files of batches: what is kept of them in memory, and how they are read.

use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use millstream_model::PartitionId;

use super::{
    error::{Damage, DiskError, OpenError, ReadError},
    layout::{
        FOOTER_BYTES, Footer, HEAD_BYTES, PART_BYTES, PartEntry, Region, VERSION_UNTRUE_TIMES, crc, head_of,
        region_bytes, run_path,
    },
    manifest::RunRecord,
};
use crate::disk::{BLOCK_BYTES, Disk, DiskFile, OpenMode, PooledBuf, align_down, align_up};

/// The tail of a run that is read first when the store opens; small indexes fit into it.
const TAIL_BYTES: usize = 64 << 10;

/// A run in memory.
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) file_bytes: u64,
    pub(super) index_crc: u32,
    /// Whether its batches' headers may have other timestamps than their records.
    pub(super) has_untrue_times: bool,
    /// Bytes of all its batches.
    pub(super) data_bytes: u64,
    pub(super) regions: Box<[Region]>,
    /// Bytes of the live parts, and their number.
    pub(super) live_bytes: AtomicU64,
    pub(super) live_parts: AtomicUsize,
    /// Set after a read error: it is not merged any more, until the next start.
    pub(super) damaged: AtomicBool,
}

impl Run {
    pub(super) fn path(&self) -> PathBuf {
        run_path(self.id)
    }

    /// Dead bytes.
    pub(super) fn dead_bytes(&self) -> u64 {
        self.data_bytes.saturating_sub(self.live_bytes.load(Relaxed))
    }
}

/// The part of one partition; see [`PartEntry`].
#[derive(Clone)]
pub(super) struct Part {
    pub(super) run: Arc<Run>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) max_timestamp: i64,
    pub(super) delete_horizon: i64,
    pub(super) clean_end: i64,
    pub(super) position: u64,
    pub(super) bytes: u32,
    pub(super) regions: u32,
    pub(super) first_region: u32,
}

impl Part {
    pub(super) fn new(run: &Arc<Run>, entry: &PartEntry, first_region: u32) -> Part {
        Part {
            run: run.clone(),
            start: entry.start,
            end: entry.end,
            max_timestamp: entry.max_timestamp,
            delete_horizon: entry.delete_horizon,
            clean_end: entry.clean_end,
            position: entry.position,
            bytes: entry.bytes,
            regions: entry.regions,
            first_region,
        }
    }

    pub(super) fn regions(&self) -> &[Region] {
        &self.run.regions[self.first_region as usize..(self.first_region + self.regions) as usize]
    }

    /// Byte range of consecutive regions, from the start of the part.
    pub(super) fn span(&self, regions: Range<usize>) -> Range<usize> {
        let all = self.regions();
        let at = |region: usize| all.get(region).map_or(self.bytes, |r| r.position) as usize;
        at(regions.start)..at(regions.end)
    }

    /// Number of the region that contains `offset`, or of the first one.
    pub(super) fn region_of(&self, offset: i64) -> usize {
        self.regions().partition_point(|region| region.base_offset <= offset).saturating_sub(1)
    }

    /// Offset after those that a region covers.
    pub(super) fn region_end(&self, region: usize) -> i64 {
        self.regions().get(region + 1).map_or(self.end, |next| next.base_offset)
    }

    /// Bytes of the regions that are not entirely below `offset`.
    pub(super) fn bytes_above(&self, offset: i64) -> u64 {
        if offset <= self.start || self.regions == 0 {
            return u64::from(self.bytes);
        }
        if offset >= self.end {
            return 0;
        }
        self.span(self.region_of(offset)..self.regions as usize).len() as u64
    }

    /// Verifies consecutive regions that were read.
    pub(super) fn verify(
        &self,
        partition: PartitionId,
        regions: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), ReadError> {
        let from = self.span(regions.clone()).start;
        for region in regions {
            let span = self.span(region..region + 1);
            if crc(&bytes[span.start - from..span.end - from]) != self.regions()[region].crc {
                return Err(self.damaged(partition, span.start, "checksum mismatch"));
            }
        }
        Ok(())
    }

    pub(super) fn damaged(&self, partition: PartitionId, at: usize, reason: &'static str) -> ReadError {
        self.run.damaged.store(true, Relaxed);
        let damage = Damage::new(&self.run.path(), self.position + at as u64, reason);
        ReadError::Damaged { partition, damage }
    }

    pub(super) fn unreadable(&self, partition: PartitionId, error: &io::Error) -> ReadError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged(partition, 0, "the file is shorter than it was written");
        }
        self.run.damaged.store(true, Relaxed);
        ReadError::Disk { partition, error: DiskError::new(&self.run.path(), error) }
    }
}

/// Reads `len` bytes at `position`, at any alignment, with direct reads.
pub(super) fn read_window(
    file: &dyn DiskFile,
    position: u64,
    len: usize,
    take: impl FnOnce(usize) -> PooledBuf,
) -> io::Result<Bytes> {
    let start = align_down(position as usize) as u64;
    let skip = (position - start) as usize;
    let window = align_up(skip + len).max(BLOCK_BYTES);
    let mut buffer = take(window);
    let memory = &mut buffer.bytes_mut()[..window];
    let mut done = 0;
    while done < memory.len() {
        let n = file.read_at(&mut memory[done..], start + done as u64)?;
        done += n;
        // Direct reads return whole blocks, except at the end of a truncated file.
        if n == 0 || (done < memory.len() && !n.is_multiple_of(BLOCK_BYTES) && file.is_direct()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.into_bytes(skip..skip + len))
}

/// A run's index, read or just written.
pub(super) struct Index {
    pub(super) footer: Footer,
    pub(super) parts: Vec<PartEntry>,
    pub(super) regions: Vec<Region>,
}

impl Index {
    /// The run and its parts in memory.
    pub(super) fn into_run(self, file_bytes: u64) -> (Arc<Run>, Vec<(PartitionId, Part)>) {
        let run = Arc::new(Run {
            id: self.footer.run,
            file_bytes,
            index_crc: self.footer.index_crc,
            has_untrue_times: self.footer.version == VERSION_UNTRUE_TIMES,
            data_bytes: self.parts.iter().map(|part| u64::from(part.bytes)).sum(),
            regions: self.regions.into(),
            live_bytes: AtomicU64::new(0),
            live_parts: AtomicUsize::new(0),
            damaged: AtomicBool::new(false),
        });
        let mut first_region = 0;
        let parts = self.parts.iter().map(|entry| {
            let part = Part::new(&run, entry, first_region);
            first_region += entry.regions;
            (entry.partition, part)
        });
        let parts = parts.collect();
        (run, parts)
    }

    /// Whether the entries are consistent: only a bug of the writer, not the disk, would break this.
    fn is_consistent(&self) -> bool {
        let mut position = HEAD_BYTES as u64;
        let mut regions = self.regions.iter();
        for part in &self.parts {
            let mut last = None;
            if part.regions as usize > regions.len() {
                return false;
            }
            for region in regions.by_ref().take(part.regions as usize) {
                let rises = last.map_or(region.position == 0, |last| region.position > last);
                if !rises || region.position >= part.bytes {
                    return false;
                }
                last = Some(region.position);
            }
            if part.position != position || part.start >= part.end || (part.regions == 0) != (part.bytes == 0)
            {
                return false;
            }
            position += u64::from(part.bytes);
        }
        let sorted = self.parts.is_sorted_by(|a, b| (a.partition, a.end) <= (b.partition, b.start));
        sorted && regions.len() == 0 && position <= self.footer.index_position
    }
}

/// Reads and verifies the index of a run.
pub(super) fn read_index(disk: &dyn Disk, id: u64, record: &RunRecord) -> Result<Index, OpenError> {
    let path = run_path(id);
    let file_bytes = record.file_bytes;
    let file = disk.open(&path, OpenMode::DirectRead).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { file: path.display().to_string() },
        _ => DiskError::new(&path, &e).into(),
    })?;
    let damaged = |at: u64, reason| OpenError::from(Damage::new(&path, at, reason));
    let read = |position: u64, len: usize| {
        read_window(&*file, position, len, PooledBuf::alone).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => damaged(position, "the file is shorter than it was written"),
            _ => DiskError::new(&path, &e).into(),
        })
    };
    if file_bytes < BLOCK_BYTES as u64 || !file_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(damaged(0, "the manifest has an impossible length for it"));
    }
    let footer_at = file_bytes - FOOTER_BYTES as u64;
    let tail_at = file_bytes.saturating_sub(TAIL_BYTES as u64);
    let tail = read(tail_at, (file_bytes - tail_at) as usize)?;
    let footer = Footer::decode(&tail[tail.len() - FOOTER_BYTES..]).filter(|footer| footer.run == id);
    let footer = footer.ok_or_else(|| damaged(footer_at, "the footer is not of this run"))?;
    if read(0, HEAD_BYTES)?[..] != head_of(id, footer.version) {
        return Err(damaged(0, "the head is not of this run"));
    }
    if footer.index_position.saturating_add(footer.index_bytes()) > footer_at {
        return Err(damaged(footer_at, "the index does not fit into the file"));
    }
    let index = match footer.index_position.checked_sub(tail_at) {
        Some(skip) => tail.slice(skip as usize..tail.len() - FOOTER_BYTES),
        None => read(footer.index_position, (footer_at - footer.index_position) as usize)?,
    };
    if crc(&index) != footer.index_crc {
        return Err(damaged(footer.index_position, "the index has a checksum mismatch"));
    }
    if footer.index_crc != record.index_crc {
        return Err(damaged(footer.index_position, "it is not the run that the manifest means"));
    }
    let (parts, rest) = index.split_at(footer.parts as usize * PART_BYTES);
    let region_bytes = region_bytes(footer.version);
    let regions = rest[..footer.regions as usize * region_bytes].chunks_exact(region_bytes);
    let mut parts: Vec<PartEntry> = parts.chunks_exact(PART_BYTES).map(PartEntry::read).collect();
    let regions = if footer.version == VERSION_UNTRUE_TIMES {
        let written_ms = file.changed_ms().map_err(|e| DiskError::new(&path, &e))?;
        parts.iter_mut().for_each(|part| part.max_timestamp = part.max_timestamp.max(written_ms));
        regions.map(|bytes| Region::read_untrue(bytes, written_ms)).collect()
    } else {
        regions.map(Region::read).collect()
    };
    let index = Index { footer, parts, regions };
    if index.is_consistent() {
        Ok(index)
    } else {
        Err(damaged(footer.index_position, "the index is inconsistent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_with_fewer_regions_than_its_parts_count_contradicts_itself() {
        let part = |regions| PartEntry {
            partition: PartitionId(1),
            start: 0,
            end: 9,
            max_timestamp: 5,
            delete_horizon: i64::MAX,
            clean_end: i64::MIN,
            position: HEAD_BYTES as u64,
            bytes: 100,
            regions,
        };
        let footer = Footer::new(1, 4096, (1, 1), 0);
        let region = Region { base_offset: 0, max_timestamp: 5, age_from_ms: 5, position: 0, crc: 0 };
        let index = |regions| Index { footer, parts: vec![part(regions)], regions: vec![region] };
        assert!(index(1).is_consistent());
        assert!(!index(2).is_consistent());
    }
}
