//! How much more may be produced before the disk is too full.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// A batch is written into the log and into a run.
const COPIES_OF_A_BATCH: u64 = 2;

/// Why what is produced is not taken now, though the partitions have leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteStop {
    /// The mark is reached, or as good as reached: a batch was refused because it would have crossed it.
    #[error(
        "the disk is full: {} MiB are free and disk.low.bytes keeps {} MiB, so that produce is refused until there is room",
        free_bytes >> 20, low_bytes >> 20
    )]
    DiskLow {
        /// What was free when somebody last looked.
        free_bytes: u64,
        /// What must stay free.
        low_bytes: u64,
    },
    /// No mark kept the disk from becoming full.
    #[error(
        "the disk is full: the log cannot make its next file, so that what is produced waits until there is room"
    )]
    LogFull,
}

/// What must leave memory cannot be written, which is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "what is in memory cannot be written to its files ({reason}); that is tried again every few seconds, and until then the log has it, and grows"
)]
pub struct FlushTrouble {
    /// Why, in words.
    pub reason: String,
}

/// Room on the disk, between two looks at its free space.
#[derive(Debug)]
pub(super) struct DiskRoom {
    low: AtomicBool,
    /// A batch was refused between the last two looks.
    short: AtomicBool,
    /// Bytes of batches that may be taken until the free space is looked at again. Negative when one was refused.
    bytes: AtomicI64,
    free_bytes: AtomicU64,
    low_bytes: AtomicU64,
}

impl Default for DiskRoom {
    /// All the room that there could be, until somebody has looked.
    fn default() -> Self {
        DiskRoom {
            low: AtomicBool::new(false),
            short: AtomicBool::new(false),
            bytes: AtomicI64::new(i64::MAX),
            free_bytes: AtomicU64::new(0),
            low_bytes: AtomicU64::new(0),
        }
    }
}

impl DiskRoom {
    /// Notes what is free and what must stay so; whether the disk is low now, and whether that has changed.
    pub(super) fn set(&self, free_bytes: u64, low_bytes: u64) -> (bool, bool) {
        let room = match low_bytes {
            // Without a mark there is none to be kept from.
            0 => i64::MAX,
            _ => i64::try_from(free_bytes.saturating_sub(low_bytes) / COPIES_OF_A_BATCH).unwrap_or(i64::MAX),
        };
        self.free_bytes.store(free_bytes, Relaxed);
        self.low_bytes.store(low_bytes, Relaxed);
        self.short.store(self.bytes.swap(room, Relaxed) < 0, Relaxed);
        let low = free_bytes < low_bytes;
        (low, self.low.swap(low, Relaxed) != low)
    }

    /// Takes the room for a batch; `false` if there may be none.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let bytes = bytes as i64;
        !self.is_low() && self.bytes.fetch_sub(bytes, Relaxed) >= bytes
    }

    pub(super) fn is_low(&self) -> bool {
        self.low.load(Relaxed)
    }

    /// Whether batches are refused. Whoever is refused just above the mark is so until a whole look passes in which
    /// nobody was: else it would be told only by chance.
    pub(super) fn stop(&self) -> Option<WriteStop> {
        let refuses = self.is_low() || self.short.load(Relaxed) || self.bytes.load(Relaxed) < 0;
        refuses.then(|| WriteStop::DiskLow {
            free_bytes: self.free_bytes.load(Relaxed),
            low_bytes: self.low_bytes.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_the_disk_had_room_for_when_it_was_looked_at() {
        let room = DiskRoom::default();
        assert!(room.take(1 << 40), "nobody has looked yet");
        assert_eq!(room.set(1000, 400), (false, false));
        assert!(room.take(200) && room.take(100), "both copies of 300 bytes fit");
        assert!(!room.take(1), "the mark may be reached");
        assert_eq!(room.set(399, 400), (true, true));
        assert!(!room.take(0), "it is");
        assert_eq!(room.set(402, 400), (false, true));
        assert!(room.take(1) && !room.take(1));
        assert_eq!(room.set(0, 0), (false, false));
        assert!(room.take(1 << 20), "no mark is set");
    }

    #[test]
    fn who_is_refused_can_read_why_until_nobody_is_for_a_whole_look() {
        let room = DiskRoom::default();
        assert_eq!(room.stop(), None);
        room.set(399, 400);
        assert_eq!(room.stop(), Some(WriteStop::DiskLow { free_bytes: 399, low_bytes: 400 }));
        room.set(500, 400);
        assert!(room.stop().is_none() && room.take(50));
        assert!(!room.take(1) && room.stop().is_some(), "it is not low, but a batch was refused");
        room.set(401, 400);
        assert_eq!(room.stop(), Some(WriteStop::DiskLow { free_bytes: 401, low_bytes: 400 }));
        room.set(402, 400);
        assert_eq!(room.stop(), None, "nobody was refused since");
        room.set(0, 0);
        assert_eq!((room.take(1 << 40), room.stop()), (true, None), "no mark is set");
    }
}
