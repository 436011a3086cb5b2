//! Runs a merge: reads parts in order, writes what stays to new runs, and replaces the old parts.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    sync::atomic::Ordering::Relaxed,
};

use bytes::Bytes;
use millstream_model::{PartitionId, batch::BatchHeader};

use super::{
    CompactPolicy, MergeError, MergeOutcome, Pace, ReadError, Tables, WriteError,
    compact::Attempts,
    read::Batches,
    run::Part,
    timestamps::{age_from_ms, corrected},
    writer::{NewPart, RunWriter, Written},
};

/// Bytes of one sequential read of a run.
const STREAM_BYTES_MAX: usize = 512 << 10;
/// Bytes of one read after a gap.
const STREAM_BYTES_MIN: usize = 32 << 10;
/// A gap shorter than this is read too.
const GAP_BYTES: u64 = 16 << 10;

/// Adjacent parts of one partition to be merged into one.
pub(super) struct Task {
    pub(super) partition: PartitionId,
    pub(super) parts: Vec<Part>,
    pub(super) log_start: i64,
    pub(super) compact: Option<CompactPolicy>,
}

impl Task {
    /// Bytes to read.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.bytes)).sum()
    }
}

/// Why a merge ended early.
pub(super) enum Ended {
    Failed(MergeError),
    /// The pace callback asked to stop.
    Stopped,
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Ended {
        Ended::Failed(error.into())
    }
}

impl From<WriteError> for Ended {
    fn from(error: WriteError) -> Ended {
        Ended::Failed(error.into())
    }
}

/// Reads runs sequentially, bypassing the cache.
pub(super) struct Sources<'a> {
    tables: &'a Tables,
    windows: HashMap<u64, (u64, Bytes)>,
    /// Bytes read or written since the last call of the pace callback.
    unpaced: u64,
}

impl<'a> Sources<'a> {
    pub(super) fn new(tables: &'a Tables) -> Sources<'a> {
        Sources { tables, windows: HashMap::new(), unpaced: 0 }
    }

    /// Calls `look` with each batch above the log start, and the time from which the batch's age counts.
    pub(super) fn each_batch(
        &mut self,
        task: &Task,
        parts: &[Part],
        mut look: impl FnMut(&[u8], &BatchHeader, i64) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        for part in parts {
            for region in 0..part.regions as usize {
                if part.region_end(region) > task.log_start {
                    self.each_in_region(task, part, region, &mut look)?;
                }
            }
        }
        Ok(())
    }

    /// Calls `look` with each batch above the log start in one region.
    pub(super) fn each_in_region(
        &mut self,
        task: &Task,
        part: &Part,
        region: usize,
        mut look: impl FnMut(&[u8], &BatchHeader, i64) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        // A batch with a timestamp gives its own age; for others the region's age is precise enough.
        let appended_ms = part.regions()[region].age_from_ms;
        let decompressed_bytes_max = self.tables.config.decompressed_bytes_max;
        let bytes = self.region(task.partition, part, region)?;
        for batch in Batches::of(&bytes) {
            let at = part.span(region..region + 1).start;
            let (range, header) = batch.map_err(|reason| part.damaged(task.partition, at, reason))?;
            if header.next_offset() <= task.log_start {
                continue;
            }
            let batch = &bytes[range];
            let (batch, header) = if part.run.has_untrue_times {
                corrected(batch, &header, decompressed_bytes_max)
            } else {
                (Cow::Borrowed(batch), header)
            };
            look(&batch, &header, age_from_ms(header.max_timestamp, appended_ms))?;
        }
        Ok(())
    }

    /// One region, verified.
    fn region(&mut self, partition: PartitionId, part: &Part, region: usize) -> Result<Bytes, Ended> {
        let span = part.span(region..region + 1);
        let bytes = self.read(part, span).map_err(|e| part.unreadable(partition, &e))?;
        part.verify(partition, region..region + 1, &bytes)?;
        self.pace(bytes.len())?;
        Ok(bytes)
    }

    fn read(&mut self, part: &Part, span: Range<usize>) -> io::Result<Bytes> {
        let position = part.position + span.start as u64;
        let mut ahead = STREAM_BYTES_MIN;
        if let Some((start, window)) = self.windows.get(&part.run.id) {
            let skip = position.checked_sub(*start).map(|skip| skip as usize);
            if let Some(skip) = skip.filter(|skip| skip + span.len() <= window.len()) {
                return Ok(window.slice(skip..skip + span.len()));
            }
            let end = *start + window.len() as u64;
            if position >= *start && position <= end + GAP_BYTES {
                ahead = (window.len() * 2).min(STREAM_BYTES_MAX);
            }
        }
        let rest = part.run.file_bytes.saturating_sub(position) as usize;
        let window = self.tables.files.read(&part.run, position, span.len().max(ahead.min(rest)))?;
        self.windows.insert(part.run.id, (position, window.clone()));
        Ok(window.slice(..span.len()))
    }

    fn pace(&mut self, bytes: usize) -> Result<(), Ended> {
        self.unpaced += bytes as u64;
        if self.unpaced < STREAM_BYTES_MAX as u64 {
            return Ok(());
        }
        match (self.tables.config.pace)(std::mem::take(&mut self.unpaced)) {
            Pace::Go => Ok(()),
            Pace::Stop => Err(Ended::Stopped),
        }
    }
}

/// The new runs: when one is large enough the next is started, even in the middle of a partition.
pub(super) struct Output<'a> {
    tables: &'a Tables,
    writer: Option<RunWriter>,
    part: Option<NewPart>,
    written: Vec<Written>,
    ids: Vec<u64>,
}

