//! The replicated groups of one shard.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use millstream_model::LogId;

use super::{
    command::{self, GroupOp, OffsetEntry},
    record::{CommittedOffset, GROUP_BYTES, GroupRecord, TOPIC_BYTES},
    subscription,
};
use crate::wire::{DecodeError, Items, Output};

const SNAPSHOT_VERSION: u8 = 1;

/// The bytes of a snapshot are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the groups cannot be read: {0}")]
pub struct GroupRestoreError(#[from] pub DecodeError);

/// The reply of a group command: one outcome per operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReply {
    /// In the order of the operations.
    pub outcomes: Vec<GroupOutcome>,
}

/// The outcome of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOutcome {
    /// It is done.
    Done,
    /// Done, and this was removed.
    Removed {
        /// Number of committed offsets.
        offsets: usize,
        /// Whether the group was removed with its last offset.
        group: bool,
    },
}

/// One group's replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    record: Option<GroupRecord>,
    offsets: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
    /// Approximate memory of both.
    bytes: usize,
}

/// The replicated groups of one shard.
///
/// Invariants, checked by [`validate`](GroupMachine::validate):
/// 1. Every group has a record or an offset, and every topic of a group has an offset.
/// 2. A record's members have unique ids and instance ids, and are sorted by id.
/// 3. A record with members has a protocol type, a protocol and a leader among the members; one without has
///    neither protocol nor leader.
/// 4. `bytes` is the memory of the groups with their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMachine {
    /// Shared with snapshots that are being written.
    groups: BTreeMap<Arc<str>, Arc<GroupState>>,
    bytes: usize,
}

/// The captured groups of a shard. Shared with the machine, which copies a group on write.
#[derive(Debug)]
pub struct GroupSnapshot {
    groups: BTreeMap<Arc<str>, Arc<GroupState>>,
}

impl GroupSnapshot {
    /// Writes the snapshot in pieces, and drops each group after it is written.
    pub fn write_to(self, to: &mut dyn Write) -> io::Result<()> {
        let mut out = Output::default();
        out.u8(SNAPSHOT_VERSION);
        out.count(self.groups.len());
        for (name, state) in self.groups {
            out.text(&name);
            state.write(&mut out, to)?;
        }
        out.flush(to)
    }

    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("memory takes all");
        bytes
    }
}

impl GroupState {
    fn write(&self, out: &mut Output, to: &mut dyn Write) -> io::Result<()> {
        out.flag(self.record.is_some());
        if let Some(record) = &self.record {
            record.write(out);
        }
        out.spill(to)?;
        out.count(self.offsets.len());
        for (topic, all) in &self.offsets {
            out.text(topic);
            out.count(all.len());
            for (partition, committed) in all {
                out.i32(*partition);
                committed.write(out);
                out.spill(to)?;
            }
        }
        Ok(())
    }

    /// The last complete generation; `None` for a group that only has offsets.
    pub fn record(&self) -> Option<&GroupRecord> {
        self.record.as_ref()
    }

    /// The committed offset of one partition.
    pub fn offset(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.offsets.get(topic)?.get(&partition)
    }

    /// Every committed offset, sorted by topic and partition.
    pub fn offsets(&self) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> {
        self.offsets
            .iter()
            .flat_map(|(topic, all)| all.iter().map(move |(partition, offset)| (topic, *partition, offset)))
    }

    fn offset_count(&self) -> usize {
        self.offsets.values().map(BTreeMap::len).sum()
    }

    fn has_members(&self) -> bool {
        self.record.as_ref().is_some_and(|record| !record.members.is_empty())
    }

    fn commit(&mut self, entry: OffsetEntry) {
        self.bytes += entry.committed.bytes();
        let topic = self.offsets.entry(entry.topic).or_insert_with_key(|topic| {
            self.bytes += TOPIC_BYTES + topic.len();
            BTreeMap::new()
        });
        let old = topic.insert(entry.partition, entry.committed);
        self.bytes -= old.map_or(0, |old| old.bytes());
    }

    fn set_record(&mut self, record: GroupRecord) {
        self.bytes += record.bytes();
        let old = self.record.replace(record);
        self.bytes -= old.map_or(0, |old| old.bytes());
    }

