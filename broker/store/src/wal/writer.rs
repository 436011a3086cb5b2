//! The log's writer: a thread, or single steps for a simulation.

use std::{
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{
    WalFailed,
    files::{Ready, write_head},
    gather::GatherPolicy,
    layout::{FileHead, Position, file_name},
    log::{Done, Log, Segment, SharedLog, Wake},
    priority::Priority,
};
use crate::disk::DiskFile;

/// Buffers that one write gathers without an allocation.
const PARTS_INLINE: usize = 8;

/// A write of at least this many bytes is long: the log is busy. A shorter one gathers fewer bytes.
const LONG_WRITE_BYTES: usize = 64 << 10;
/// This many pending bytes are worth a write at once.
const ENOUGH_BYTES: usize = 512 << 10;
/// After a long write the wait may be this many times longer: few large writes cost less than many small
/// ones, and clients that are still waiting for a reply send larger requests next time.
const BUSY_WAITS: u32 = 3;

/// Result of one step of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was pending.
    Idle,
    /// Everything pending is durable, and its callbacks have run.
    Wrote,
    /// The next file cannot be created yet; no callback has run.
    Blocked,
    /// The log has failed.
    Failed(WalFailed),
}

/// How far an idle log has released its resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdleStage {
    /// The durable mark of the last acknowledged write is not on disk yet.
    Unmarked,
    /// The mark is on disk; spare memory is still held.
    Marked,
    Trimmed,
}

