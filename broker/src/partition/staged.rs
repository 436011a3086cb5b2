//! Batches to be written to the log: copied once, directly into the log's buffer, and stamped there.

use bytes::Bytes;
use millstream_model::{PartitionId, batch};
use millstream_state::partition as commands;
use millstream_store::wal::FramePayload;

/// One batch with its assigned offset and epoch.
pub(super) struct StagedBatch {
    pub(super) partition: PartitionId,
    pub(super) bytes: Bytes,
    pub(super) base_offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) log_append_ms: Option<i64>,
    /// The records' largest timestamp, if the header has a different one.
    pub(super) max_timestamp: Option<i64>,
}

/// The append command of one proposal.
pub(super) struct StagedAppend {
    now_ms: i64,
    table: Vec<(PartitionId, usize)>,
    batches: Vec<StagedBatch>,
    len: usize,
}

impl StagedAppend {
    pub(super) fn new(now_ms: i64, batches: Vec<StagedBatch>) -> StagedAppend {
        let table: Vec<_> = batches.iter().map(|b| (b.partition, b.bytes.len())).collect();
        let len = commands::append_command_len(&table);
        StagedAppend { now_ms, table, batches, len }
    }
}

impl FramePayload for StagedAppend {
    fn len(&self) -> usize {
        self.len
    }

    fn write(&self, out: &mut [u8]) {
        let mut at = commands::write_append_head(out, self.now_ms, &self.table);
        for staged in &self.batches {
            let place = &mut out[at..at + staged.bytes.len()];
            place.copy_from_slice(&staged.bytes);
            batch::stamp(place, staged.base_offset, staged.leader_epoch);
            match (staged.log_append_ms, staged.max_timestamp) {
                (Some(now_ms), _) => batch::stamp_log_append_time(place, now_ms),
                (None, Some(time)) => batch::stamp_max_timestamp(place, time),
                (None, None) => {}
            }
            at += staged.bytes.len();
        }
    }
}
