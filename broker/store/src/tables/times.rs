//! Lookups by time. The indexes lead to the few regions that can contain the result.

use std::{cmp::Reverse, collections::BinaryHeap};

use bytes::Bytes;
use millstream_model::{PartitionId, batch::BatchHeader};

use super::{ReadError, Tables, read::Batches, run::Part, timestamps::corrected};

/// A batch and its sort key: a later time is larger, and at equal times the earlier offset is larger.
#[derive(Clone, Debug)]
struct Candidate {
    order: (i64, Reverse<i64>),
    batch: Bytes,
}

impl Tables {
    /// The first batch that has the largest timestamp of those that extend above `from`. Blocks.
    pub fn max_timestamp_batch(&self, partition: PartitionId, from: i64) -> Result<Option<Bytes>, ReadError> {
        let mut best: Option<Candidate> = None;
        self.memory.for_each(partition, |batch| {
            let order = (batch.max_timestamp, Reverse(batch.base_offset));
            if batch.next_offset > from && best.as_ref().is_none_or(|best| order > best.order) {
                best = Some(Candidate { order, batch: batch.bytes.clone() });
            }
        });
        let (parts, log_start) = self.directory.all(partition);
        let from = from.max(log_start);
        let mut regions = regions_by_time(&parts, from);
        while let Some((order, Reverse(part), region)) = regions.pop() {
            // A region's timestamp may be too large, because of dead or empty batches, but never too small.
            if best.as_ref().is_some_and(|best| best.order > order) {
                break;
            }
            self.each_batch(partition, &parts[part], region, |batch, header| {
                let order = (header.max_timestamp, Reverse(header.base_offset));
                let counts = header.next_offset() > from && header.record_count > 0;
                if counts && best.as_ref().is_none_or(|best| order > best.order) {
                    best = Some(Candidate { order, batch });
                }
            })?;
        }
        Ok(best.map(|best| best.batch))
    }

    /// The first batch above `log_start` whose largest timestamp is at least `time`. Blocks.
    pub fn first_batch_at_or_after_time(
        &self,
        partition: PartitionId,
        time: i64,
        log_start: i64,
    ) -> Result<Option<Bytes>, ReadError> {
        let mut in_memory = None;
        self.memory.for_each(partition, |batch| {
            if in_memory.is_none() && batch.max_timestamp >= time && batch.next_offset > log_start {
                in_memory = Some(batch.bytes.clone());
            }
        });
        let (parts, _) = self.directory.all(partition);
        for part in parts.iter().filter(|part| part.max_timestamp >= time) {
            for region in 0..part.regions as usize {
                let may = part.regions()[region].max_timestamp >= time && part.region_end(region) > log_start;
                if may
                    && let Some(batch) = self.first_in_region(partition, part, region, (time, log_start))?
                {
                    return Ok(Some(batch));
                }
            }
        }
        Ok(in_memory)
    }

    fn first_in_region(
        &self,
        partition: PartitionId,
        part: &Part,
        region: usize,
        (time, log_start): (i64, i64),
    ) -> Result<Option<Bytes>, ReadError> {
        // A batch that compaction has emptied has no record to return.
        let fits =
            |h: &BatchHeader| h.max_timestamp >= time && h.next_offset() > log_start && h.record_count > 0;
        let mut first = None;
        self.each_batch(partition, part, region, |batch, header| {
            if first.is_none() && fits(header) {
                first = Some(batch);
            }
        })?;
        Ok(first)
    }

    /// Calls `look` with each batch of a region, and its header with the largest timestamp of its records.
    fn each_batch(
        &self,
        partition: PartitionId,
        part: &Part,
        region: usize,
        mut look: impl FnMut(Bytes, &BatchHeader),
    ) -> Result<(), ReadError> {
        let block = self.load_block(partition, part, region)?;
        let bytes = block.from(part, region).slice(..part.span(region..region + 1).len());
        for batch in Batches::of(&bytes) {
            let (range, header) = batch
                .map_err(|reason| part.damaged(partition, part.span(region..region + 1).start, reason))?;
            let batch = bytes.slice(range);
            if part.run.has_untrue_times {
                let (corrected, header) = corrected(&batch, &header, self.config.decompressed_bytes_max);
                look(Bytes::copy_from_slice(&corrected), &header);
            } else {
                look(batch, &header);
            }
        }
        Ok(())
    }
}

/// Largest timestamp and offset of a region, index of its part, its index in the part.
type TimedRegion = ((i64, Reverse<i64>), Reverse<usize>, usize);

fn regions_by_time(parts: &[Part], from: i64) -> BinaryHeap<TimedRegion> {
    let mut all = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let live = (0..part.regions as usize).filter(|&region| part.region_end(region) > from);
        all.extend(live.map(|region| {
            let entry = part.regions()[region];
            ((entry.max_timestamp, Reverse(entry.base_offset)), Reverse(number), region)
        }));
    }
    all.into()
}
