//! The seam between the store and the disk.

mod aligned;
mod os;
mod pool;
#[cfg(any(test, feature = "testing"))]
pub mod sim;

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

pub use aligned::{AlignedBuf, BLOCK_BYTES, align_down, align_up};
pub use os::OsDisk;
pub use pool::{BufferPool, PooledBuf};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading through the page cache.
    Read,
    /// For reading and writing through the page cache; created if absent, truncated if present.
    Create,
    /// For reading and writing past the page cache, each write durable when it returns; created if absent.
    Direct,
    /// For reading and writing past the page cache, durable only after a sync, which suits a large new file;
    /// created if absent, truncated if present.
    DirectCreate,
    /// For reading what is on the medium: past the page cache, or, where direct I/O is refused, after
    /// dropping the cached pages.
    DirectRead,
}

/// A directory tree that belongs to one store. Paths are relative to it.
///
/// Contract: `rename` replaces atomically; a new, renamed or removed name is durable only after `sync_dir` of
/// its directory; an error means that the effect is unknown.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a directory and its parents, durably; does nothing if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing the target if there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names and lengths in bytes of the files in a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Free bytes.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
///
/// Contract: a file for which [`is_direct`](DiskFile::is_direct) holds takes only positions, lengths and
/// buffers that are multiples of [`BLOCK_BYTES`]. Where [`is_durable`](DiskFile::is_durable) holds, a write
/// is durable when it returns; elsewhere only after [`sync`](DiskFile::sync). A failed write or sync may have
/// had any part of its effect, and a retry that succeeds proves nothing.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; 0 means the end of the file.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all buffers one after the other.
    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Makes all earlier writes durable.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// When its content or its attributes last changed, in milliseconds since the Unix epoch. Unlike the time of last
    /// modification, a backup that is restored cannot set it back.
    fn changed_ms(&self) -> io::Result<i64>;
    /// Truncates or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Whether the file bypasses the page cache.
    fn is_direct(&self) -> bool;
    /// Whether a write is durable when it returns.
    fn is_durable(&self) -> bool;

    /// Fills `buf`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], position + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
            // A direct read returns a partial block only at the end of the file.
            if done < buf.len() && self.is_direct() && !done.is_multiple_of(BLOCK_BYTES) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Writes zeros from the start up to `len`, in slices, and syncs them.
    fn allocate(&self, len: u64) -> io::Result<()> {
        const SLICE_BYTES: u64 = 1 << 20;
        let zeros = AlignedBuf::zeroed(SLICE_BYTES.min(align_up(len as usize) as u64) as usize);
        let mut position = 0;
        while position < len {
            let n = (zeros.len() as u64).min(len - position) as usize;
            self.write_at(&[IoSlice::new(&zeros[..n])], position)?;
            position += n as u64;
        }
        self.sync()
    }
}