    /// Its memory, computed from scratch.
    fn measure(&self) -> usize {
        let topics = self.offsets.iter().map(|(topic, all)| {
            TOPIC_BYTES + topic.len() + all.values().map(CommittedOffset::bytes).sum::<usize>()
        });
        topics.sum::<usize>() + self.record.as_ref().map_or(0, GroupRecord::bytes)
    }

    /// By how much it would grow with these offsets.
    fn growth(&self, offsets: &[OffsetEntry]) -> usize {
        let (mut growth, mut last_new) = (0, None);
        for entry in offsets {
            let topic = self.offsets.get(&entry.topic);
            // Partitions of the same topic are adjacent.
            if topic.is_none() && last_new.replace(&entry.topic) != Some(&entry.topic) {
                growth += TOPIC_BYTES + entry.topic.len();
            }
            let old = topic.and_then(|topic| topic.get(&entry.partition)).map_or(0, CommittedOffset::bytes);
            growth += entry.committed.bytes().saturating_sub(old);
        }
        growth
    }

    fn delete(&mut self, topic: &str, partition: i32) -> bool {
        let Some(all) = self.offsets.get_mut(topic) else { return false };
        let removed = all.remove(&partition).is_some();
        if all.is_empty() {
            self.offsets.remove(topic);
        }
        removed
    }

    /// Keeps the offsets for which `keep` returns true, and returns how many were removed.
    fn retain(&mut self, keep: impl Fn(&str, &CommittedOffset) -> bool) -> usize {
        let before = self.offset_count();
        self.offsets.retain(|topic, all| {
            all.retain(|_, committed| keep(topic, committed));
            !all.is_empty()
        });
        before - self.offset_count()
    }

    /// The rule by which this group's offsets expire; `None` while all are kept.
    fn expiry(&self) -> Option<Expiry> {
        let Some(record) = &self.record else { return Some(Expiry::SinceCommit) };
        let Some(kind) = &record.protocol_type else { return Some(Expiry::SinceCommit) };
        if record.members.is_empty() {
            return Some(Expiry::SinceEmpty(record.state_since_ms));
        }
        if kind != subscription::CONSUMER {
            return None;
        }
        record.subscribed_topics().map(Expiry::Unsubscribed)
    }

    /// Whether an offset, or the group, would be removed if it expired now.
    pub fn would_expire(&self, now_ms: i64, retention_ms: i64) -> bool {
        let Some(rule) = self.expiry() else { return false };
        let gone = |(topic, _, committed): (&Arc<str>, i32, &CommittedOffset)| {
            rule.is_over(topic, committed, now_ms, retention_ms)
        };
        (self.offsets.is_empty() && !self.has_members()) || self.offsets().any(gone)
    }
}

impl GroupRecord {
    /// The topics that the members subscribe to; `None` if they are not consumers or do not send them.
    fn subscribed_topics(&self) -> Option<std::collections::BTreeSet<String>> {
        let protocol = self.protocol.as_deref()?;
        let metadata = self.members.iter().map(|member| {
            let found = member.protocols.iter().find(|(name, _)| **name == *protocol);
            found.map_or(&[][..], |(_, metadata)| &metadata[..])
        });
        subscription::subscribed(metadata)
    }
}

/// When a group's offsets expire.
enum Expiry {
    /// A fixed time after each commit: the group has no members that use it.
    SinceCommit,
    /// A fixed time after the group became empty, or after a later commit (of a tool, for example).
    SinceEmpty(i64),
    /// Like `SinceCommit`, for topics that no member subscribes to.
    Unsubscribed(std::collections::BTreeSet<String>),
}

impl Expiry {
    fn is_over(&self, topic: &str, committed: &CommittedOffset, now_ms: i64, retention_ms: i64) -> bool {
        let since_ms = match self {
            Expiry::SinceCommit => committed.commit_ms,
            Expiry::SinceEmpty(empty_ms) => committed.commit_ms.max(*empty_ms),
            Expiry::Unsubscribed(topics) if topics.contains(topic) => return false,
            Expiry::Unsubscribed(_) => committed.commit_ms,
        };
        match committed.expire_ms {
            Some(at) => now_ms >= at,
            None => now_ms.saturating_sub(since_ms) >= retention_ms,
        }
    }
}

impl GroupMachine {
    /// A machine without groups.
    pub fn new() -> GroupMachine {
        GroupMachine::default()
    }

