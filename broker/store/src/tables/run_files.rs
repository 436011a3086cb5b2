//! The open files of runs, bounded in number.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    layout::run_path,
    run::{Run, read_window},
};
use crate::disk::{BLOCK_BYTES, BufferPool, Disk, DiskFile, OpenMode};

/// Read buffers that are kept for reuse.
const SPARE_BUFFERS_MAX: usize = 16;

/// Opens runs for reading, and keeps the most recently read files open.
pub(super) struct RunFiles {
    disk: Arc<dyn Disk>,
    buffers: Arc<BufferPool>,
    files_max: usize,
    open: Mutex<OpenFiles>,
    /// Notified when another file may be opened.
    released: Condvar,
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<u64, OpenFile>,
    /// Files that are being opened.
    opening: usize,
    uses: u64,
}

struct OpenFile {
    file: Arc<dyn DiskFile>,
    readers: usize,
    last_use: u64,
}

/// A file that stays open while it is read.
struct FileInUse<'a> {
    files: &'a RunFiles,
    run: u64,
    file: Arc<dyn DiskFile>,
}

impl OpenFiles {
    fn acquire(&mut self, run: u64) -> Option<Arc<dyn DiskFile>> {
        self.uses += 1;
        let open = self.files.get_mut(&run)?;
        (open.readers, open.last_use) = (open.readers + 1, self.uses);
        Some(open.file.clone())
    }

    /// Closes the least recently read file; false if all are being read.
    fn close_oldest(&mut self) -> bool {
        let unused = self.files.iter().filter(|(_, file)| file.readers == 0);
        let oldest = unused.min_by_key(|(_, file)| file.last_use).map(|(run, _)| *run);
        oldest.and_then(|run| self.files.remove(&run)).is_some()
    }
}

impl RunFiles {
    /// Runs on `disk`, of which about `read_bytes` are read at once, and at most `files_max` are open.
    pub(super) fn new(disk: Arc<dyn Disk>, read_bytes: usize, files_max: usize) -> RunFiles {
        assert!(files_max > 0, "no run could be read");
        // A read may start and end in the middle of a block.
        let buffers = BufferPool::new(read_bytes + 2 * BLOCK_BYTES, SPARE_BUFFERS_MAX);
        RunFiles { disk, buffers, files_max, open: Mutex::default(), released: Condvar::new() }
    }

    /// The run's file, opened if necessary; waits for a reader of another file when the limit of open files
    /// is reached.
    fn acquire(&self, run: u64) -> io::Result<FileInUse<'_>> {
        let in_use = |file| FileInUse { files: self, run, file };
        let mut open = self.open.lock();
        loop {
            if let Some(file) = open.acquire(run) {
                return Ok(in_use(file));
            }
            if open.files.len() + open.opening < self.files_max {
                break;
            }
            if !open.close_oldest() {
                self.released.wait(&mut open);
            }
        }
        open.opening += 1;
        let opened = MutexGuard::unlocked(&mut open, || self.disk.open(&run_path(run), OpenMode::DirectRead));
        open.opening -= 1;
        // The count may be too high: nothing was opened, or another reader opened the same file meanwhile.
        self.released.notify_one();
        let file = opened?;
        open.files.entry(run).or_insert(OpenFile { file, readers: 0, last_use: 0 });
        Ok(in_use(open.acquire(run).expect("inserted above")))
    }

    /// Reads bytes of a run without verifying them.
    pub(super) fn read(&self, run: &Run, position: u64, len: usize) -> io::Result<Bytes> {
        read_window(&*self.acquire(run.id)?.file, position, len, |bytes| self.buffers.take(bytes))
    }

    /// Removes the file of a run that has no reader any more.
    pub(super) fn remove(&self, run: u64) -> io::Result<()> {
        self.open.lock().files.remove(&run);
        self.released.notify_one();
        self.disk.remove(&run_path(run))
    }
}

impl Drop for FileInUse<'_> {
    fn drop(&mut self) {
        let mut open = self.files.open.lock();
        if let Some(file) = open.files.get_mut(&self.run) {
            file.readers -= 1;
            if file.readers == 0 {
                self.files.released.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::mpsc, time::Duration};

    use super::*;
    use crate::disk::OsDisk;

    /// How many files below `dir` this process has open.
    fn open_below(dir: &Path) -> usize {
        let open = fs::read_dir("/proc/self/fd").expect("a Linux system");
        let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(dir)).count()
    }

    fn files(dir: &Path, runs: u64, files_max: usize) -> RunFiles {
        let disk = OsDisk::new(dir).expect("a folder");
        for run in 0..runs {
            let path = dir.join(run_path(run));
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, [0; BLOCK_BYTES]).expect("written");
        }
        RunFiles::new(Arc::new(disk), BLOCK_BYTES, files_max)
    }

    #[test]
    fn the_file_that_was_read_longest_ago_is_closed_for_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = files(dir.path(), 3, 2);
        for run in [0, 1, 0, 2] {
            files.acquire(run).expect("there");
        }
        assert_eq!(open_below(dir.path()), 2);
        let open = files.open.lock();
        assert!(open.files.contains_key(&0) && open.files.contains_key(&2));
    }

    #[test]
    fn a_reader_waits_while_as_many_files_as_allowed_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = files(dir.path(), 4, 2);
        let (first, second) = (files.acquire(0).expect("there"), files.acquire(1).expect("there"));
        let (done_tx, done_rx) = mpsc::channel();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let third = files.acquire(2).expect("there");
                done_tx.send(()).expect("the test waits");
                drop(third);
            });
            assert!(done_rx.recv_timeout(Duration::from_millis(50)).is_err(), "a third file is open");
            assert_eq!(open_below(dir.path()), 2);
            drop(first);
            waiting.join().expect("it reads");
        });
        assert_eq!(open_below(dir.path()), 2);
        drop(second);
        assert!(files.acquire(9).is_err(), "no such file");
        files.acquire(3).expect("a file that is not there takes no place");
    }
}
