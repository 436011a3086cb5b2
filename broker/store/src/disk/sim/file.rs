//! Open files of the faulty disk.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
};

use super::{Op, Outcome, SimDisk, Target, content::torn_ranges, digest, power_is_off, whole_or_torn};
use crate::disk::{BLOCK_BYTES, DiskFile};

/// An open file of the disk.
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) id: u64,
    /// The name that it was opened by.
    pub(super) path: PathBuf,
    pub(super) direct: bool,
    pub(super) durable: bool,
    pub(super) writes: bool,
}

impl SimFile {
    /// What the kernel refuses for a direct file.
    fn check_aligned(&self, address: usize, len: usize, position: u64) -> io::Result<()> {
        let aligned = [address, len, position as usize].iter().all(|n| n.is_multiple_of(BLOCK_BYTES));
        if self.direct && !aligned { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writes { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for SimFile {
    /// The simulation has no clock.
    fn changed_ms(&self) -> io::Result<i64> {
        Ok(0)
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.check_aligned(buf.as_ptr() as usize, buf.len(), position)?;
        let (mut state, outcome) = self.disk.begin(Op::Read, Target::File(self), position)?;
        if let Outcome::Torn(error) = outcome {
            return Err(error);
        }
        let content = &state.files[&self.id];
        let start = (position as usize).min(content.len());
        let mut n = buf.len().min(content.len() - start);
        if content.is_bad(&(start..start + n)) {
            return Err(io::Error::other("a sector cannot be read"));
        }
        buf[..n].copy_from_slice(&content.bytes()[start..start + n]);
        let unit = if self.direct { BLOCK_BYTES } else { 1 };
        if state.short_reads && n > unit && state.chance.coin() {
            n = (1 + state.chance.below(n / unit)) * unit;
            n = n.min(buf.len());
        }
        Ok(n)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.check_writable()?;
        bufs.iter().try_for_each(|b| self.check_aligned(b.as_ptr() as usize, b.len(), position))?;
        let mut data = Vec::new();
        bufs.iter().for_each(|buf| data.extend_from_slice(buf));
        let (mut state, outcome) =
            self.disk.begin(Op::Write, Target::File(self), position ^ digest(&data) << 32)?;
        let at = position as usize;
        let room = state.len_max(self.id).saturating_sub(position).min(data.len() as u64) as usize;
        match outcome {
            Outcome::Done => {
                let fits = if room < data.len() { room / BLOCK_BYTES * BLOCK_BYTES } else { room };
                if fits > 0 {
                    state.write(self.id, at, &data[..fits], self.durable);
                }
                if fits < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            }
            Outcome::Torn(error) => {
                let kept = torn_ranges(room, &mut state.chance);
                for range in kept {
                    state.write(self.id, at + range.start, &data[range], self.durable);
                }
                Err(error)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, outcome) = self.disk.begin(Op::Sync, Target::File(self), 0)?;
        let state = &mut *state;
        let content = state.files.get_mut(&self.id).expect("an open file has its content");
        match outcome {
            Outcome::Done => {
                content.sync();
                Ok(())
            }
            Outcome::Torn(error) => {
                content.sync_badly(&mut state.chance);
                Err(error)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        if state.off {
            return Err(power_is_off());
        }
        Ok(state.files[&self.id].len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let (mut state, outcome) = self.disk.begin(Op::SetLen, Target::File(self), len)?;
        if len > state.len_max(self.id) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        whole_or_torn(&mut state, outcome, |state| {
            state.files.get_mut(&self.id).expect("an open file has its content").set_len(len as usize);
            Ok(())
        })
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn is_durable(&self) -> bool {
        self.durable
    }
}