    /// One group.
    pub fn group(&self, name: &str) -> Option<&GroupState> {
        self.groups.get(name).map(|state| &**state)
    }

    /// Every group, sorted by name.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &GroupState)> {
        self.groups.iter().map(|(name, state)| (name, &**state))
    }

    /// Whether any group has committed offsets of the topic.
    pub fn has_offsets_of(&self, topic: &str) -> bool {
        self.groups.values().any(|state| state.offsets.contains_key(topic))
    }

    /// Applies the command of the entry at `id`.
    ///
    /// # Panics
    /// On a command that this build does not know: skipping it would make replicas differ.
    pub fn apply(&mut self, id: LogId, command: Bytes) -> GroupReply {
        match command::decode(&command) {
            Ok(ops) => GroupReply { outcomes: ops.into_iter().map(|op| self.apply_one(op)).collect() },
            Err(error) => panic!("the groups cannot apply entry {id}: {error}"),
        }
    }

    fn apply_one(&mut self, op: GroupOp) -> GroupOutcome {
        let group = op.group().cloned();
        let before = group.as_ref().map_or(0, |group| self.bytes_of(group));
        let outcome = self.carry_out(op);
        if let Some(group) = group {
            assert!(self.bytes >= before, "{group} had {before} of {} bytes", self.bytes);
            self.bytes = self.bytes - before + self.bytes_of(&group);
            if cfg!(debug_assertions) {
                self.validate_group(&group);
            }
        }
        outcome
    }

    /// Approximate memory of a group; 0 if it does not exist.
    fn bytes_of(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, |state| GROUP_BYTES + group.len() + state.bytes)
    }

    /// Approximate memory of all groups.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// By how much the groups would grow if these offsets were committed.
    pub fn growth(&self, group: &str, offsets: &[OffsetEntry]) -> usize {
        match self.groups.get(group) {
            Some(state) => state.growth(offsets),
            None => GROUP_BYTES + group.len() + GroupState::default().growth(offsets),
        }
    }

    fn carry_out(&mut self, op: GroupOp) -> GroupOutcome {
        match op {
            GroupOp::Put { group, record } => {
                self.group_mut(group).set_record(record);
                GroupOutcome::Done
            }
            GroupOp::Remove { group } => {
                let removed = self.groups.remove(&group);
                GroupOutcome::Removed {
                    offsets: removed.as_ref().map_or(0, |state| state.offset_count()),
                    group: removed.is_some(),
                }
            }
            GroupOp::Commit { group, offsets } => {
                if !offsets.is_empty() {
                    let state = self.group_mut(group);
                    offsets.into_iter().for_each(|entry| state.commit(entry));
                }
                GroupOutcome::Done
            }
            GroupOp::DeleteOffsets { group, partitions } => self.change(&group, |state| {
                partitions.iter().filter(|(topic, partition)| state.delete(topic, *partition)).count()
            }),
            GroupOp::DropTopic { topic } => self.drop_topic(&topic),
            GroupOp::Expire { group, now_ms, retention_ms } => self.expire(&group, now_ms, retention_ms),
        }
    }

    fn group_mut(&mut self, group: Arc<str>) -> &mut GroupState {
        Arc::make_mut(self.groups.entry(group).or_default())
    }

    /// Changes a group's offsets; a group without any content is removed.
    fn change(&mut self, group: &str, change: impl FnOnce(&mut GroupState) -> usize) -> GroupOutcome {
        let Some(state) = self.groups.get_mut(group) else {
            return GroupOutcome::Removed { offsets: 0, group: false };
        };
        let state = Arc::make_mut(state);
        let offsets = change(state);
        state.bytes = state.measure();
        let gone = state.record.is_none() && state.offsets.is_empty();
        if gone {
            self.groups.remove(group);
        }
        GroupOutcome::Removed { offsets, group: gone }
    }

    fn drop_topic(&mut self, topic: &str) -> GroupOutcome {
        let mut offsets = 0;
        self.groups.retain(|_, state| {
            if !state.offsets.contains_key(topic) {
                return true;
            }
            let state = Arc::make_mut(state);
            offsets += state.offsets.remove(topic).map_or(0, |all| all.len());
            state.bytes = state.measure();
            state.record.is_some() || !state.offsets.is_empty()
        });
        self.bytes = self.groups.keys().map(|group| self.bytes_of(group)).sum();
        GroupOutcome::Removed { offsets, group: false }
    }

    fn expire(&mut self, group: &str, now_ms: i64, retention_ms: i64) -> GroupOutcome {
        self.change(group, |state| {
            let Some(rule) = state.expiry() else { return 0 };
            let offsets =
                state.retain(|topic, committed| !rule.is_over(topic, committed, now_ms, retention_ms));
            if state.offsets.is_empty() && !state.has_members() {
                state.record = None;
            }
            offsets
        })
    }

    /// A snapshot of the groups, to be written while commands are applied.
    pub fn snapshot(&self) -> GroupSnapshot {
        GroupSnapshot { groups: self.groups.clone() }
    }

    /// Restores the state from a snapshot.
    pub fn restore(source: impl Read) -> Result<GroupMachine, GroupRestoreError> {
        GroupMachine::restore_items(Items::new(source))
    }

    pub(crate) fn restore_items(mut items: Items<impl Read>) -> Result<GroupMachine, GroupRestoreError> {
        let version = items.item(|input| input.u8())?;
        if version != SNAPSHOT_VERSION {
            return Err(DecodeError::Version { found: version, known: SNAPSHOT_VERSION }.into());
        }
        let mut machine = GroupMachine::new();
        for _ in 0..items.count()? {
            let name: Arc<str> = items.item(|input| input.text())?.into();
            machine.groups.insert(name.clone(), Arc::new(restore_group(&mut items)?));
            machine.bytes += machine.bytes_of(&name);
        }
        items.end()?;
        Ok(machine)
    }

    /// Checks every invariant.
    ///
    /// # Panics
    /// With the group and the values if an invariant is violated.
    pub fn validate(&self) {
        let bytes: usize = self.groups.keys().map(|group| self.bytes_of(group)).sum();
        assert_eq!(self.bytes, bytes, "the groups' bytes");
        self.groups.keys().for_each(|name| self.validate_group(name));
    }

    /// Checks the invariants of one group, which need not exist.
    fn validate_group(&self, name: &str) {
        let Some(state) = self.groups.get(name) else { return };
        assert_eq!(state.bytes, state.measure(), "the bytes of group {name}");
        assert!(state.record.is_some() || !state.offsets.is_empty(), "group {name} has nothing");
        for (topic, all) in &state.offsets {
            assert!(!all.is_empty(), "group {name} has no offset of {topic}");
        }
        if let Some(record) = &state.record {
            record.validate(name);
        }
    }
}

