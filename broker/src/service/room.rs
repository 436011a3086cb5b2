//! How much more may be produced before the disk is too full.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

/// A batch is written into the log and into a run.
const COPIES_OF_A_BATCH: u64 = 2;

/// Room on the disk, between two looks at its free space.
#[derive(Debug)]
pub(super) struct DiskRoom {
    low: AtomicBool,
    /// Bytes of batches that may be taken until the free space is looked at again.
    bytes: AtomicI64,
}

impl Default for DiskRoom {
    /// All the room that there could be, until somebody has looked.
    fn default() -> Self {
        DiskRoom { low: AtomicBool::new(false), bytes: AtomicI64::new(i64::MAX) }
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
        self.bytes.store(room, Relaxed);
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
}
