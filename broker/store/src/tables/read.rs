//! Reads: whole batches from an offset on, and sizes for retention.

use std::{io, ops::Range, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use millstream_model::{PartitionId, batch::BatchHeader};

use super::{MemoryRead, ReadError, Tables, cache::BlockKey, run::Part, timestamps::age_from_ms};

/// A piece of a partition, for retention: its size and age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of its batches.
    pub bytes: u64,
    /// Time from which the age of its youngest batch counts, in milliseconds: the batch's largest timestamp
    /// but at most its append time, which also stands in if it has no timestamp.
    pub age_from_ms: i64,
    /// Offset after its last record.
    pub next_offset: i64,
}

/// A part of a run is reported as about this many pieces.
const PIECES_PER_PART: usize = 64;

/// Whole batches that are gathered up to a bound; the first one is always included.
struct Gather {
    offset: i64,
    max_bytes: usize,
    bytes: usize,
    out: Vec<Bytes>,
}

impl Gather {
    fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes && self.bytes > 0
    }

    /// Takes the batches of `block` that fit, as one slice; returns false when something did not fit.
    fn take(&mut self, block: &Bytes) -> Result<bool, &'static str> {
        let mut slice: Option<Range<usize>> = None;
        let mut whole = true;
        for batch in Batches::of(block) {
            let (range, header) = batch?;
            if header.next_offset() <= self.offset {
                continue;
            }
            if self.bytes > 0 && self.bytes + range.len() > self.max_bytes {
                whole = false;
                break;
            }
            self.bytes += range.len();
            slice = Some(slice.map_or(range.start, |slice| slice.start)..range.end);
        }
        self.out.extend(slice.map(|slice| block.slice(slice)));
        Ok(whole && !self.is_full())
    }
}

/// Verified bytes of some of a part's regions.
pub(super) struct Block {
    regions: Range<usize>,
    bytes: Bytes,
}

impl Block {
    /// The bytes from a region on.
    pub(super) fn from(&self, part: &Part, region: usize) -> Bytes {
        self.bytes.slice(part.span(self.regions.start..region).len()..)
    }
}

/// Iterates over consecutive batches.
pub(super) struct Batches<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Batches<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Batches<'a> {
        Batches { bytes, at: 0 }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<(Range<usize>, BatchHeader), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        match BatchHeader::parse(rest) {
            Ok(header) => {
                self.at += header.total_bytes();
                Some(Ok((start..self.at, header)))
            }
            Err(_) => {
                self.at = self.bytes.len();
                Some(Err("invalid record batch"))
            }
        }
    }
}

impl Tables {
    /// Batches from the one that contains `offset` on, if it is in memory: at least one, then as many as
    /// `max_bytes` allow. Nothing is copied.
    pub fn read_memory(&self, partition: PartitionId, offset: i64, max_bytes: usize) -> MemoryRead {
        self.memory.read(partition, offset, max_bytes)
    }

    /// The same as [`read_runs`](Tables::read_runs), unless that would have to read a large part of it from
    /// disk. Never blocks.
    pub fn read_runs_cached(
        &self,
        partition: PartitionId,
        offset: i64,
        max_bytes: usize,
    ) -> Option<Vec<Bytes>> {
        let gather = || {
            let mut missing = false;
            let batches = self.gather(partition, (offset, max_bytes), |part, region| {
                let block = self.cached_block(part, region);
                missing |= block.is_none();
                Ok(block)
            });
            let batches = batches.ok()?;
            let bytes: usize = batches.iter().map(Bytes::len).sum();
            (!missing || (bytes > 0 && bytes >= max_bytes / 2)).then_some(batches)
        };
        self.runs_or_memory(partition, (offset, max_bytes), || gather().ok_or(())).ok()
    }

    /// Batches from the one that contains `offset` on, or from the next one that exists: at least one, then
    /// as many as `max_bytes` allow; adjacent ones come as one slice. Empty if the partition has nothing
    /// there. Blocks.
    pub fn read_runs(
        &self,
        partition: PartitionId,
        offset: i64,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let load = |part: &Part, region| self.load_block(partition, part, region).map(Some);
        self.runs_or_memory(partition, (offset, max_bytes), || {
            self.gather(partition, (offset, max_bytes), load)
        })
    }

    /// What `gather` finds in runs, or else what memory has after the offset: compaction can leave a gap
    /// between the two.
    fn runs_or_memory<E>(
        &self,
        partition: PartitionId,
        (offset, max_bytes): (i64, usize),
        gather: impl Fn() -> Result<Vec<Bytes>, E>,
    ) -> Result<Vec<Bytes>, E> {
        let batches = gather()?;
        if !batches.is_empty() {
            return Ok(batches);
        }
        let in_memory = self.memory.read_behind(partition, offset, max_bytes);
        // Runs once more: what left memory before the lookup is in one by now.
        let batches = gather()?;
        Ok(if batches.is_empty() { in_memory } else { batches })
    }

    /// Gathers batches block by block until there are enough or `load` has none. What precedes damage is
    /// returned without it.
    fn gather(
        &self,
        partition: PartitionId,
        (offset, max_bytes): (i64, usize),
        mut load: impl FnMut(&Part, usize) -> Result<Option<Block>, ReadError>,
    ) -> Result<Vec<Bytes>, ReadError> {
        let mut gather = Gather { offset, max_bytes, bytes: 0, out: Vec::new() };
        for part in &self.directory.from(partition, offset, max_bytes) {
            let mut region = part.region_of(offset);
            while region < part.regions as usize {
                let block = match load(part, region) {
                    Ok(Some(block)) => block,
                    Err(error) if gather.out.is_empty() => return Err(error),
                    Ok(None) | Err(_) => return Ok(gather.out),
                };
                match gather.take(&block.from(part, region)) {
                    Ok(true) => region = block.regions.end,
                    Ok(false) => return Ok(gather.out),
                    Err(reason) => {
                        return Err(part.damaged(partition, part.span(block.regions).start, reason));
                    }
                }
            }
        }
        Ok(gather.out)
    }

