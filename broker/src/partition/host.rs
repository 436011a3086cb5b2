//! One shard's state machine with what its effects change: the tables and the waiting fetches.

use std::{io::Read, sync::Arc};

use bytes::Bytes;
use millstream_model::{LogId, PartitionId, RaftGroupId};
use millstream_replica::{Machine, Reply, RestoreError, Snapshot};
use millstream_state::partition::{Effect, PartitionState, ShardMachine, decode};
use millstream_store::tables::{StoredBatch, Tables};
use parking_lot::Mutex;

use super::{read_ahead::ReadAhead, waiters::Waiters};

/// One shard's replicated state on this node.
pub struct ShardHost {
    group: RaftGroupId,
    state: Mutex<State>,
    pub(super) tables: Arc<Tables>,
    pub(super) waiters: Waiters,
    pub(super) read_ahead: ReadAhead,
}

struct State {
    machine: ShardMachine,
    /// Reused, so that applying a command does not allocate.
    effects: Vec<Effect>,
}

impl ShardHost {
    /// An empty shard; [`Machine::restore`] fills it.
    pub fn new(group: RaftGroupId, tables: Arc<Tables>) -> ShardHost {
        let state = State { machine: ShardMachine::new(), effects: Vec::new() };
        ShardHost {
            group,
            state: Mutex::new(state),
            tables,
            waiters: Waiters::default(),
            read_ahead: ReadAhead::default(),
        }
    }

    /// Reads the applied state of one partition.
    pub fn partition<R>(&self, id: PartitionId, read: impl FnOnce(&PartitionState) -> R) -> Option<R> {
        self.state.lock().machine.partition(id).map(read)
    }

    /// Bytes of a partition's batches, in memory and in runs.
    pub fn partition_bytes(&self, id: PartitionId) -> u64 {
        self.tables.pieces(id).iter().map(|piece| piece.bytes).sum()
    }

    /// Reads the applied state of the shard.
    pub fn inspect<R>(&self, read: impl FnOnce(&ShardMachine) -> R) -> R {
        read(&self.state.lock().machine)
    }

    fn execute(&self, id: LogId, effect: &Effect) {
        match effect {
            Effect::Insert {
                partition,
                batch,
                base_offset,
                next_offset,
                max_timestamp,
                appended_ms,
                header_checked,
            } => {
                let stored = StoredBatch {
                    bytes: batch.clone(),
                    base_offset: *base_offset,
                    next_offset: *next_offset,
                    max_timestamp: *max_timestamp,
                    appended_ms: *appended_ms,
                };
                let stored = if *header_checked { stored } else { self.tables.with_true_times(stored) };
                self.tables.insert(self.group, id, *partition, stored);
            }
            Effect::LogStart { partition, offset } => self.tables.set_log_start(*partition, *offset),
            Effect::Dropped { partition } => self.tables.drop_partition(*partition),
            Effect::Created { .. } => {}
        }
    }
}

fn partition_of(effect: &Effect) -> PartitionId {
    match effect {
        Effect::Insert { partition, .. }
        | Effect::LogStart { partition, .. }
        | Effect::Dropped { partition }
        | Effect::Created { partition } => *partition,
    }
}

impl Machine for ShardHost {
    fn apply(&self, id: LogId, command: Bytes) -> Reply {
        let command = match decode(command) {
            Ok(command) => command,
            // The log's CRC is correct, so this is a command of a version that this broker does not know. Skipping it
            // would make replicas diverge.
            Err(error) => panic!("{} cannot apply entry {id}: {error}", self.group),
        };
        // The lock is held until the effects are executed: a reader that sees the new offsets finds the batches.
        let mut state = self.state.lock();
        let State { machine, effects } = &mut *state;
        effects.clear();
        let reply = machine.apply(id, command, effects);
        effects.iter().for_each(|effect| self.execute(id, effect));
        self.waiters.wake(effects.iter().map(partition_of));
        effects.clear();
        Reply::Shard(reply)
    }

    fn applied(&self, id: LogId) {
        self.tables.applied(self.group, id);
    }

    fn snapshot(&self) -> Snapshot {
        let snapshot = self.state.lock().machine.snapshot();
        Box::new(|out| snapshot.write_to(out))
    }

    fn restore(&self, state: &mut dyn Read) -> Result<(), RestoreError> {
        let machine = ShardMachine::restore(state).map_err(|e| RestoreError(Box::new(e)))?;
        // The checkpoint's checksum is right, so a violation is a defect, not damage.
        machine.validate();
        for (partition, state) in machine.partitions() {
            self.tables.set_log_start(partition, state.log_start());
        }
        self.state.lock().machine = machine;
        Ok(())
    }
}
