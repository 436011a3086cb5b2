//! The log's files: made ready before they are needed, kept open, used again.

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

/// How long the preparer waits after it could not make a file, for instance because the disk is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A file that is being made has this name.
const FRESH_NAME: &str = "fresh.tmp";

/// Length of the file behind one of `len` bytes: a new log begins with a small file, which is made at once, and
/// doubles from there, so that a file is ready before the ones in front of it are full.
pub(super) fn next_file_bytes(len: u64, file_bytes: u64) -> u64 {
    if len >= file_bytes { file_bytes } else { (len * 2).min(file_bytes) }
}

/// How far ahead of the log files are made, and how many are kept for use again.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilePlan {
    pub(super) file_bytes: u64,
    pub(super) spare_files_max: usize,
}

/// The files of one log.
///
/// Invariant: files are made in the order of their numbers, and each is durable under its name before it is given
/// out; so whatever a crash leaves is a row of files without a gap.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    plan: FilePlan,
    state: Mutex<State>,
    changed: Condvar,
    preparer: Mutex<Option<JoinHandle<()>>>,
    /// No file can be made now, but perhaps later. Written under the lock of the state; asked for every batch.
    waiting: AtomicBool,
}

/// What recovery found of files.
#[derive(Default)]
pub(super) struct Found {
    /// The files that the log goes on in, first to last, ready to be written.
    pub(super) ready: Vec<(FileHead, Arc<dyn DiskFile>)>,
    /// Files that nobody needs; their content is old.
    pub(super) free: Vec<PathBuf>,
    /// The lives of all files so far.
    pub(super) lives: Lives,
}

/// Gives each use of a file a number of its own: a count, so that none comes twice, and a little chance, so that
/// nobody who writes records can make them look like a part of the log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lives {
    count: u64,
    salt: u32,
}

impl Lives {
    pub(super) fn new(salt: u32) -> Lives {
        Lives { count: 0, salt }
    }

    /// Takes note of a life that a file has.
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
    /// Older files that somebody has read from.
    open: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Number and length of the last file that is made.
    made: (u64, u64),
    /// Number of the last file that is wanted.
    wanted: u64,
    free: Vec<PathBuf>,
    /// Files that no group needs, on their way to `free`, in order.
    retired: VecDeque<u64>,
    lives: Lives,
    /// No file will ever be made again: why.
    broken: Option<String>,
    /// Nobody waits for the disk to have room again.
    closing: bool,
    stopping: bool,
}

/// A file that is not a log file yet, and its path.
type Named = (PathBuf, Arc<dyn DiskFile>);

/// Why a file is not there.
#[derive(Debug)]
pub(super) enum NoFile {
    /// It could not be made for now; nothing is lost by trying again.
    NotYet(io::Error),
    /// A failure that nothing can be built on any more.
    Broken(io::Error),
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, plan: FilePlan, found: Found) -> Files {
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

    /// Starts the thread that makes files ahead.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let files = self.clone();
        let thread = std::thread::Builder::new().name("wal-preparer".to_string());
        *self.preparer.lock() = Some(thread.spawn(move || files.prepare())?);
        Ok(())
    }

    /// Makes the first file of a log, now.
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

    /// Asks for the files up to `seq`, which will be needed soon.
    pub(super) fn want(&self, seq: u64) {
        let mut state = self.state.lock();
        if seq > state.wanted {
            state.wanted = seq;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The file, made now if it is not there; `None` if it cannot be made yet. For a log without threads.
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

    /// The file, once it is made.
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
                    "the log stops before its next file could be made",
                ));
            }
            self.changed.wait(&mut state);
        }
    }

    /// A file to read from.
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

    /// Makes the next file that is wanted; `false` if all are there.
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

    /// What the preparer thread does.
    fn prepare(&self) {
        let mut told = false;
        while !self.state.lock().stopping {
            match self.make_next() {
                Ok(true) => told = false,
                Ok(false) => {
                    let mut state = self.state.lock();
                    if state.made.0 >= state.wanted && !state.stopping {
                        self.changed.wait(&mut state);
                    }
                }
                Err(NoFile::NotYet(error)) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, "the next log file cannot be made; appends wait for it");
                    }
                    let mut state = self.state.lock();
                    if !state.stopping {
                        self.changed.wait_for(&mut state, RETRY_AFTER);
                    }
                }
                Err(NoFile::Broken(error)) => {
                    tracing::error!(%error, "no log file can be made any more");
                    return;
                }
            }
        }
    }

    /// Frees files that no group needs; surplus ones are removed.
    pub(super) fn recycle(&self, seqs: &[u64]) {
        let mut state = self.state.lock();
        state.retired.extend(seqs);
        // One at a time, the oldest first and each durable before the next: whatever a crash leaves of this has no
        // gap, and no file is written again while a power cut could give it its old name back.
        while let Some(&seq) = state.retired.front() {
            state.ready.remove(&seq);
            state.open.remove(&seq);
            let aside = MutexGuard::unlocked(&mut state, || set_aside(&*self.disk, seq));
            match aside {
                Ok(path) => add_free(&mut state.free, path),
                Err(NoFile::NotYet(error)) => {
                    tracing::warn!(seq, %error, "a log file that is not needed could not be set aside");
                    return;
                }
                Err(NoFile::Broken(error)) => {
                    tracing::error!(seq, %error, "the log's directory cannot be made durable");
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
                tracing::warn!(path = %path.display(), %error, "a log file that is not needed could not be removed");
            }
        }
    }

    /// Whether the next file could not be made and is tried again and again.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// From now on nobody waits for a file that cannot be made.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        if let Some(preparer) = self.preparer.lock().take() {
            // A preparer that panicked has said so.
            let _ = preparer.join();
        }
    }

    /// Makes a file, out of one that is not needed any more if there is one that is long enough.
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
        // Opening makes a file that is not there, which is then too short.
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
            // What it has is wanted for something else; if it cannot be removed the next try empties it.
            let _ = self.disk.remove(&path);
            return Err(NoFile::NotYet(error));
        }
        let file = self.disk.open(&path, OpenMode::Direct).map_err(NoFile::NotYet)?;
        Ok((path, file))
    }
}

/// Notes a file as free, once.
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

/// Gives a file that nobody needs a name under which no log is looked for, durably.
pub(super) fn set_aside(disk: &dyn Disk, seq: u64) -> Result<PathBuf, NoFile> {
    let spare = in_dir(&spare_name(seq));
    match disk.rename(&in_dir(&file_name(seq)), &spare) {
        // An earlier try had its effect although it failed.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NoFile::NotYet(error)),
        _ => {}
    }
    disk.sync_dir(Path::new(DIR)).map_err(NoFile::Broken)?;
    Ok(spare)
}
