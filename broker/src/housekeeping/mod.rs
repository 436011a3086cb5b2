//! What goes on behind the requests: flushes, checkpoints, retention, merges, watching the disk.
//!
//! Two threads do all that blocks. The *housekeeper* writes what must leave memory and the log; nothing else may hold
//! it up. The *merger* does what can wait: retention, forgetting idle producers, merges. Nothing here has a timer of
//! its own per partition or per group, and while nothing happens both only look around once a second.

mod backoff;
mod flusher;
mod merger;
mod pacer;
mod plan;
mod reserve;
mod retention;
#[cfg(test)]
mod tests;
mod wakeup;

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

/// Threads that it runs: one for flushes and one for merges.
pub(crate) const THREADS: usize = 2;
/// Shortest time between two searches for partitions to compact.
pub(crate) const COMPACTION_EVERY_MIN: Duration = merger::MERGE_EVERY;

/// How long the last flush and the last checkpoints may take when the broker stops.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// The store that is kept in order.
#[derive(Clone)]
pub(crate) struct StoreHandles {
    /// Where it is.
    pub disk: Arc<OsDisk>,
    /// Its log.
    pub wal: Arc<Wal>,
    /// Its tables.
    pub tables: Arc<Tables>,
}

/// The threads that keep house.
pub(crate) struct Maintenance {
    stop: Arc<AtomicBool>,
    bell: Arc<Wakeup>,
    quiet: Arc<Wakeup>,
    pacer: Arc<Pacer>,
    threads: Vec<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts keeping house; call it on the runtime that the groups run on. `bell` is rung when memory is full, and
    /// `pacer` paces the merges of these tables.
    pub(crate) fn start(
        service: Service,
        kept: StoreHandles,
        data_dir: &Path,
        bell: Arc<Wakeup>,
        pacer: Arc<Pacer>,
    ) -> io::Result<Maintenance> {
        let (stop, quiet) = (Arc::new(AtomicBool::new(false)), Arc::new(Wakeup::default()));
        let (runtime, reserve) = (Handle::current(), Reserve::open(data_dir));
        let mut house = Flusher::new(service.clone(), kept.clone(), runtime.clone(), pacer.clone(), reserve);
        let mut merger = Merger::new(service, kept.tables, runtime, pacer.clone());
        let (stopped, own_bell) = (stop.clone(), bell.clone());
        let housekeeper = spawn("housekeeper", move || house.run(&stopped, &own_bell))?;
        let (stopped, own_bell) = (stop.clone(), quiet.clone());
        let merging = spawn("merger", move || merger.run(&stopped, &own_bell))?;
        Ok(Maintenance { stop, bell, quiet, pacer, threads: vec![merging, housekeeper] })
    }

    /// Flushes and checkpoints everything, so that the next start has nothing to do, and ends the threads.
    pub(crate) async fn shutdown(self) {
        self.stop.store(true, Relaxed);
        self.pacer.stop();
        self.bell.ring();
        self.quiet.ring();
        let threads = self.threads;
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        match tokio::time::timeout(STOP_GRACE, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("the housekeeper ended badly; the next start reads the log instead"),
            Err(_) => {
                tracing::error!("not all could be written in time; the next start reads the log instead")
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}