impl<'a> Output<'a> {
    fn new(tables: &'a Tables) -> Output<'a> {
        Output { tables, writer: None, part: None, written: Vec::new(), ids: Vec::new() }
    }

    fn writer(&mut self) -> Result<&mut RunWriter, WriteError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let id = self.tables.next_run.fetch_add(1, Relaxed);
                self.ids.push(id);
                self.tables.create_run(id)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    pub(super) fn start_part(&mut self, part: NewPart) -> Result<(), WriteError> {
        self.part = Some(part);
        self.writer()?.start_part(part);
        Ok(())
    }

    pub(super) fn push(
        &mut self,
        batch: &[u8],
        header: &BatchHeader,
        age_from_ms: i64,
    ) -> Result<(), WriteError> {
        let full = self.writer.as_ref().is_some_and(|w| w.bytes() >= self.tables.config.run_bytes_max);
        if let Some(part) = self.part.filter(|_| full) {
            self.end_part(header.base_offset)?;
            self.finish_run()?;
            self.start_part(NewPart { start: header.base_offset, ..part })?;
        }
        self.writer()?.push(batch, header, age_from_ms)
    }

    pub(super) fn end_part(&mut self, end: i64) -> Result<(), WriteError> {
        self.part = None;
        self.writer()?.end_part(end);
        Ok(())
    }

    fn finish_run(&mut self) -> Result<(), WriteError> {
        if let Some(writer) = self.writer.take() {
            self.written.push(writer.finish()?);
        }
        Ok(())
    }
}

impl Tables {
    /// Runs the tasks, which are sorted by partition and offset, all or none.
    pub(super) fn run_job(
        &self,
        tasks: &[Task],
        attempts: &mut Attempts,
    ) -> Result<MergeOutcome, MergeError> {
        let mut output = Output::new(self);
        let mut done = Vec::with_capacity(tasks.len());
        match self.write_tasks(tasks, &mut output, &mut done, attempts) {
            Ok(()) => {}
            Err(ended) => {
                output.writer = None;
                output.ids.iter().for_each(|id| self.remove_file(*id));
                return match ended {
                    Ended::Stopped => Ok(MergeOutcome { stopped: true, ..MergeOutcome::default() }),
                    Ended::Failed(error) => Err(error),
                };
            }
        }
        let written_bytes = output.written.iter().map(|written| written.file_bytes).sum();
        if !output.written.is_empty() {
            self.install(output.written, |_| {}, |parts| self.replace_parts(&done, parts))?;
            self.counters.merges.fetch_add(1, Relaxed);
            self.counters.merged_bytes.fetch_add(written_bytes, Relaxed);
        }
        let runs: HashSet<u64> = done.iter().flat_map(|done| &done.runs).copied().collect();
        let compacted_partitions = done.iter().filter(|done| done.compacted).count();
        Ok(MergeOutcome {
            merged_runs: runs.len(),
            compacted_partitions,
            written_bytes,
            ..MergeOutcome::default()
        })
    }

    fn write_tasks(
        &self,
        tasks: &[Task],
        output: &mut Output<'_>,
        done: &mut Vec<Done>,
        attempts: &mut Attempts,
    ) -> Result<(), Ended> {
        let mut sources = Sources::new(self);
        for task in tasks {
            let range = match &task.compact {
                None => Some(copy(task, &mut sources, output)?),
                Some(policy) => self.compact(task, policy, &mut sources, output, attempts)?,
            };
            done.extend(range.map(|(start, end)| Done::new(task, start, end)));
        }
        output.finish_run()?;
        Ok(())
    }

    fn replace_parts(&self, done: &[Done], parts: Vec<(PartitionId, Part)>) {
        let mut parts = parts.into_iter().peekable();
        for done in done {
            let mut new = Vec::new();
            while let Some((_, part)) =
                parts.next_if(|(id, part)| *id == done.partition && part.end <= done.end)
            {
                new.push(part);
            }
            self.directory.replace(done.partition, (done.start, done.end), new);
        }
        debug_assert!(parts.peek().is_none(), "every new part has its task");
    }
}

/// A task that is written: what stands for `start..end` of a partition is new.
struct Done {
    partition: PartitionId,
    start: i64,
    end: i64,
    runs: Vec<u64>,
    compacted: bool,
}

impl Done {
    fn new(task: &Task, start: i64, end: i64) -> Done {
        let runs = task.parts.iter().filter(|part| part.end <= end).map(|part| part.run.id).collect();
        Done { partition: task.partition, start, end, runs, compacted: task.compact.is_some() }
    }
}

/// Copies the batches above the log start; returns the offsets that the new part covers.
fn copy(task: &Task, sources: &mut Sources<'_>, output: &mut Output<'_>) -> Result<(i64, i64), Ended> {
    let start = task.parts.first().map_or(0, |part| part.start);
    let end = task.parts.last().map_or(start, |part| part.end);
    output.start_part(NewPart {
        partition: task.partition,
        start,
        clean_end: task.parts.iter().map(|part| part.clean_end).max().unwrap_or(i64::MIN),
        bytes_expected: task.parts.iter().map(|part| part.bytes_above(task.log_start)).sum(),
    })?;
    sources.each_batch(task, &task.parts, |batch, header, age_from_ms| {
        Ok(output.push(batch, header, age_from_ms)?)
    })?;
    output.end_part(end)?;
    Ok((start, end))
}
