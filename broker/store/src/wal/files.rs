//! The log's files: created before they are needed, kept open, recycled.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::layout::{DIR, FILE_HEAD_BYTES, FileHead, file_name, in_dir, spare_name};
use crate::disk::{AlignedBuf, Disk, DiskFile, OpenMode};

/// How long the preparer waits after it failed to create a file, for instance because the disk is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Temporary name of a file that is being created.
const FRESH_NAME: &str = "fresh.tmp";

/// Length of the file that follows one of `len` bytes: a new log begins with a small file, which is created
/// at once, and file sizes double from there, so that each file is ready before the ones in front of it are
/// full.
pub(super) fn next_file_bytes(len: u64, file_bytes: u64) -> u64 {
    if len >= file_bytes { file_bytes } else { (len * 2).min(file_bytes) }
}

/// How far ahead files are created, and how many spare ones are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilePlan {
    pub(super) file_bytes: u64,
    pub(super) spare_files_max: usize,
}

/// The files of one log.
///
/// Invariant: files are created in the order of their numbers, and each is durable under its name before it
/// is handed out, so a crash leaves a sequence without a gap.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    plan: FilePlan,
    state: Mutex<State>,
    changed: Condvar,
    preparer: Mutex<Option<JoinHandle<()>>>,
    /// Creating a file failed for now. Written under the lock of the state; read with every batch.
    waiting: AtomicBool,
}

/// The files that recovery found.
#[derive(Default)]
pub(super) struct RecoveredFiles {
    /// The files that the log continues in, first to last, ready to be written.
    pub(super) ready: Vec<(FileHead, Arc<dyn DiskFile>)>,
    /// Spare files; their content is obsolete.
    pub(super) free: Vec<PathBuf>,
    /// The lives of all files so far.
    pub(super) lives: Lives,
}

/// Numbers each use of a file: a counter, so that none repeats, plus a random part, so that a client cannot
/// forge records that look like a part of the log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lives {
    count: u64,
    salt: u32,
}

impl Lives {
    pub(super) fn new(salt: u32) -> Lives {
        Lives { count: 0, salt }
    }

    /// Registers the life of an existing file.
    pub(super) fn saw(&mut self, life: u64) {
        self.count = self.count.max(life >> 32);
    }

    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.count << 32 | u64::from(self.salt)
    }
}

/// A file to write, and its header.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) head: FileHead,
}

struct State {
    ready: BTreeMap<u64, Ready>,
    /// Older files, open for reading.
    open: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Number and length of the last file created.
    made: (u64, u64),
    /// Number of the last file requested.
    wanted: u64,
    free: Vec<PathBuf>,
    /// Files that no group needs, on their way to `free`, oldest first.
    retired: VecDeque<u64>,
    lives: Lives,
    /// Set once creating files has failed for good, with the reason.
    broken: Option<String>,
    /// Stop waiting for free disk space.
    closing: bool,
    stopping: bool,
}

/// A file that is not a log file yet, and its path.
type Named = (PathBuf, Arc<dyn DiskFile>);

