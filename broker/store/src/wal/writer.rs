//! What writes the log: a thread of its own, or step by step for a simulation.

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
    log::{Done, Log, Segment, Shared, Wake},
    priority::Priority,
};
use crate::disk::DiskFile;

/// Buffers that one write gathers without an allocation.
const PARTS_INLINE: usize = 8;

/// A write of so many bytes is long: the log is busy. A short one does not wait for so much.
const LONG_WRITE_BYTES: usize = 64 << 10;
/// So much is worth a write of its own at once.
const ENOUGH_BYTES: usize = 512 << 10;
/// Behind a long write the wait may be so many times as long: few large writes cost less than many, and whoever has no
/// answer yet asks for more at a time.
const BUSY_WAITS: u32 = 3;

/// What one step of the writer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to write.
    Idle,
    /// What was there is durable, and those who waited for it know.
    Wrote,
    /// The next file cannot be made yet; nobody was told anything.
    Blocked,
    /// The log has failed.
    Failed(WalFailed),
}

/// How far an idle log has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The mark of the last acknowledged write is not on disk yet.
    Unmarked,
    /// It is; spare memory is still held.
    Marked,
    /// Nothing is left to do.
    Trimmed,
}

/// The one who writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segments: Vec<Segment>,
    done: Vec<Done>,
    /// The file that was written last.
    file: Option<(u64, Ready)>,
    durable: Position,
    /// Length of the last write.
    wrote_bytes: usize,
    gather: GatherPolicy,
    /// The same behind long writes.
    busy_gather: GatherPolicy,
    rest: Rest,
    /// A step makes files itself and does not wait for anything.
    stepped: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, stepped: bool) -> Writer {
        let durable = shared.durable();
        shared.files.want(durable.seq() + 1);
        // The start has written nothing that a mark would be needed for.
        let (segments, done, file) = (Vec::new(), Vec::new(), None);
        let gather = GatherPolicy::new(shared.config.gather);
        let busy_gather = GatherPolicy::stretching(shared.config.gather * BUSY_WAITS);
        let (wrote_bytes, rest) = (0, Rest::Marked);
        Writer { shared, segments, done, file, durable, wrote_bytes, gather, busy_gather, rest, stepped }
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
        self.refuse_the_rest();
    }

    /// Notes in the last file that nothing follows, so that the next start need not look for it. A log that cannot
    /// be closed is one that was killed.
    pub(super) fn close(&mut self) {
        let Some((_, ready)) = self.file.take() else { return };
        let head = FileHead { closed_at: self.durable.offset() as u64, ..ready.head };
        if let Err(error) = write_head(&*ready.file, head) {
            tracing::warn!(?error, "the log's last file cannot be closed");
        }
    }

    /// Waits for work and takes it; `false` when the log stops.
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

    /// `false` when the log stops. A log at rest gets one seal, so that the mark of what was acknowledged last is on
    /// disk too, and gives its spare memory back.
    fn wait_for_work(&mut self, log: &mut MutexGuard<'_, Log>) -> bool {
        while !log.has_work() {
            if log.stopping && self.rest != Rest::Unmarked {
                return false;
            }
            if !log.stopping && !self.sleep(log, Wake::ANY, self.pause()) {
                continue;
            }
            match self.rest {
                Rest::Unmarked => {
                    self.shared.pool.shrink();
                    log.put_seal();
                }
                Rest::Marked => {
                    log.close_chunk();
                    self.shared.pool.trim();
                    self.rest = Rest::Trimmed;
                }
                Rest::Trimmed => {}
            }
        }
        true
    }

    /// Where calls are dense, lets more of them come before they are written.
    #[allow(clippy::disallowed_methods)] // How dense calls are is measured where they come; no result depends on it.
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

    /// Waits for so long at most; whether nothing came at all.
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
        match self.rest {
            Rest::Unmarked => Some(self.shared.config.seal_after),
            Rest::Marked => Some(self.shared.config.trim_after),
            Rest::Trimmed => None,
        }
    }

    /// Takes everything that is to be written. Each flush carries the mark of those before it, so only one that
    /// somebody waits for needs another one behind it.
    fn take(&mut self, log: &mut Log) {
        self.rest = if log.has_listener() { Rest::Unmarked } else { Rest::Marked };
        log.take(&mut self.segments, &mut self.done);
    }

    /// Writes what is there now; for a log that has no thread.
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

    /// Writes the seal that an idle log gets.
    pub(super) fn seal(&mut self) -> Step {
        if self.rest == Rest::Unmarked {
            self.shared.with(|log| log.put_seal());
        }
        self.step()
    }

    fn flush(&mut self) -> Step {
        #[cfg(feature = "unsafe-ack-before-sync")]
        tell(&mut self.done, &Ok(()));
        match self.write() {
            Ok(true) => {
                tell(&mut self.done, &Ok(()));
                Step::Wrote
            }
            Ok(false) => Step::Blocked,
            Err(failed) => {
                tracing::error!(%failed, "the log has failed");
                self.shared.with(|log| log.failed = Some(failed.clone()));
                tell(&mut self.done, &Err(failed.clone()));
                self.segments.clear();
                self.refuse_the_rest();
                (self.shared.config.on_failure)(&failed);
                Step::Failed(failed)
            }
        }
    }

    /// Writes file by file: none is written before the one in front of it is durable. `false` if the next file is
    /// not there yet.
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

    #[allow(clippy::disallowed_methods)] // How long a sync takes is measured where it happens; nothing depends on it.
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
        // In the second half of a file the one behind the next is wanted too: under load two are ahead.
        if first.at.offset() < last.file_middle() && end.offset() >= last.file_middle() {
            self.shared.files.want(last.at.seq() + 2);
        }
        let stats = &self.shared.stats;
        stats.syncs.record(took);
        stats.bytes.fetch_add((end.offset() - first.at.offset()) as u64, Relaxed);
        Ok(end)
    }

    /// Tells everybody who waits that nothing more is written.
    fn refuse_the_rest(&mut self) {
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
        tell(&mut self.done, &Err(failed));
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

fn tell(done: &mut Vec<Done>, result: &Result<(), WalFailed>) {
    // The newest first: it stands for those before it, which whoever waits for several then need not look at.
    done.drain(..).rev().for_each(|done| done(result.clone()));
}
