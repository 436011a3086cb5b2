//! Reserved disk space, for writing the memtable and a clean stop when the disk is full.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::FallocateFlags;

/// The file's name in the data directory.
const NAME: &str = "reserved";
/// The file grows in steps of this size.
const STEP_BYTES: u64 = 16 << 20;

/// The reserved file of a data directory.
///
/// It covers at least the space that flushing memory takes, and grows with it: a broker with little data
/// reserves little. It is never read.
pub(super) struct Reserve {
    path: PathBuf,
    /// Its length; 0 if it does not exist.
    bytes: u64,
}

impl Reserve {
    /// Opens the existing file, if any.
    pub(super) fn open(data_dir: &Path) -> Reserve {
        let path = data_dir.join(NAME);
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
        Reserve { path, bytes }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// By how much `needed` bytes exceed it.
    pub(super) fn lacks(&self, needed: u64) -> u64 {
        needed.saturating_sub(self.bytes)
    }

    /// Creates or extends the file to cover `needed` bytes and some small files; never so far that less than
    /// `free_min` of `free` bytes are left.
    pub(super) fn cover(&mut self, needed: u64, free: u64, free_min: u64) -> io::Result<()> {
        let wanted = (needed.div_ceil(STEP_BYTES) + 1) * STEP_BYTES;
        let more = wanted.saturating_sub(self.bytes);
        if more == 0 || free < free_min.saturating_add(more) {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => self.bytes = wanted,
            // A file system without support for allocation cannot reserve space.
            Err(rustix::io::Errno::OPNOTSUPP) => self.bytes = wanted,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Releases the space; returns whether there was any.
    pub(super) fn release(&mut self) -> io::Result<bool> {
        if std::mem::take(&mut self.bytes) == 0 {
            return Ok(false);
        }
        fs::remove_file(&self.path)?;
        // On some file systems the space is free only once the removal is durable.
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_grows_leaves_the_minimum_free_and_is_given_back_once() {
        let dir = std::env::temp_dir().join(format!("millstream-reserve-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let file_bytes = || fs::metadata(dir.join(NAME)).map_or(0, |meta| meta.len());
        let mut reserve = Reserve::open(&dir);
        assert!(!reserve.release().expect("nothing to do"));
        reserve.cover(0, u64::MAX, 0).expect("there is room");
        assert_eq!((reserve.bytes(), file_bytes()), (STEP_BYTES, STEP_BYTES));
        let low = 100 << 20;
        reserve.cover(STEP_BYTES + 1, low + 2 * STEP_BYTES - 1, low).expect("nothing is written");
        assert_eq!(file_bytes(), STEP_BYTES, "it would leave too little");
        reserve.cover(STEP_BYTES + 1, low + 2 * STEP_BYTES, low).expect("there is room");
        assert_eq!(file_bytes(), 3 * STEP_BYTES);
        reserve.cover(0, u64::MAX, 0).expect("nothing to do");
        let mut again = Reserve::open(&dir);
        assert_eq!(again.bytes(), 3 * STEP_BYTES, "it neither shrinks nor is it forgotten");
        assert!(again.release().expect("it is removed"));
        assert_eq!((again.bytes(), file_bytes()), (0, 0));
        fs::remove_dir(&dir).expect("nothing else was made");
    }
}