    /// The regions that are cached together with `region`: those that start in the same block of the part.
    fn block_of(&self, part: &Part, region: usize) -> Range<usize> {
        let regions = part.regions();
        let number = |position: u32| position as usize / self.config.block_bytes;
        let wanted = number(regions[region].position);
        let start = regions[..region].partition_point(|r| number(r.position) < wanted);
        let end = region + regions[region..].partition_point(|r| number(r.position) <= wanted);
        start..end
    }

    fn block_key(part: &Part, block: &Range<usize>) -> BlockKey {
        (part.run.id, part.first_region + block.start as u32)
    }

    fn cached_block(&self, part: &Part, region: usize) -> Option<Block> {
        let regions = self.block_of(part, region);
        let bytes = self.cache.get(Self::block_key(part, &regions))?;
        Some(Block { regions, bytes })
    }

    /// The block with `region`, verified; what else the read returns goes into the cache too. If the block is
    /// damaged, the region alone.
    pub(super) fn load_block(
        &self,
        partition: PartitionId,
        part: &Part,
        region: usize,
    ) -> Result<Block, ReadError> {
        if let Some(block) = self.cached_block(part, region) {
            return Ok(block);
        }
        let blocks = self.missing_blocks(part, region);
        let wanted = self.read_regions(part, blocks[0].start..blocks[blocks.len() - 1].end).ok();
        let wanted = wanted.and_then(|bytes| self.keep_blocks(partition, part, blocks, bytes));
        if let Some(block) = wanted {
            return Ok(block);
        }
        let regions = region..region + 1;
        let bytes = self.read_regions(part, regions.clone()).map_err(|e| part.unreadable(partition, &e))?;
        part.verify(partition, regions.clone(), &bytes)?;
        Ok(Block { regions, bytes })
    }

    /// Adds the intact ones of blocks that were read together to the cache; returns the first.
    fn keep_blocks(
        &self,
        partition: PartitionId,
        part: &Part,
        blocks: Vec<Range<usize>>,
        mut bytes: Bytes,
    ) -> Option<Block> {
        let mut first = None;
        for regions in blocks {
            let bytes = bytes.split_to(part.span(regions.clone()).len());
            if part.verify(partition, regions.clone(), &bytes).is_err() {
                break;
            }
            self.cache.put(Self::block_key(part, &regions), bytes.clone());
            first.get_or_insert(Block { regions, bytes });
        }
        first
    }

    fn read_regions(&self, part: &Part, regions: Range<usize>) -> io::Result<Bytes> {
        let span = part.span(regions);
        self.counters.read_bytes.fetch_add(span.len() as u64, Relaxed);
        self.files.read(&part.run, part.position + span.start as u64, span.len())
    }

    /// The block with `region` and the following blocks that one read covers.
    fn missing_blocks(&self, part: &Part, region: usize) -> Vec<Range<usize>> {
        let mut blocks = vec![self.block_of(part, region)];
        let mut bytes = part.span(blocks[0].clone()).len();
        let mut next = blocks[0].end;
        while next < part.regions as usize {
            let block = self.block_of(part, next);
            bytes += part.span(block.clone()).len();
            if bytes > self.config.read_bytes || self.cache.has(Self::block_key(part, &block)) {
                break;
            }
            next = block.end;
            blocks.push(block);
        }
        blocks
    }

    /// The pieces of the partition, oldest first, as finely as the indexes show without reading the batches.
    pub fn pieces(&self, partition: PartitionId) -> Vec<Piece> {
        let mut in_memory: Vec<(Piece, i64)> = Vec::new();
        self.memory.for_each(partition, |batch| {
            let bytes = batch.bytes.len() as u64;
            let age_from_ms = age_from_ms(batch.max_timestamp, batch.appended_ms);
            match in_memory.last_mut() {
                Some((piece, _)) if piece.bytes + bytes <= self.config.region_bytes as u64 => {
                    piece.bytes += bytes;
                    piece.age_from_ms = piece.age_from_ms.max(age_from_ms);
                    piece.next_offset = batch.next_offset;
                }
                _ => {
                    let next_offset = batch.next_offset;
                    in_memory.push((Piece { bytes, age_from_ms, next_offset }, batch.base_offset));
                }
            }
        });
        let mut pieces = Vec::new();
        let end = self.directory.look(partition, |parts, log_start| {
            parts.iter().for_each(|part| part_pieces(part, log_start, &mut pieces));
            parts.last().map_or(i64::MIN, |part| part.end)
        });
        // What was flushed between the two lookups is in both.
        pieces.extend(in_memory.into_iter().filter(|(_, start)| *start >= end).map(|(piece, _)| piece));
        pieces
    }
}

fn part_pieces(part: &Part, log_start: i64, out: &mut Vec<Piece>) {
    let regions = part.regions();
    let step = regions.len().div_ceil(PIECES_PER_PART).max(1);
    for first in (0..regions.len()).step_by(step) {
        let stretch = first..(first + step).min(regions.len());
        let next_offset = part.region_end(stretch.end - 1);
        if next_offset > log_start {
            let age_from_ms = regions[stretch.clone()].iter().map(|r| r.age_from_ms).max();
            out.push(Piece {
                bytes: part.span(stretch).len() as u64,
                age_from_ms: age_from_ms.unwrap_or(i64::MIN),
                next_offset,
            });
        }
    }
}
