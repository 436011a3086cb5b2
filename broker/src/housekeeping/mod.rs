//! Background maintenance: flushes, checkpoints, retention, merges, watching the disk.
//!
//! Two threads do all that blocks. The *flusher* writes what must leave memory and the log, and nothing may
//! delay it. The *merger* does what can wait: retention, removing idle producers, merges. There are no timers
//! per partition or per group, and while the broker is idle both threads wake up only once a second.

mod backoff;
mod flusher;
mod merger;
mod pacer;
mod reserve;
mod retention;
#[cfg(test)]
mod tests;
mod wakeup;
mod write_policy;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use millstream_store::{disk::OsDisk, tables::Tables, wal::Wal};
use tokio::runtime::Handle;

use crate::service::Service;
use flusher::Flusher;
use merger::Merger;
use reserve::Reserve;

pub(crate) use pacer::Pacer;
pub(crate) use wakeup::Wakeup;

/// Maintenance threads: one for flushes and one for merges.
pub(crate) const THREADS: usize = 2;
/// Shortest interval of searches for partitions to compact.
pub(crate) const COMPACTION_EVERY_MIN: Duration = merger::MERGE_EVERY;

/// Time limit of the last flush and checkpoints when the broker stops.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// The store under maintenance.
#[derive(Clone)]
pub(crate) struct StoreHandles {
    /// Its directory.
    pub disk: Arc<OsDisk>,
    pub wal: Arc<Wal>,
    pub tables: Arc<Tables>,
}

/// The maintenance threads.
pub(crate) struct Maintenance {
    stop: Arc<AtomicBool>,
    wakeup: Arc<Wakeup>,
    quiet: Arc<Wakeup>,
    pacer: Arc<Pacer>,
    threads: Vec<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts maintenance; call it on the runtime of the groups. `wakeup` is set when memory is full, and
    /// `pacer` paces the merges of these tables.
    pub(crate) fn start(
        service: Service,
        handles: StoreHandles,
        data_dir: &Path,
        wakeup: Arc<Wakeup>,
        pacer: Arc<Pacer>,
    ) -> io::Result<Maintenance> {
        let (stop, quiet) = (Arc::new(AtomicBool::new(false)), Arc::new(Wakeup::default()));
        let (runtime, reserve) = (Handle::current(), Reserve::open(data_dir));
        let mut flush_loop =
            Flusher::new(service.clone(), handles.clone(), runtime.clone(), pacer.clone(), reserve);
        let mut merger = Merger::new(service, handles.tables, runtime, pacer.clone());
        let (stopped, own_wakeup) = (stop.clone(), wakeup.clone());
        let flusher = spawn("flusher", move || flush_loop.run(&stopped, &own_wakeup))?;
        let (stopped, own_wakeup) = (stop.clone(), quiet.clone());
        let merging = spawn("merger", move || merger.run(&stopped, &own_wakeup))?;
        Ok(Maintenance { stop, wakeup, quiet, pacer, threads: vec![merging, flusher] })
    }

    /// Flushes and checkpoints everything, so that the next start has nothing to replay, and ends the
    /// threads.
    pub(crate) async fn shutdown(self) {
        self.stop.store(true, Relaxed);
        self.pacer.stop();
        self.wakeup.wake();
        self.quiet.wake();
        let threads = self.threads;
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        match tokio::time::timeout(STOP_GRACE, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("the flusher panicked; the next start replays the log"),
            Err(_) => {
                tracing::error!("final flush timed out; the next start replays the log")
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}