/// The state of the writer.
pub(super) struct Writer {
    shared: Arc<SharedLog>,
    segments: Vec<Segment>,
    done: Vec<Done>,
    /// The file that was written last.
    file: Option<(u64, Ready)>,
    durable: Position,
    /// Length of the last write.
    wrote_bytes: usize,
    gather: GatherPolicy,
    /// The policy after long writes.
    busy_gather: GatherPolicy,
    idle_stage: IdleStage,
    /// Without threads a step creates files itself and never waits.
    stepped: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<SharedLog>, stepped: bool) -> Writer {
        let durable = shared.durable();
        shared.files.want(durable.seq() + 1);
        // Opening the log wrote nothing that needs a mark.
        let (segments, done, file) = (Vec::new(), Vec::new(), None);
        let gather = GatherPolicy::new(shared.config.gather);
        let busy_gather = GatherPolicy::stretching(shared.config.gather * BUSY_WAITS);
        let (wrote_bytes, idle_stage) = (0, IdleStage::Marked);
        Writer {
            shared,
            segments,
            done,
            file,
            durable,
            wrote_bytes,
            gather,
            busy_gather,
            idle_stage,
            stepped,
        }
    }

    /// Writes until the log stops.
    pub(super) fn run(mut self) {
        let mut priority = Priority::of_this_thread(self.shared.config.writer_priority);
        while self.wait() {
            if let Step::Failed(_) = self.flush() {
                return;
            }
            priority.wrote(self.wrote_long());
        }
        self.close();
        self.fail_pending();
    }

    /// Writes in the last file that nothing follows, so that the next start need not search for it. A log
    /// that cannot be closed is left as after a kill.
    pub(super) fn close(&mut self) {
        let Some((_, ready)) = self.file.take() else { return };
        let head = FileHead { closed_at: self.durable.offset() as u64, ..ready.head };
        if let Err(error) = write_head(&*ready.file, head) {
            tracing::warn!(?error, "cannot close the last log file");
        }
    }

    /// Waits for pending frames and takes them; `false` when the log stops.
    fn wait(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut log = shared.lock();
        if !self.wait_for_work(&mut log) {
            return false;
        }
        self.gather_calls(&mut log);
        self.take(&mut log);
        true
    }

    /// Waits for pending frames; `false` when the log stops. An idle log gets one seal, so that the last
    /// durable mark is on disk too, and releases its spare memory.
    fn wait_for_work(&mut self, log: &mut MutexGuard<'_, Log>) -> bool {
        while !log.has_work() {
            if log.stopping && self.idle_stage != IdleStage::Unmarked {
                return false;
            }
            if !log.stopping && !self.sleep(log, Wake::ANY, self.pause()) {
                continue;
            }
            match self.idle_stage {
                IdleStage::Unmarked => {
                    self.shared.pool.shrink();
                    log.put_seal();
                }
                IdleStage::Marked => {
                    log.close_chunk();
                    self.shared.pool.trim();
                    self.idle_stage = IdleStage::Trimmed;
                }
                IdleStage::Trimmed => {}
            }
        }
        true
    }

    /// Where calls are frequent, waits for more of them before the write.
    #[allow(clippy::disallowed_methods)] // The rate of calls is measured where they arrive; no result depends on it.
    fn gather_calls(&mut self, log: &mut MutexGuard<'_, Log>) {
        let busy = self.wrote_long();
        let bytes = if busy { ENOUGH_BYTES } else { LONG_WRITE_BYTES };
        let calls = log.calls();
        if calls == 0 || log.stopping || log.pending_bytes() >= bytes {
            return;
        }
        let Some(wanted) = self.gather(busy).wanted(calls, Instant::now()) else { return };
        if calls < wanted {
            let wait = self.gather(busy).wait();
            self.sleep(log, Wake { calls: wanted, bytes }, Some(wait));
        }
        self.gather(busy).record_arrivals(log.calls());
    }

    /// Whether the last write was long.
    fn wrote_long(&self) -> bool {
        self.wrote_bytes >= LONG_WRITE_BYTES
    }

    fn gather(&mut self, busy: bool) -> &mut GatherPolicy {
        if busy { &mut self.busy_gather } else { &mut self.gather }
    }

    /// Waits for at most this long; returns whether nothing arrived.
    fn sleep(&self, log: &mut MutexGuard<'_, Log>, wake: Wake, pause: Option<Duration>) -> bool {
        log.wake_at = Some(wake);
        let timed_out = match pause {
            Some(pause) => self.shared.work.wait_for(log, pause).timed_out(),
            None => {
                self.shared.work.wait(log);
                false
            }
        };
        log.wake_at = None;
        timed_out && !log.has_work()
    }

    fn pause(&self) -> Option<Duration> {
        match self.idle_stage {
            IdleStage::Unmarked => Some(self.shared.config.seal_after),
            IdleStage::Marked => Some(self.shared.config.trim_after),
            IdleStage::Trimmed => None,
        }
    }

    /// Takes everything pending. Each flush carries the mark of those before it, so only a flush with a
    /// callback needs another one after it.
    fn take(&mut self, log: &mut Log) {
        self.idle_stage = if log.has_listener() { IdleStage::Unmarked } else { IdleStage::Marked };
        log.take(&mut self.segments, &mut self.done);
    }

    /// Writes what is pending, for a log without threads.
    pub(super) fn step(&mut self) -> Step {
        if self.segments.is_empty() && self.done.is_empty() {
            let shared = self.shared.clone();
            let mut log = shared.lock();
            if let Some(failed) = &log.failed {
                return Step::Failed(failed.clone());
            }
            if !log.has_work() {
                return Step::Idle;
            }
            self.take(&mut log);
        }
        self.flush()
    }

    /// Writes the seal of an idle log.
    pub(super) fn seal(&mut self) -> Step {
        if self.idle_stage == IdleStage::Unmarked {
            self.shared.with(|log| log.put_seal());
        }
        self.step()
    }

    fn flush(&mut self) -> Step {
        #[cfg(feature = "unsafe-ack-before-sync")]
        complete(&mut self.done, &Ok(()));
        match self.write() {
            Ok(true) => {
                complete(&mut self.done, &Ok(()));
                Step::Wrote
            }
            Ok(false) => Step::Blocked,
            Err(failed) => {
                tracing::error!(%failed, "the log has failed");
                self.shared.with(|log| log.failed = Some(failed.clone()));
                complete(&mut self.done, &Err(failed.clone()));
                self.segments.clear();
                self.fail_pending();
                (self.shared.config.on_failure)(&failed);
                Step::Failed(failed)
            }
        }
    }

    /// Writes file by file: none is written before the previous one is durable. `false` if the next file does
    /// not exist yet.
    fn write(&mut self) -> Result<bool, WalFailed> {
        while let Some(first) = self.segments.first().map(|segment| segment.at) {
            let failed = |error: io::Error| WalFailed {
                file: file_name(first.seq()),
                offset: first.offset(),
                reason: error.to_string(),
            };
            let Some(file) = self.file(first.seq()).map_err(failed)? else { return Ok(false) };
            let count = self.segments.iter().take_while(|segment| segment.at.seq() == first.seq()).count();
            let end = self.write_part(&file, count).map_err(failed)?;
            self.wrote_bytes = end.offset() - first.offset();
            self.durable = end;
            self.shared.set_durable(end);
            self.segments.drain(..count);
        }
        Ok(true)
    }

    fn file(&mut self, seq: u64) -> io::Result<Option<Ready>> {
        if let Some((open, ready)) = &self.file
            && *open == seq
        {
            return Ok(Some(ready.clone()));
        }
        let files = &self.shared.files;
        let ready = if self.stepped {
            match files.step_to(seq)? {
                Some(ready) => ready,
                None => return Ok(None),
            }
        } else {
            files.wait_for(seq)?
        };
        self.file = Some((seq, ready.clone()));
        files.want(seq + 1);
        Ok(Some(ready))
    }

    #[allow(clippy::disallowed_methods)] // The duration of a sync is measured where it happens; no result depends on it.
    fn write_part(&self, ready: &Ready, count: usize) -> io::Result<Position> {
        let (segments, file) = (&self.segments[..count], &*ready.file);
        segments.iter().for_each(|segment| segment.finish(self.durable, ready.head.life));
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(self.durable) };
        let started = Instant::now();
        write_segments(file, segments, first.at.offset() as u64)?;
        if !file.is_durable() {
            file.sync()?;
        }
        let took = started.elapsed();
        let end = Position::new(last.at.seq(), last.at.offset() + last.range.len());
        // In the second half of a file the one after the next is wanted too: under load two are created
        // ahead.
        if first.at.offset() < last.file_middle() && end.offset() >= last.file_middle() {
            self.shared.files.want(last.at.seq() + 2);
        }
        let stats = &self.shared.stats;
        stats.syncs.record(took);
        stats.bytes.fetch_add((end.offset() - first.at.offset()) as u64, Relaxed);
        Ok(end)
    }

    /// Completes all callbacks with the failure.
    fn fail_pending(&mut self) {
        let failed = self.shared.with(|log| {
            let stopped = WalFailed {
                file: file_name(log.end().seq()),
                offset: log.end().offset(),
                reason: "the log was shut down".to_string(),
            };
            log.take(&mut self.segments, &mut self.done);
            log.failed.get_or_insert(stopped).clone()
        });
        self.segments.clear();
        complete(&mut self.done, &Err(failed));
    }
}

fn write_segments(file: &dyn DiskFile, segments: &[Segment], at: u64) -> io::Result<()> {
    if segments.len() > PARTS_INLINE {
        let parts: Vec<IoSlice<'_>> = segments.iter().map(Segment::part).collect();
        return file.write_at(&parts, at);
    }
    let mut parts = [IoSlice::new(&[]); PARTS_INLINE];
    for (slot, segment) in parts.iter_mut().zip(segments) {
        *slot = segment.part();
    }
    file.write_at(&parts[..segments.len()], at)
}

fn complete(done: &mut Vec<Done>, result: &Result<(), WalFailed>) {
    // The newest first: it implies those before it, so that a caller with several pending appends is woken
    // once.
    done.drain(..).rev().for_each(|done| done(result.clone()));
}