impl GroupRecord {
    fn validate(&self, group: &str) {
        let sorted = self.members.windows(2).all(|pair| pair[0].id < pair[1].id);
        assert!(sorted, "the members of {group} are not sorted, or two are the same: {:?}", self.members);
        let mut instances: Vec<_> = self.members.iter().filter_map(|m| m.instance_id.as_deref()).collect();
        instances.sort_unstable();
        assert!(instances.windows(2).all(|pair| pair[0] != pair[1]), "{group}: instance ids {instances:?}");
        if self.members.is_empty() {
            assert_eq!((&self.protocol, &self.leader), (&None, &None), "{group} is empty");
            return;
        }
        assert!(
            self.protocol_type.is_some() && self.protocol.is_some(),
            "{group} has members and no protocol"
        );
        let leads = self.members.iter().any(|member| Some(&member.id) == self.leader.as_ref());
        assert!(leads, "the leader {:?} of {group} is no member", self.leader);
    }
}

fn restore_group(items: &mut Items<impl Read>) -> Result<GroupState, DecodeError> {
    let record = items.item(|input| {
        let has_record = input.flag("the mark of a group's record")?;
        if has_record { GroupRecord::read(input).map(Some) } else { Ok(None) }
    })?;
    let mut state = GroupState { record, ..GroupState::default() };
    for _ in 0..items.count()? {
        let topic = items.item(|input| input.text())?.into();
        let mut all = BTreeMap::new();
        for _ in 0..items.count()? {
            let (partition, committed) =
                items.item(|input| Ok((input.i32()?, CommittedOffset::read(input)?)))?;
            all.insert(partition, committed);
        }
        state.offsets.insert(topic, all);
    }
    state.bytes = state.measure();
    Ok(state)
}
