//! The state machine of one shard.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Read,
};

use bytes::Bytes;
use millstream_model::{LogId, PartitionId, batch::BatchHeader};

use super::{
    AppendCommand, NewPartition, PartitionState, ProduceRefusal, ShardCommand, Verdict,
    partition_state::end_of_batch,
    snapshot::{self, ShardSnapshot},
};
use crate::{
    DecodeError,
    group::{GroupMachine, GroupReply, GroupRestoreError},
};

/// The outcome of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Appended.
    Appended {
        /// Offset of its first record.
        base_offset: i64,
    },
    /// Already appended before.
    Duplicate {
        /// Offset of its first record.
        base_offset: i64,
        /// Its largest timestamp, as stored.
        max_timestamp: i64,
    },
    /// Refused because of its producer's state.
    Refused(ProduceRefusal),
    /// Stamped with another offset than the next one; nothing was appended.
    OffsetMismatch {
        /// The next offset.
        expected: i64,
        /// The batch's offset.
        found: i64,
    },
    /// The partition is not in this shard.
    UnknownPartition,
}

/// The result of applying a command.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardReply {
    /// One outcome per batch, in order.
    Append(Vec<AppendOutcome>),
    /// The reply of the groups' machine.
    Group(GroupReply),
    /// Done.
    Done,
}

/// An effect outside of the machine, to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a batch readable.
    Insert {
        /// Partition id.
        partition: PartitionId,
        /// The batch, a slice of the command's memory.
        batch: Bytes,
        /// Offset of its first record.
        base_offset: i64,
        /// Offset after its last record.
        next_offset: i64,
        /// Its largest timestamp, in milliseconds.
        max_timestamp: i64,
        /// Time of the proposal, in milliseconds.
        appended_ms: i64,
        /// Whether the header's largest timestamp was compared with the records; an earlier version did not.
        header_checked: bool,
    },
    /// Records below this offset were deleted.
    LogStart {
        /// The partition.
        partition: PartitionId,
        /// The new log start.
        offset: i64,
    },
    /// The partition was dropped with its records.
    Dropped {
        /// The partition.
        partition: PartitionId,
    },
    /// The partition was created.
    Created {
        /// The partition.
        partition: PartitionId,
    },
}

/// Why the bytes of a shard's state are invalid.
#[derive(Debug, thiserror::Error)]
pub enum ShardRestoreError {
    /// The partitions' part is invalid.
    #[error("the partitions' state cannot be read: {0}")]
    Partitions(#[from] DecodeError),
    /// The groups' part is invalid.
    #[error("the groups' state cannot be read: {0}")]
    Groups(#[from] GroupRestoreError),
}

/// Counters since the machine was created or restored. Not part of the replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Batches appended.
    pub appended: u64,
    /// Duplicate batches.
    pub duplicates: u64,
    /// Batches refused because of their producer.
    pub refused: u64,
    /// Batches stamped with an offset that is not the next one: expected only around a change of leader.
    pub offset_mismatches: u64,
}

/// The replicated state of one shard.
///
/// Invariant: every partition's state is valid, see [`PartitionState`].
#[derive(Debug)]
pub struct ShardMachine {
    pub(super) partitions: BTreeMap<PartitionId, PartitionState>,
    pub(super) groups: GroupMachine,
    stats: ShardStats,
}

impl Default for ShardMachine {
    fn default() -> ShardMachine {
        ShardMachine::new()
    }
}

impl ShardMachine {
    /// A shard without partitions.
    pub fn new() -> ShardMachine {
        ShardMachine {
            partitions: BTreeMap::new(),
            groups: GroupMachine::new(),
            stats: ShardStats::default(),
        }
    }

    /// Applies the command of the entry at `id`; adds effects to `effects`.
    pub fn apply(&mut self, id: LogId, command: ShardCommand, effects: &mut Vec<Effect>) -> ShardReply {
        match command {
            ShardCommand::Append(append) => return ShardReply::Append(self.append(&append, effects)),
            ShardCommand::Group(command) => return ShardReply::Group(self.groups.apply(id, command)),
            ShardCommand::CreatePartitions(partitions) => {
                partitions.into_iter().for_each(|new| self.create(new, effects));
            }
            ShardCommand::DropPartitions(partitions) => {
                let known =
                    partitions.into_iter().filter(|partition| self.partitions.remove(partition).is_some());
                effects.extend(known.map(|partition| Effect::Dropped { partition }));
            }
            ShardCommand::SetLogStart(moves) => {
                moves.into_iter().for_each(|(partition, to)| self.set_log_start(partition, to, effects));
            }
            ShardCommand::Extend(ends) => {
                for (partition, end) in ends {
                    self.partitions.get_mut(&partition).into_iter().for_each(|state| state.extend(end));
                }
            }
            ShardCommand::ExpireProducers { before_ms } => {
                self.partitions.values_mut().for_each(|partition| partition.producers.expire(before_ms));
            }
        }
        ShardReply::Done
    }

