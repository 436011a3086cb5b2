//! The leader epochs of a partition and their start offsets.

/// Most epochs kept per partition; the oldest are removed first.
pub const EPOCHS_MAX: usize = 1024;

/// The first offset that an epoch wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochStart {
    pub(super) epoch: i32,
    pub(super) offset: i64,
}

/// The epochs of one partition. Invariant: epochs and offsets both increase strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    starts: Vec<EpochStart>,
}

impl Epochs {
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &EpochStart> {
        self.starts.iter()
    }

    pub(super) fn latest(&self) -> Option<i32> {
        self.starts.last().map(|start| start.epoch)
    }

    /// Records that `epoch` writes at `offset`. An epoch that is not newer than the latest changes nothing.
    pub(super) fn record(&mut self, epoch: i32, offset: i64) {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return;
        }
        if self.starts.len() == EPOCHS_MAX {
            self.starts.remove(0);
        }
        // Most partitions have one epoch for a long time.
        self.starts.reserve_exact(1);
        self.starts.push(EpochStart { epoch, offset });
    }

    /// The largest epoch up to `epoch` and its end offset, as Kafka answers `OffsetForLeaderEpoch`. An epoch
    /// older than all gets the start offset of the first one.
    pub(super) fn end_of(&self, epoch: i32, next_offset: i64) -> (i32, i64) {
        let newer = self.starts.partition_point(|start| start.epoch <= epoch);
        let end = self.starts.get(newer).map_or(next_offset, |start| start.offset);
        let floor = newer.checked_sub(1).map_or(epoch, |at| self.starts[at].epoch);
        (floor, end)
    }

    /// Removes epochs whose records are all deleted.
    pub(super) fn cut_before(&mut self, log_start: i64) {
        let behind = self.starts.partition_point(|start| start.offset <= log_start);
        let gone = behind.saturating_sub(1);
        if gone > 0 {
            self.starts.drain(..gone);
            self.starts.shrink_to_fit();
        }
    }

    pub(super) fn validate(&self, next_offset: i64) {
        let grows = |pair: &[EpochStart]| pair[0].epoch < pair[1].epoch && pair[0].offset < pair[1].offset;
        assert!(self.starts.windows(2).all(grows), "epochs do not grow: {:?}", self.starts);
        assert!(self.starts.len() <= EPOCHS_MAX, "{} epochs", self.starts.len());
        let last = self.starts.last().map_or(-1, |start| start.offset);
        assert!(last < next_offset, "an epoch starts at {last}, which is not written: {next_offset} is next");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(starts: &[(i32, i64)]) -> Epochs {
        let mut epochs = Epochs::default();
        starts.iter().for_each(|(epoch, offset)| epochs.record(*epoch, *offset));
        epochs
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_starts() {
        let epochs = epochs(&[(2, 0), (3, 10), (7, 25)]);
        assert_eq!(epochs.end_of(2, 40), (2, 10));
        assert_eq!(epochs.end_of(3, 40), (3, 25));
        assert_eq!(epochs.end_of(5, 40), (3, 25), "5 wrote nothing, 3 is the largest before it");
        assert_eq!(epochs.end_of(7, 40), (7, 40));
        assert_eq!(epochs.end_of(9, 40), (7, 40), "9 has written nothing yet");
        assert_eq!(epochs.end_of(1, 40), (1, 0), "older than all");
        assert_eq!(Epochs::default().end_of(4, 0), (4, 0));
    }

    #[test]
    fn an_epoch_is_noted_once_and_never_an_older_one() {
        let epochs = epochs(&[(2, 0), (2, 5), (1, 6), (4, 7)]);
        assert_eq!(epochs.starts, [EpochStart { epoch: 2, offset: 0 }, EpochStart { epoch: 4, offset: 7 }]);
        epochs.validate(8);
    }

    #[test]
    fn epochs_without_records_are_forgotten() {
        let mut cut = epochs(&[(2, 0), (3, 10), (7, 25)]);
        cut.cut_before(9);
        assert_eq!(cut.iter().count(), 3);
        cut.cut_before(10);
        assert_eq!(cut.iter().count(), 2, "epoch 2 has nothing left");
        cut.cut_before(1000);
        assert_eq!(cut.latest(), Some(7), "the last one stays, for what comes");
    }

    #[test]
    fn no_more_than_the_bound_are_kept() {
        let mut epochs = Epochs::default();
        (0..EPOCHS_MAX as i32 + 10).for_each(|epoch| epochs.record(epoch, i64::from(epoch)));
        assert_eq!(epochs.iter().count(), EPOCHS_MAX);
        assert_eq!(epochs.iter().next().map(|start| start.epoch), Some(10));
        epochs.validate(i64::MAX);
    }
}