/// Why a file is not there.
#[derive(Debug)]
pub(super) enum NoFile {
    /// Temporary failure: a retry may succeed.
    NotYet(io::Error),
    /// Permanent failure.
    Broken(io::Error),
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, plan: FilePlan, found: RecoveredFiles) -> Files {
        let made = found.ready.last().map_or((0, 0), |(head, _)| (head.seq, head.file_bytes));
        let ready = found.ready.into_iter();
        let state = State {
            ready: ready.map(|(head, file)| (head.seq, Ready { file, head })).collect(),
            open: BTreeMap::new(),
            made,
            wanted: made.0,
            free: found.free,
            retired: VecDeque::new(),
            lives: found.lives,
            broken: None,
            closing: false,
            stopping: false,
        };
        Files {
            disk,
            plan,
            state: Mutex::new(state),
            changed: Condvar::new(),
            preparer: Mutex::default(),
            waiting: AtomicBool::new(false),
        }
    }

    /// Starts the thread that creates files ahead.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let files = self.clone();
        let thread = std::thread::Builder::new().name("wal-preparer".to_string());
        *self.preparer.lock() = Some(thread.spawn(move || files.prepare())?);
        Ok(())
    }

    /// Creates the first file of a log synchronously.
    pub(super) fn make_first(&self, seq: u64, len: u64) -> Result<(), NoFile> {
        let mut state = self.state.lock();
        let head = FileHead { seq, file_bytes: len, life: state.lives.next(), closed_at: 0 };
        let reuse = state.free.pop();
        let file = MutexGuard::unlocked(&mut state, || self.make(head, reuse.as_deref()))?;
        state.ready.insert(seq, Ready { file, head });
        state.made = (seq, len);
        state.wanted = state.wanted.max(seq);
        Ok(())
    }

    /// Requests the files up to `seq`, which will be needed soon.
    pub(super) fn want(&self, seq: u64) {
        let mut state = self.state.lock();
        if seq > state.wanted {
            state.wanted = seq;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The file, created now if absent; `None` if it cannot be created yet. For a log without threads.
    pub(super) fn step_to(&self, seq: u64) -> io::Result<Option<Ready>> {
        self.want(seq);
        loop {
            if let Some(ready) = self.state.lock().ready.get(&seq) {
                return Ok(Some(ready.clone()));
            }
            match self.make_next() {
                Ok(_) => {}
                Err(NoFile::NotYet(_)) => return Ok(None),
                Err(NoFile::Broken(error)) => return Err(error),
            }
        }
    }

    /// The file, once it has been created.
    pub(super) fn wait_for(&self, seq: u64) -> io::Result<Ready> {
        self.want(seq);
        let mut state = self.state.lock();
        loop {
            if let Some(ready) = state.ready.get(&seq) {
                return Ok(ready.clone());
            }
            if let Some(reason) = &state.broken {
                return Err(io::Error::other(reason.clone()));
            }
            if state.stopping || (state.closing && self.is_waiting()) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the log stopped before its next file was created",
                ));
            }
            self.changed.wait(&mut state);
        }
    }

    /// A file for reading.
    pub(super) fn open_for_read(&self, seq: u64) -> io::Result<Arc<dyn DiskFile>> {
        {
            let state = self.state.lock();
            let ready = state.ready.get(&seq).map(|ready| &ready.file);
            if let Some(file) = ready.or(state.open.get(&seq)) {
                return Ok(file.clone());
            }
        }
        let file = self.disk.open(&in_dir(&file_name(seq)), OpenMode::DirectRead)?;
        self.state.lock().open.insert(seq, file.clone());
        Ok(file)
    }

    /// Creates the next requested file; `false` if there is none.
    pub(super) fn make_next(&self) -> Result<bool, NoFile> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.broken {
            return Err(NoFile::Broken(io::Error::other(reason.clone())));
        }
        let (last, last_len) = state.made;
        if last >= state.wanted {
            return Ok(false);
        }
        let (seq, file_bytes) = (last + 1, next_file_bytes(last_len, self.plan.file_bytes));
        let reuse = state.free.pop();
        let head = FileHead { seq, file_bytes, life: state.lives.next(), closed_at: 0 };
        let made = MutexGuard::unlocked(&mut state, || self.make(head, reuse.as_deref()));
        self.waiting.store(matches!(made, Err(NoFile::NotYet(_))), Relaxed);
        let result = match made {
            Ok(file) => {
                state.ready.insert(seq, Ready { file, head });
                state.made = (seq, file_bytes);
                Ok(true)
            }
            Err(NoFile::Broken(error)) => {
                state.broken = Some(error.to_string());
                Err(NoFile::Broken(error))
            }
            Err(not_yet) => Err(not_yet),
        };
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Body of the preparer thread.
    fn prepare(&self) {
        let mut is_reported = false;
        while !self.state.lock().stopping {
            match self.make_next() {
                Ok(true) => is_reported = false,
                Ok(false) => {
                    let mut state = self.state.lock();
                    if state.made.0 >= state.wanted && !state.stopping {
                        self.changed.wait(&mut state);
                    }
                }
                Err(NoFile::NotYet(error)) => {
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::error!(%error, "cannot create the next log file; appends wait, retrying");
                    }
                    let mut state = self.state.lock();
                    if !state.stopping {
                        self.changed.wait_for(&mut state, RETRY_AFTER);
                    }
                }
                Err(NoFile::Broken(error)) => {
                    tracing::error!(%error, "cannot create log files any more");
                    return;
                }
            }
        }
    }

    /// Recycles files that no group needs, and removes surplus ones.
    pub(super) fn recycle(&self, seqs: &[u64]) {
        let mut state = self.state.lock();
        state.retired.extend(seqs);
        // One at a time, oldest first, and each durable before the next: a crash then leaves no gap, and no
        // file is rewritten while a power cut could bring back its old name.
        while let Some(&seq) = state.retired.front() {
            state.ready.remove(&seq);
            state.open.remove(&seq);
            let aside = MutexGuard::unlocked(&mut state, || set_aside(&*self.disk, seq));
            match aside {
                Ok(path) => add_free(&mut state.free, path),
                Err(NoFile::NotYet(error)) => {
                    tracing::warn!(seq, %error, "cannot recycle a log file");
                    return;
                }
                Err(NoFile::Broken(error)) => {
                    tracing::error!(seq, %error, "cannot sync the log directory");
                    state.broken = Some(error.to_string());
                    return;
                }
            }
            state.retired.pop_front();
        }
        let surplus = state.free.len().saturating_sub(self.plan.spare_files_max);
        let surplus: Vec<PathBuf> = state.free.drain(..surplus).collect();
        drop(state);
        self.changed.notify_all();
        for path in surplus {
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an obsolete log file");
            }
        }
    }

    /// Whether creating the next file failed and is being retried.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// From now on nothing waits for a file that cannot be created.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        if let Some(preparer) = self.preparer.lock().take() {
            // A panic of the preparer has been reported already.
            let _ = preparer.join();
        }
    }

    /// Creates a file, recycling a spare one if it is long enough.
    fn make(&self, head: FileHead, reuse: Option<&Path>) -> Result<Arc<dyn DiskFile>, NoFile> {
        let reused = match reuse {
            Some(spare) => self.reopen(spare, head.file_bytes)?,
            None => None,
        };
        let (source, file) = match reused {
            Some(found) => found,
            None => self.make_fresh(head.file_bytes)?,
        };
        write_head(&*file, head)?;
        self.disk.rename(&source, &in_dir(&file_name(head.seq))).map_err(NoFile::NotYet)?;
        self.disk.sync_dir(Path::new(DIR)).map_err(NoFile::Broken)?;
        Ok(file)
    }

    fn reopen(&self, spare: &Path, len: u64) -> Result<Option<Named>, NoFile> {
        let file = match self.disk.open(spare, OpenMode::Direct) {
            Ok(file) => file,
            Err(error) => return Err(NoFile::NotYet(error)),
        };
        // Opening creates an absent file, which is then too short.
        if file.len().map_err(NoFile::NotYet)? >= len {
            return Ok(Some((spare.to_path_buf(), file)));
        }
        drop(file);
        self.disk.remove(spare).map_err(NoFile::NotYet)?;
        Ok(None)
    }

    /// A file of zeros under a name of its own.
    fn make_fresh(&self, len: u64) -> Result<Named, NoFile> {
        let path = in_dir(FRESH_NAME);
        let file = self.disk.open(&path, OpenMode::DirectCreate).map_err(NoFile::NotYet)?;
        if let Err(error) = file.allocate(len) {
            drop(file);
            // Its space is needed for something else; if it cannot be removed, the next attempt truncates it.
            let _ = self.disk.remove(&path);
            return Err(NoFile::NotYet(error));
        }
        let file = self.disk.open(&path, OpenMode::Direct).map_err(NoFile::NotYet)?;
        Ok((path, file))
    }
}

/// Adds a file to the free list, once.
pub(super) fn add_free(free: &mut Vec<PathBuf>, path: PathBuf) {
    free.retain(|known| *known != path);
    free.push(path);
}

/// Begins a new life of a file, or closes it.
pub(super) fn write_head(file: &dyn DiskFile, head: FileHead) -> Result<(), NoFile> {
    let mut block = AlignedBuf::zeroed(FILE_HEAD_BYTES);
    head.write(&mut block);
    file.write_at(&[IoSlice::new(&block)], 0).map_err(NoFile::Broken)?;
    if !file.is_durable() {
        file.sync().map_err(NoFile::Broken)?;
    }
    Ok(())
}

/// Renames a file that is not needed to a spare name, durably.
pub(super) fn set_aside(disk: &dyn Disk, seq: u64) -> Result<PathBuf, NoFile> {
    let spare = in_dir(&spare_name(seq));
    match disk.rename(&in_dir(&file_name(seq)), &spare) {
        // An earlier attempt took effect although it failed.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NoFile::NotYet(error)),
        _ => {}
    }
    disk.sync_dir(Path::new(DIR)).map_err(NoFile::Broken)?;
    Ok(spare)
}
