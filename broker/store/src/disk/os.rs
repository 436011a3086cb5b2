//! The operating system's disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::Advice, io::Errno};

use super::{Disk, DiskFile, OpenMode};

/// Most buffers that the kernel takes in one write.
const BUFS_MAX: usize = 1024;

/// Files below one directory.
#[derive(Debug)]
pub struct OsDisk {
    root: PathBuf,
}

impl OsDisk {
    /// The tree below `root`, which is created if absent.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<OsDisk> {
        let root = root.into();
        create_dir(&root)?;
        Ok(OsDisk { root })
    }

    fn open_direct(&self, path: &Path, options: &OpenOptions, durable: bool) -> io::Result<OsFile> {
        // Not rustix's flag of this name, which is `O_SYNC`: that also writes the file's times, with a
        // journal commit.
        let sync = if durable { libc::O_DSYNC } else { 0 };
        let flags = libc::O_DIRECT | sync;
        match options.clone().custom_flags(flags).open(path) {
            Ok(file) => Ok(OsFile { file, direct: true, durable }),
            // tmpfs and some network file systems: buffered instead, and the caller syncs.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                Ok(OsFile::buffered(options.open(path)?))
            }
            Err(e) => Err(e),
        }
    }
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.root.join(path);
        let mut options = OpenOptions::new();
        options.read(true);
        let file = match mode {
            OpenMode::Read => OsFile::buffered(options.open(path)?),
            OpenMode::Create => OsFile::buffered(options.write(true).create(true).truncate(true).open(path)?),
            OpenMode::Direct => {
                self.open_direct(&path, options.write(true).create(true).truncate(false), true)?
            }
            OpenMode::DirectCreate => {
                self.open_direct(&path, options.write(true).create(true).truncate(true), false)?
            }
            OpenMode::DirectRead => {
                let file = self.open_direct(&path, &options, false)?;
                if !file.direct {
                    // After a failed sync the cache has pages that the medium lacks, and considers them
                    // written.
                    rustix::fs::fadvise(&file.file, 0, None, Advice::DontNeed)?;
                }
                file
            }
        };
        Ok(Arc::new(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        create_dir(&self.root.join(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(dir))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                names.push((name, meta.len()));
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Creates a directory and its parents, each durable in its parent: a log in a directory that a power cut
/// removes is lost.
fn create_dir(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        create_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => Err(e),
        // If it existed, the process that created it may have been killed before this sync.
        _ => File::open(parent)?.sync_all(),
    }
}

struct OsFile {
    file: File,
    direct: bool,
    durable: bool,
}

impl OsFile {
    fn buffered(file: File) -> OsFile {
        OsFile { file, direct: false, durable: false }
    }

    /// Finishes a write that took only part of the buffers.
    fn write_rest(&self, bufs: &[IoSlice<'_>], position: u64, mut done: usize) -> io::Result<()> {
        let mut bufs: Vec<IoSlice<'_>> = bufs.to_vec();
        let mut rest = &mut bufs[..];
        IoSlice::advance_slices(&mut rest, done);
        while !rest.is_empty() {
            let count = rest.len().min(BUFS_MAX);
            match rustix::io::pwritev(&self.file, &rest[..count], position + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    done += n;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, position) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        // The kernel nearly always takes everything at once.
        let done = match rustix::io::pwritev(&self.file, &bufs[..bufs.len().min(BUFS_MAX)], position) {
            Ok(n) => n,
            Err(Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        if done < len { self.write_rest(bufs, position, done) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn changed_ms(&self) -> io::Result<i64> {
        let metadata = self.file.metadata()?;
        Ok(metadata.ctime().saturating_mul(1000).saturating_add(metadata.ctime_nsec() / 1_000_000))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn is_durable(&self) -> bool {
        self.durable
    }
}
