//! The operating system's disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::OFlags, io::Errno};

use super::{Disk, DiskFile, OpenMode};

/// Files below one directory.
#[derive(Debug)]
pub struct OsDisk {
    root: PathBuf,
}

impl OsDisk {
    /// The tree below `root`, which is made if it is not there.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<OsDisk> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(OsDisk { root })
    }

    fn open_direct(&self, path: &Path, options: &OpenOptions, sync: bool) -> io::Result<OsFile> {
        let sync = if sync { OFlags::DSYNC } else { OFlags::empty() };
        let flags = (OFlags::DIRECT | sync).bits() as i32;
        match options.clone().custom_flags(flags).open(path) {
            Ok(file) => Ok(OsFile { file, direct: true }),
            // tmpfs and some network file systems: buffered instead, and the caller syncs.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                Ok(OsFile { file: options.open(path)?, direct: false })
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
            OpenMode::Read => OsFile { file: options.open(path)?, direct: false },
            OpenMode::Create => {
                OsFile { file: options.write(true).create(true).truncate(true).open(path)?, direct: false }
            }
            OpenMode::Direct => {
                self.open_direct(&path, options.write(true).create(true).truncate(false), true)?
            }
            OpenMode::DirectRead => self.open_direct(&path, &options, false)?,
        };
        Ok(Arc::new(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.root.join(path))
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

struct OsFile {
    file: File,
    direct: bool,
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

    fn write_at(&self, bufs: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        let mut bufs: Vec<IoSlice<'_>> = bufs.to_vec();
        let mut rest = &mut bufs[..];
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.file, rest, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    position += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn is_direct(&self) -> bool {
        self.direct
    }
}
