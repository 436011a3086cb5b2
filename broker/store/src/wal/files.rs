//! The log's files: made ready before they are needed, kept open, used again.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    layout::{FILE_HEAD_BYTES, write_file_head},
    log::file_path,
};
use crate::disk::{AlignedBuf, Disk, DiskFile, OpenMode};

/// How long the preparer waits after it could not make a file, for instance because the disk is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The files of one log.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    shared: Arc<Shelf>,
    preparer: Mutex<Option<JoinHandle<()>>>,
}

struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Sequence number of the file that is wanted next.
    wanted: Option<u64>,
    /// Files that nobody needs; their content is old.
    free: Vec<PathBuf>,
    stopping: bool,
}

impl Files {
    /// The files of the log in `wal/`; `free` can be used again, and each new one has `file_bytes`.
    pub(super) fn new(disk: Arc<dyn Disk>, file_bytes: u64, free: Vec<PathBuf>) -> io::Result<Files> {
        let state = State { free, ..State::default() };
        let shared = Arc::new(Shelf { state: Mutex::new(state), changed: Condvar::new() });
        let (for_thread, disk_too) = (shared.clone(), disk.clone());
        let preparer = std::thread::Builder::new()
            .name("wal-preparer".to_string())
            .spawn(move || for_thread.prepare(&*disk_too, file_bytes))?;
        Ok(Files { disk, shared, preparer: Mutex::new(Some(preparer)) })
    }

    /// Makes a file at once, for the start.
    pub(super) fn make_now(&self, seq: u64, file_bytes: u64) -> io::Result<()> {
        let file = make(&*self.disk, seq, file_bytes, None)?;
        self.shared.state.lock().open.insert(seq, file);
        Ok(())
    }

    /// Asks for a file that will be needed soon.
    pub(super) fn want(&self, seq: u64) {
        self.shared.state.lock().wanted = Some(seq);
        self.shared.changed.notify_all();
    }

    /// The file, once it is there; `None` when the log stops first.
    pub(super) fn wait_for(&self, seq: u64) -> Option<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(file) = state.open.get(&seq) {
                return Some(file.clone());
            }
            if state.stopping {
                return None;
            }
            if state.wanted != Some(seq) {
                state.wanted = Some(seq);
                self.shared.changed.notify_all();
            }
            self.shared.changed.wait(&mut state);
        }
    }

    /// A file to read from.
    pub(super) fn open_for_read(&self, seq: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.shared.state.lock().open.get(&seq) {
            return Ok(file.clone());
        }
        let file = self.disk.open(&file_path(seq), OpenMode::DirectRead)?;
        self.shared.state.lock().open.insert(seq, file.clone());
        Ok(file)
    }

    /// Frees files; more than `spare_max` free ones are removed.
    pub(super) fn recycle(&self, seqs: &[u64], spare_max: usize) {
        let mut state = self.shared.state.lock();
        // The oldest first, so that whatever a crash leaves of this is a log without a gap.
        for seq in seqs {
            state.open.remove(seq);
            match set_aside(&*self.disk, *seq) {
                Ok(path) => state.free.push(path),
                Err(error) => {
                    tracing::warn!(seq, %error, "a log file that is not needed could not be set aside");
                    return;
                }
            }
        }
        while state.free.len() > spare_max {
            let path = state.free.remove(0);
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "a log file that is not needed could not be removed");
            }
        }
    }

    pub(super) fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(preparer) = self.preparer.lock().take() {
            // A preparer that panicked has said so.
            let _ = preparer.join();
        }
    }
}

impl Shelf {
    fn prepare(&self, disk: &dyn Disk, file_bytes: u64) {
        let mut state = self.state.lock();
        while !state.stopping {
            let Some(seq) = state.wanted.filter(|seq| !state.open.contains_key(seq)) else {
                self.changed.wait(&mut state);
                continue;
            };
            let reuse = state.free.pop();
            drop(state);
            let made = make(disk, seq, file_bytes, reuse.as_deref());
            state = self.state.lock();
            match made {
                Ok(file) => drop(state.open.insert(seq, file)),
                Err(error) => {
                    tracing::error!(%error, seq, "the next log file cannot be made; appends wait for it");
                    self.changed.wait_for(&mut state, RETRY_AFTER);
                    continue;
                }
            }
            self.changed.notify_all();
        }
    }
}

/// Gives a file that nobody needs a name under which no log is looked for.
pub(super) fn set_aside(disk: &dyn Disk, seq: u64) -> io::Result<PathBuf> {
    let spare = Path::new("wal").join(format!("spare-{seq:016x}.log"));
    disk.rename(&file_path(seq), &spare)?;
    Ok(spare)
}

/// Makes the file `seq`, out of one that is not needed any more if there is one, with its header on disk.
fn make(disk: &dyn Disk, seq: u64, file_bytes: u64, reuse: Option<&Path>) -> io::Result<Arc<dyn DiskFile>> {
    let path = file_path(seq);
    let dir = Path::new("wal");
    let source = match reuse {
        Some(old) => old.to_path_buf(),
        None => {
            let fresh = dir.join("fresh.tmp");
            let file = disk.open(&fresh, OpenMode::Direct)?;
            file.set_len(0)?;
            file.allocate(file_bytes)?;
            fresh
        }
    };
    let file = disk.open(&source, OpenMode::Direct)?;
    if file.len()? < file_bytes {
        file.allocate(file_bytes)?;
    }
    let mut head = AlignedBuf::zeroed(FILE_HEAD_BYTES);
    write_file_head(&mut head, seq, file_bytes);
    file.write_at(&[IoSlice::new(&head)], 0)?;
    if !file.is_durable() {
        file.sync()?;
    }
    disk.rename(&source, &path)?;
    disk.sync_dir(dir)?;
    Ok(file)
}
