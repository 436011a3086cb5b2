//! The one thread that writes the log.

use std::{io, io::IoSlice, sync::atomic::Ordering::Relaxed, time::Instant};

use millstream_model::{GroupId, LogId};

use super::{
    WalFailed,
    layout::{FrameKind, Position},
    log::{Done, Segment, Shared, file_name},
};

struct Batch {
    segments: Vec<Segment>,
    done: Vec<Done>,
}

/// Writes until the log stops.
pub(super) fn run(shared: &Shared) {
    shared.files.want(shared.with(|log| log.end().seq()) + 1);
    // The start has written nothing that a mark would be needed for.
    let mut sealed = true;
    while let Some(batch) = next(shared, &mut sealed) {
        #[cfg(feature = "unsafe-ack-before-sync")]
        let batch = Batch { done: tell(batch.done, Ok(())), ..batch };
        let result = write(shared, &batch.segments);
        if let Err(failed) = &result {
            tracing::error!(%failed, "the log has failed");
            shared.with(|log| log.failed = Some(failed.clone()));
        }
        tell(batch.done, result.clone());
        if let Err(failed) = result {
            (shared.config.on_failure)(&failed);
            break;
        }
    }
    refuse_the_rest(shared);
}

fn tell(done: Vec<Done>, result: Result<(), WalFailed>) -> Vec<Done> {
    done.into_iter().for_each(|done| done(result.clone()));
    Vec::new()
}

/// Waits for work. An idle log gets one seal, so that the mark of what was acknowledged last is on disk too.
fn next(shared: &Shared, sealed: &mut bool) -> Option<Batch> {
    let mut log = shared.lock();
    while !log.has_work() {
        if !*sealed {
            log.writer_waits = true;
            let timeout =
                !log.stopping && shared.work.wait_for(&mut log, shared.config.seal_after).timed_out();
            log.writer_waits = false;
            if (timeout || log.stopping) && !log.has_work() {
                *sealed = true;
                let head = log.head(FrameKind::Seal, 0, GroupId::METADATA, LogId::default());
                // A log that cannot take a seal has failed, and says so at the next append.
                let _ = log.write_frame(head, 0, |_| {});
            }
            continue;
        }
        if log.stopping {
            return None;
        }
        log.writer_waits = true;
        shared.work.wait(&mut log);
        log.writer_waits = false;
    }
    let only_a_seal = *sealed && !log.has_listener();
    *sealed = only_a_seal;
    let (segments, done) = log.take();
    let durable = log.durable;
    segments.iter().for_each(|segment| segment.finish(durable));
    Some(Batch { segments, done })
}

fn write(shared: &Shared, mut segments: &[Segment]) -> Result<(), WalFailed> {
    // File by file: none is written before the one in front of it is durable.
    while let Some(first) = segments.first() {
        let seq = first.at.seq();
        let count = segments.iter().take_while(|segment| segment.at.seq() == seq).count();
        let (in_file, rest) = segments.split_at(count);
        write_file(shared, seq, in_file).map_err(|error| WalFailed {
            file: file_name(seq),
            offset: first.at.offset(),
            reason: error.to_string(),
        })?;
        segments = rest;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)] // How long a sync takes is measured where it happens; nothing depends on it.
fn write_file(shared: &Shared, seq: u64, segments: &[Segment]) -> io::Result<()> {
    let file = shared.files.wait_for(seq).ok_or(io::ErrorKind::Interrupted)?;
    shared.files.want(seq + 1);
    let parts: Vec<IoSlice<'_>> =
        segments.iter().map(|segment| IoSlice::new(segment.chunk.part(segment.range.clone()))).collect();
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let started = Instant::now();
    let at = segments.first().map_or(0, |segment| segment.at.offset());
    file.write_at(&parts, at as u64)?;
    if !file.is_durable() {
        file.sync()?;
    }
    let micros = started.elapsed().as_micros() as u64;
    shared.stats.syncs.fetch_add(1, Relaxed);
    shared.stats.bytes.fetch_add(bytes as u64, Relaxed);
    shared.stats.sync_micros.fetch_add(micros, Relaxed);
    shared.stats.sync_micros_max.fetch_max(micros, Relaxed);
    shared.with(|log| log.durable = Position::new(seq, at + bytes));
    Ok(())
}

fn refuse_the_rest(shared: &Shared) {
    let done = shared.with(|log| {
        let stopped = WalFailed {
            file: "the log".to_string(),
            offset: log.end().offset(),
            reason: "it was shut down".to_string(),
        };
        let failed = log.failed.get_or_insert(stopped).clone();
        let (_, done) = log.take();
        (done, failed)
    });
    tell(done.0, Err(done.1));
}
