//! How many bytes may be produced before the disk is too full.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

/// A batch is written into the log and into a run.
const COPIES_OF_A_BATCH: u64 = 2;

/// Hysteresis: a disk that is low, or that had no room for a batch, stays low until the free space exceeds the mark by
/// 1/16. Otherwise it would flap at the mark, and a load balancer would move producers away and back every second.
const HYSTERESIS_DIVISOR: u64 = 16;

/// One sample of the disk's free space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskSample {
    pub(crate) free_bytes: u64,
    /// Bytes in memory that have still to be written and for which no space is reserved.
    pub(crate) owed_bytes: u64,
    /// The log cannot create its next file.
    pub(crate) log_waits: bool,
}

/// Why produce requests are refused although the partitions have leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteStop {
    /// Free space is below the mark, or a batch was refused because it could have crossed it.
    #[error(
        "the disk is full: {} MiB remain after memory is flushed, and disk.low.bytes reserves {} MiB; produce is refused until there is room",
        left_bytes >> 20, low_bytes >> 20
    )]
    DiskLow {
        /// Free bytes of the last sample, minus the bytes in memory that have still to be written.
        left_bytes: u64,
        /// Bytes that must stay free.
        low_bytes: u64,
    },
    /// The log cannot create its next file.
    #[error("the disk is full: the log cannot create its next file; produce is refused until there is room")]
    LogFull,
    /// The disk has free space, but its file system cannot create another file.
    #[error(
        "the volume has no inodes left, though {} MiB are free: the log cannot create its next file; produce is refused until files are removed",
        free_bytes >> 20
    )]
    NoInodes { free_bytes: u64 },
}

/// Flushes fail and are retried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "memory cannot be flushed to files ({reason}); the flush is retried every few seconds, and until then the log keeps the data and grows"
)]
pub struct FlushTrouble {
    pub reason: String,
}

/// Room on the disk between two samples of its free space.
#[derive(Debug)]
pub(super) struct DiskHeadroom {
    low: AtomicBool,
    /// A batch was refused between the last two samples.
    refused: AtomicBool,
    /// Bytes of batches that may be accepted until the next sample. Negative when a batch was refused.
    bytes: AtomicI64,
    left_bytes: AtomicU64,
    low_bytes: AtomicU64,
}

impl Default for DiskHeadroom {
    /// Unlimited until the first sample.
    fn default() -> Self {
        DiskHeadroom {
            low: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            bytes: AtomicI64::new(i64::MAX),
            left_bytes: AtomicU64::new(0),
            low_bytes: AtomicU64::new(0),
        }
    }
}

impl DiskHeadroom {
    /// Sets a new sample and the bytes that must stay free; returns whether the disk is low now, and whether that changed.
    pub(super) fn set(&self, sample: DiskSample, low_bytes: u64) -> (bool, bool) {
        let left_bytes = sample.free_bytes.saturating_sub(sample.owed_bytes);
        let room = match low_bytes {
            // Without a mark there is no limit.
            0 => i64::MAX,
            _ => i64::try_from(left_bytes.saturating_sub(low_bytes) / COPIES_OF_A_BATCH).unwrap_or(i64::MAX),
        };
        self.left_bytes.store(left_bytes, Relaxed);
        self.low_bytes.store(low_bytes, Relaxed);
        let refused = self.bytes.swap(room, Relaxed) < 0;
        self.refused.store(refused, Relaxed);
        // While the log waits, its repeated attempts to create a file take up space for a moment.
        let stays = (self.is_low() || refused)
            && (sample.log_waits || left_bytes < low_bytes.saturating_add(low_bytes / HYSTERESIS_DIVISOR));
        let low = low_bytes > 0 && (left_bytes < low_bytes || stays);
        (low, self.low.swap(low, Relaxed) != low)
    }

    /// Takes the room for a batch; `false` if there may not be enough.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let bytes = bytes as i64;
        !self.is_low() && self.bytes.fetch_sub(bytes, Relaxed) >= bytes
    }

    pub(super) fn is_low(&self) -> bool {
        self.low.load(Relaxed)
    }

    /// Why batches are refused, if they are. A refusal just above the mark is reported until one whole sample interval
    /// passes without a refusal: otherwise readers would see it only by chance.
    pub(super) fn stop(&self) -> Option<WriteStop> {
        let refuses = self.is_low() || self.refused.load(Relaxed) || self.bytes.load(Relaxed) < 0;
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
    fn a_low_disk_stays_low_until_there_is_clearly_more_space_and_the_log_continues() {
        let room = DiskHeadroom::default();
        let waits = |free_bytes| DiskSample { log_waits: true, ..free(free_bytes) };
        assert_eq!(room.set(waits(1000), 400), (false, false), "the log refuses by itself");
        assert_eq!(room.set(free(399), 400), (true, true));
        assert_eq!(room.set(free(424), 400), (true, false));
        assert_eq!(room.set(waits(1000), 400), (true, false), "its next attempt takes that space again");
        assert_eq!(room.set(free(425), 400), (false, true));
        assert_eq!(room.set(free(400), 400), (false, false));
    }

    #[test]
    fn a_disk_just_above_its_mark_does_not_alternate_between_accepting_and_refusing() {
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
    fn bytes_in_memory_that_must_still_be_written_are_not_free() {
        let room = DiskHeadroom::default();
        assert_eq!(room.set(DiskSample { owed_bytes: 500, ..free(1000) }, 400), (false, false));
        assert!(room.take(50) && !room.take(1), "both copies of 50 bytes still fit");
        assert_eq!(room.set(DiskSample { owed_bytes: 601, ..free(1000) }, 400), (true, true));
        assert_eq!(room.stop(), Some(WriteStop::DiskLow { left_bytes: 399, low_bytes: 400 }));
    }

    #[test]
    fn no_more_is_accepted_than_the_last_sample_had_room_for() {
        let room = DiskHeadroom::default();
        assert!(room.take(1 << 40), "no sample yet");
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
    fn a_refusal_is_reported_until_a_whole_sample_interval_passes_without_one() {
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
        assert_eq!(room.stop(), None, "no batch was refused since");
        room.set(free(0), 0);
        assert_eq!((room.take(1 << 40), room.stop()), (true, None), "no mark is set");
    }
}
