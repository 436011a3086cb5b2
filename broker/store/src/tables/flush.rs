//! Moves batches from memory to a run, and writes manifests.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use millstream_model::{LogId, PartitionId, RaftGroupId, batch::BatchHeader};

use super::{
    Tables, WriteError,
    manifest::{self, Manifest, RunRecord},
    memory::{Cut, StoredBatch, Taken},
    run::{Part, Run},
    timestamps::age_from_ms,
    writer::{NewPart, RunWriter, Written},
};

/// The flushed marks of the groups after a flush.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// For each group, the last entry up to which all batches are in runs; sorted by group.
    pub groups: Vec<(RaftGroupId, LogId)>,
}

impl Tables {
    /// Whether memory use has reached its bound.
    pub fn needs_flush(&self) -> bool {
        self.memory.is_full()
    }

    /// Writes applied batches to a run and releases them. Inserts and reads continue meanwhile. Blocks. After
    /// an error everything is still in memory, and the next call retries.
    pub fn flush(&self) -> Result<Flushed, WriteError> {
        let _one_at_a_time = self.flushing.lock();
        self.flush_locked()
    }

    /// Flushes if a batch of the group's entries up to `id` is in memory only.
    pub(super) fn flush_up_to(&self, group: RaftGroupId, id: LogId) -> Result<(), WriteError> {
        let _one_at_a_time = self.flushing.lock();
        let needed = self.mark(group, |marks| {
            let from = marks.flushed.map_or(0, |flushed| flushed.index + 1);
            marks.inserted.is_some_and(|inserted| inserted.index >= from) && id.index >= from
        });
        if needed { self.flush_locked().map(drop) } else { Ok(()) }
    }

    fn flush_locked(&self) -> Result<Flushed, WriteError> {
        let mut cut = self.cut();
        let taken = self.memory.take(&mut cut);
        let moved =
            |(group, id): (&RaftGroupId, &LogId)| self.mark(*group, |marks| marks.flushed != Some(*id));
        if !taken.is_empty() {
            self.write_run(&taken, &cut)?;
        } else if cut.iter().any(moved) {
            self.commit(|manifest| manifest.flushed.extend(&cut), &[])?;
        }
        for (group, id) in &cut {
            self.mark(*group, |marks| {
                assert!(
                    marks.flushed <= Some(*id),
                    "{group} was flushed to {:?}, and now to {id}",
                    marks.flushed
                );
                marks.flushed = Some(*id);
            });
        }
        self.memory.release(&cut);
        Ok(Flushed { groups: self.manifest.lock().flushed.iter().map(|(group, id)| (*group, *id)).collect() })
    }

    /// The entry up to which each group's batches are complete in memory.
    fn cut(&self) -> Cut {
        let mut cut = Cut::new();
        for shard in &self.marks {
            for (group, marks) in shard.lock().iter() {
                // Entries that are applied again after a start may be below the flushed mark.
                let applied = marks.applied.filter(|id| marks.flushed.is_none_or(|f| f.index <= id.index));
                cut.extend(applied.map(|id| (*group, id)));
            }
        }
        cut
    }

    fn write_run(&self, taken: &[Taken], cut: &Cut) -> Result<(), WriteError> {
        let id = self.next_run.fetch_add(1, Relaxed);
        let written = self.write_taken(id, taken).inspect_err(|_| self.remove_file(id))?;
        self.install(
            vec![written],
            |manifest| manifest.flushed.extend(cut),
            |parts| {
                for (partition, part) in parts {
                    self.counters.flushed_bytes.fetch_add(u64::from(part.bytes), Relaxed);
                    self.directory.add(partition, part);
                }
            },
        )?;
        self.counters.flushes.fetch_add(1, Relaxed);
        self.changes.fetch_add(1, Relaxed);
        Ok(())
    }

    pub(super) fn create_run(&self, id: u64) -> Result<RunWriter, WriteError> {
        RunWriter::create(&*self.disk, id, (self.config.region_bytes, self.config.part_bytes_max))
    }

    fn write_taken(&self, id: u64, taken: &[Taken]) -> Result<Written, WriteError> {
        let mut writer = self.create_run(id)?;
        for (partition, batches) in taken {
            write_part(&mut writer, *partition, batches)?;
        }
        writer.finish()
    }

    /// Adds these runs to the manifest, adds their parts to the directory with `place`, and only then adds
    /// them to the live runs: a run without a live part may be dropped at any time.
    pub(super) fn install(
        &self,
        written: Vec<Written>,
        change: impl FnOnce(&mut Manifest),
        place: impl FnOnce(Vec<(PartitionId, Part)>),
    ) -> Result<(), WriteError> {
        let mut runs: Vec<Arc<Run>> = Vec::new();
        let mut parts = Vec::new();
        for written in written {
            let (run, its_parts) = written.index.into_run(written.file_bytes);
            runs.push(run);
            parts.extend(its_parts);
        }
        self.commit(change, &runs)?;
        place(parts);
        let mut live = self.runs.write();
        for run in runs {
            let id = run.id;
            assert!(live.insert(id, run).is_none(), "run {id} is live already");
        }
        Ok(())
    }

    /// Writes a changed manifest that names more runs. After an error either manifest may be on disk: both
    /// are valid, and the files of both are kept.
    pub(super) fn commit(
        &self,
        change: impl FnOnce(&mut Manifest),
        more: &[Arc<Run>],
    ) -> Result<(), WriteError> {
        let mut current = self.manifest.lock();
        let mut next = current.clone();
        next.version += 1;
        next.next_run = self.next_run.load(Relaxed);
        for run in more {
            let record = RunRecord { file_bytes: run.file_bytes, index_crc: run.index_crc };
            assert!(run.id < next.next_run, "run {} has an id that was never given", run.id);
            assert!(next.runs.insert(run.id, record).is_none(), "run {} is in the manifest already", run.id);
        }
        change(&mut next);
        if let Err(error) = manifest::save(&*self.disk, &next) {
            self.doubtful.lock().extend(more.iter().map(|run| run.id));
            return Err(error.into());
        }
        *current = next;
        // From here on a start can only find this manifest.
        let doubtful = std::mem::take(&mut *self.doubtful.lock());
        doubtful.into_iter().for_each(|id| self.remove_file(id));
        Ok(())
    }
}

fn write_part(
    writer: &mut RunWriter,
    partition: PartitionId,
    batches: &[StoredBatch],
) -> Result<(), WriteError> {
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return Ok(()) };
    let in_order = batches.windows(2).all(|pair| pair[0].next_offset <= pair[1].base_offset);
    assert!(in_order, "{partition}: batches overlap in memory");
    writer.start_part(NewPart {
        partition,
        start: first.base_offset,
        clean_end: i64::MIN,
        bytes_expected: batches.iter().map(|batch| batch.bytes.len() as u64).sum(),
    });
    for batch in batches {
        let header = BatchHeader::parse(&batch.bytes).ok();
        let fits =
            |h: &BatchHeader| h.base_offset == batch.base_offset && h.next_offset() == batch.next_offset;
        let wrong = WriteError::NotABatch { partition, offset: batch.base_offset };
        let header = header.filter(fits).ok_or(wrong)?;
        let header = BatchHeader { max_timestamp: batch.max_timestamp, ..header };
        writer.push(&batch.bytes, &header, age_from_ms(batch.max_timestamp, batch.appended_ms))?;
    }
    writer.end_part(last.next_offset);
    Ok(())
}
