//! How much more may be produced before the disk is too full.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// A batch is written into the log and into a run.
const COPIES_OF_A_BATCH: u64 = 2;

/// A disk that is low, or that had no room for a batch, is low until there is this part more than the mark: else it would
/// be low by turns at the mark, and a load balancer would send producers away and back each second.
const PART_MORE: u64 = 16;

/// What somebody saw who looked at the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskSample {
    /// What is free on it.
    pub(crate) free_bytes: u64,
    /// What memory takes on its way out, as far as no room is reserved for that.
    pub(crate) owed_bytes: u64,
    /// The log cannot make its next file.
    pub(crate) log_waits: bool,
}

/// Why what is produced is not taken now, though the partitions have leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteStop {
    /// The mark is reached, or as good as reached: a batch was refused because it would have crossed it.
    #[error(
        "the disk is full: {} MiB are left when what is in memory is written, and disk.low.bytes keeps {} MiB, so that produce is refused until there is room",
        left_bytes >> 20, low_bytes >> 20
    )]
    DiskLow {
        /// What was free when somebody last looked, without what memory takes on its way out.
        left_bytes: u64,
        /// What must stay free.
        low_bytes: u64,
    },
    /// No mark kept the disk from becoming full.
    #[error(
        "the disk is full: the log cannot make its next file, so that produce is refused until there is room"
    )]
    LogFull,
    /// The disk has room, and its file system takes no further file.
    #[error(
        "the volume has no inodes left, though {} MiB are free: the log cannot make its next file, so that produce is refused until files are removed",
        free_bytes >> 20
    )]
    NoInodes {
        /// What is free on the volume.
        free_bytes: u64,
    },
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
pub(super) struct DiskHeadroom {
    low: AtomicBool,
    /// A batch was refused between the last two looks.
    short: AtomicBool,
    /// Bytes of batches that may be taken until the free space is looked at again. Negative when one was refused.
    bytes: AtomicI64,
    left_bytes: AtomicU64,
    low_bytes: AtomicU64,
}

impl Default for DiskHeadroom {
    /// All the room that there could be, until somebody has looked.
    fn default() -> Self {
        DiskHeadroom {
            low: AtomicBool::new(false),
            short: AtomicBool::new(false),
            bytes: AtomicI64::new(i64::MAX),
            left_bytes: AtomicU64::new(0),
            low_bytes: AtomicU64::new(0),
        }
    }
}

impl DiskHeadroom {
    /// Notes what was seen and what must stay free; whether the disk is low now, and whether that has changed.
    pub(super) fn set(&self, look: DiskSample, low_bytes: u64) -> (bool, bool) {
        let left_bytes = look.free_bytes.saturating_sub(look.owed_bytes);
        let room = match low_bytes {
            // Without a mark there is none to be kept from.
            0 => i64::MAX,
            _ => i64::try_from(left_bytes.saturating_sub(low_bytes) / COPIES_OF_A_BATCH).unwrap_or(i64::MAX),
        };
        self.left_bytes.store(left_bytes, Relaxed);
        self.low_bytes.store(low_bytes, Relaxed);
        let refused = self.bytes.swap(room, Relaxed) < 0;
        self.short.store(refused, Relaxed);
        // The log tries again and again to make a file, which takes room for a moment.
        let stays = (self.is_low() || refused)
            && (look.log_waits || left_bytes < low_bytes.saturating_add(low_bytes / PART_MORE));
        let low = low_bytes > 0 && (left_bytes < low_bytes || stays);
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
            left_bytes: self.left_bytes.load(Relaxed),
            low_bytes: self.low_bytes.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(free_bytes: u64) -> DiskSample {
        DiskSample { free_bytes, owed_bytes: 0, log_waits: false }
    }

    #[test]
    fn a_disk_that_is_low_is_so_until_there_is_clearly_more_and_the_log_goes_on() {
        let room = DiskHeadroom::default();
        let waits = |free_bytes| DiskSample { log_waits: true, ..free(free_bytes) };
        assert_eq!(room.set(waits(1000), 400), (false, false), "the log has its own word");
        assert_eq!(room.set(free(399), 400), (true, true));
        assert_eq!(room.set(free(424), 400), (true, false));
        assert_eq!(room.set(waits(1000), 400), (true, false), "its next try takes that again");
        assert_eq!(room.set(free(425), 400), (false, true));
        assert_eq!(room.set(free(400), 400), (false, false));
    }

    #[test]
    fn a_disk_that_hovers_just_above_its_mark_does_not_take_and_refuse_by_turns() {
        let room = DiskHeadroom::default();
        room.set(free(410), 400);
        assert!(room.stop().is_none() && room.take(5));
        assert!(!room.take(1), "the mark may be reached");
        for left in [410, 401, 424, 399, 408] {
            room.set(free(left), 400);
            assert!(room.stop().is_some() && !room.take(1), "{left} are left");
        }
        room.set(free(425), 400);
        assert!(room.stop().is_none() && room.take(1));
    }

    #[test]
    fn what_memory_takes_on_its_way_out_is_not_left() {
        let room = DiskHeadroom::default();
        assert_eq!(room.set(DiskSample { owed_bytes: 500, ..free(1000) }, 400), (false, false));
        assert!(room.take(50) && !room.take(1), "both copies of 50 bytes fit beside it");
        assert_eq!(room.set(DiskSample { owed_bytes: 601, ..free(1000) }, 400), (true, true));
        assert_eq!(room.stop(), Some(WriteStop::DiskLow { left_bytes: 399, low_bytes: 400 }));
    }

    #[test]
    fn no_more_is_taken_than_the_disk_had_room_for_when_it_was_looked_at() {
        let room = DiskHeadroom::default();
        assert!(room.take(1 << 40), "nobody has looked yet");
        assert_eq!(room.set(free(1000), 400), (false, false));
        assert!(room.take(200) && room.take(100), "both copies of 300 bytes fit");
        assert!(!room.take(1), "the mark may be reached");
        assert_eq!(room.set(free(399), 400), (true, true));
        assert!(!room.take(0), "it is");
        assert_eq!(room.set(free(426), 400), (false, true));
        assert!(room.take(13) && !room.take(1));
        assert_eq!(room.set(free(0), 0), (false, false));
        assert!(room.take(1 << 20), "no mark is set");
    }

    #[test]
    fn who_is_refused_can_read_why_until_nobody_is_for_a_whole_look() {
        let room = DiskHeadroom::default();
        assert_eq!(room.stop(), None);
        room.set(free(399), 400);
        assert_eq!(room.stop(), Some(WriteStop::DiskLow { left_bytes: 399, low_bytes: 400 }));
        room.set(free(500), 400);
        assert!(room.stop().is_none() && room.take(50));
        assert!(!room.take(1) && room.stop().is_some(), "it is not low, but a batch was refused");
        room.set(free(426), 400);
        assert_eq!(room.stop(), Some(WriteStop::DiskLow { left_bytes: 426, low_bytes: 400 }));
        room.set(free(427), 400);
        assert_eq!(room.stop(), None, "nobody was refused since");
        room.set(free(0), 0);
        assert_eq!((room.take(1 << 40), room.stop()), (true, None), "no mark is set");
    }
}