    fn append(&mut self, append: &AppendCommand, effects: &mut Vec<Effect>) -> Vec<AppendOutcome> {
        let mut outcomes = Vec::with_capacity(append.len());
        effects.reserve(append.len());
        for (partition, header, batch) in append.batches() {
            let outcome = self.append_one(partition, &header, append.now_ms());
            self.stats.count(&outcome);
            if let AppendOutcome::Appended { base_offset } = outcome {
                let next_offset = end_of_batch(&header, base_offset);
                effects.push(Effect::Insert {
                    partition,
                    batch,
                    base_offset,
                    next_offset,
                    max_timestamp: header.max_timestamp,
                    appended_ms: append.now_ms(),
                    header_checked: append.headers_checked(),
                });
            }
            outcomes.push(outcome);
        }
        assert_eq!(outcomes.len(), append.len(), "one outcome for each batch");
        outcomes
    }

    fn append_one(&mut self, partition: PartitionId, header: &BatchHeader, now_ms: i64) -> AppendOutcome {
        let Some(state) = self.partitions.get_mut(&partition) else { return AppendOutcome::UnknownPartition };
        let verdict = state.check(header);
        if let Verdict::Duplicate { base_offset, max_timestamp } = verdict {
            return AppendOutcome::Duplicate { base_offset, max_timestamp };
        }
        let (expected, found) = (state.next_offset(), header.base_offset);
        // Before the refusal: after a batch that was not appended this one is out of order through no fault
        // of its producer, which must learn that it may retry.
        if expected != found {
            return AppendOutcome::OffsetMismatch { expected, found };
        }
        if let Verdict::Refuse(refusal) = verdict {
            return AppendOutcome::Refused(refusal);
        }
        state.advance(header, found, header.max_timestamp, now_ms);
        AppendOutcome::Appended { base_offset: found }
    }

    fn create(&mut self, new: NewPartition, effects: &mut Vec<Effect>) {
        // A second creation, after a crash in the middle of a topic's creation, changes nothing.
        if let Entry::Vacant(entry) = self.partitions.entry(new.id) {
            entry.insert(PartitionState::new(new.start_offset, new.epoch_base));
            effects.push(Effect::Created { partition: new.id });
        }
    }

    fn set_log_start(&mut self, partition: PartitionId, to: i64, effects: &mut Vec<Effect>) {
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        let before = state.log_start();
        if state.move_log_start(to) {
            assert!(
                state.log_start() > before,
                "{partition}: log start {before} moved to {}",
                state.log_start()
            );
            effects.push(Effect::LogStart { partition, offset: state.log_start() });
        }
    }

    /// One partition's state.
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionState> {
        self.partitions.get(&id)
    }

    /// Every partition's state, sorted by id.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (PartitionId, &PartitionState)> {
        self.partitions.iter().map(|(id, state)| (*id, state))
    }

    /// The groups that the shard coordinates.
    pub fn groups(&self) -> &GroupMachine {
        &self.groups
    }

    /// Whether [`encode_expire_producers`](super::encode_expire_producers) with the same arguments would
    /// remove a producer.
    pub fn has_expired_producers(&self, now_ms: i64, expiration_ms: i64) -> bool {
        let before_ms = now_ms.saturating_sub(expiration_ms);
        self.partitions.values().any(|partition| partition.producers.has_expired(before_ms))
    }

    /// Counters since the machine was created or restored.
    pub fn stats(&self) -> ShardStats {
        self.stats
    }

    /// A snapshot of the whole replicated state; the same commands give the same bytes.
    pub fn snapshot(&self) -> ShardSnapshot {
        ShardSnapshot::capture(self)
    }

    /// Restores the state from a [`snapshot`](ShardMachine::snapshot).
    pub fn restore(source: impl Read) -> Result<ShardMachine, ShardRestoreError> {
        snapshot::read(source)
    }

    /// Checks the invariants.
    pub fn validate(&self) {
        self.partitions.values().for_each(PartitionState::validate);
        self.groups.validate();
    }
}

impl ShardStats {
    fn count(&mut self, outcome: &AppendOutcome) {
        match outcome {
            AppendOutcome::Appended { .. } => self.appended += 1,
            AppendOutcome::Duplicate { .. } => self.duplicates += 1,
            AppendOutcome::Refused(_) => self.refused += 1,
            AppendOutcome::OffsetMismatch { .. } => self.offset_mismatches += 1,
            AppendOutcome::UnknownPartition => {}
        }
    }
}
