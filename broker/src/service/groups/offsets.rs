//! Committed offsets: written through the group's shard, read from its applied state.

use std::{collections::BTreeSet, sync::Arc};

use millstream_state::group::{CommittedOffset, GroupError, GroupOp, GroupState, MemberRef, OffsetEntry};

use super::{Groups, group_shard::WriteResult, write_result};

/// Committed offsets of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOffsets {
    pub topic: Arc<str>,
    /// Partitions; `None` where nothing is committed.
    pub partitions: Vec<(i32, Option<CommittedOffset>)>,
}

impl Groups {
    /// Commits offsets; the future resolves when they are durable and every fetch sees them.
    pub fn commit(
        &self,
        group: Arc<str>,
        member: MemberRef,
        offsets: Vec<OffsetEntry>,
    ) -> impl Future<Output = Result<(), GroupError>> + Send + use<> {
        let queued = self.queue_commit(group, member, offsets);
        async move {
            match queued? {
                Some(result) => write_result(result).await,
                None => Ok(()),
            }
        }
    }

    fn queue_commit(
        &self,
        group: Arc<str>,
        member: MemberRef,
        offsets: Vec<OffsetEntry>,
    ) -> Result<Option<WriteResult>, GroupError> {
        self.shard_of(&group)?.decide(Some(&group), |d| {
            // Before the coordinator, so that a refused commit does not create a group.
            d.check_growth(&group, &offsets)?;
            d.state.coordinator.commit(d.now, &group, &member)?;
            let op = GroupOp::Commit { group: group.clone(), offsets };
            let empty = matches!(&op, GroupOp::Commit { offsets, .. } if offsets.is_empty());
            if empty { Ok(None) } else { d.write(op).map(Some) }
        })?
    }

    /// The committed offsets of the given partitions; a group that does not exist has none.
    pub fn offsets_of(
        &self,
        group: &str,
        wanted: Vec<(Arc<str>, Vec<i32>)>,
    ) -> Result<Vec<TopicOffsets>, GroupError> {
        self.read(group, |state| {
            let topic = |(topic, partitions): (Arc<str>, Vec<i32>)| {
                let found = |index: i32| (index, state.and_then(|s| s.offset(&topic, index)).cloned());
                let partitions = partitions.into_iter().map(found).collect();
                TopicOffsets { topic, partitions }
            };
            wanted.into_iter().map(topic).collect()
        })
    }

    /// Every committed offset of a group, sorted by topic and partition.
    pub fn all_offsets(&self, group: &str) -> Result<Vec<TopicOffsets>, GroupError> {
        self.read(group, |state| {
            let mut all: Vec<TopicOffsets> = Vec::new();
            for (topic, index, committed) in state.into_iter().flat_map(GroupState::offsets) {
                if all.last().is_none_or(|last| last.topic != *topic) {
                    all.push(TopicOffsets { topic: topic.clone(), partitions: Vec::new() });
                }
                if let Some(last) = all.last_mut() {
                    last.partitions.push((index, Some(committed.clone())));
                }
            }
            all
        })
    }

    fn read<R>(&self, group: &str, read: impl FnOnce(Option<&GroupState>) -> R) -> Result<R, GroupError> {
        let shard = self.shard_of(group)?;
        // A leader has applied everything that was acknowledged, by itself or by an earlier leader.
        if !shard.leads() {
            return Err(GroupError::NotCoordinator);
        }
        Ok(shard.machine(|machine| read(machine.group(group))))
    }

    /// Deletes committed offsets, except those of topics that the group's members subscribe to. The future resolves when
    /// the deletion is durable, with a flag for each topic: whether it was allowed.
    pub fn delete_offsets(
        &self,
        group: &str,
        topics: Vec<(Arc<str>, Vec<i32>)>,
    ) -> impl Future<Output = Result<Vec<bool>, GroupError>> + Send + use<> {
        let queued = self.queue_deletion(group, topics);
        async move {
            let (allowed, result) = queued?;
            if let Some(result) = result {
                write_result(result).await?;
            }
            Ok(allowed)
        }
    }

    fn queue_deletion(
        &self,
        group: &str,
        topics: Vec<(Arc<str>, Vec<i32>)>,
    ) -> Result<(Vec<bool>, Option<WriteResult>), GroupError> {
        self.shard_of(group)?.decide(Some(group), |d| {
            let names: Vec<Arc<str>> = topics.iter().map(|(topic, _)| topic.clone()).collect();
            let allowed = d.state.coordinator.may_delete_offsets(group, &names)?;
            let free = topics.iter().zip(&allowed).filter(|(_, allowed)| **allowed);
            let partitions: Vec<_> = free
                .flat_map(|((topic, indexes), _)| indexes.iter().map(|index| (topic.clone(), *index)))
                .collect();
            if partitions.is_empty() {
                return Ok((allowed, None));
            }
            let result = d.write(GroupOp::DeleteOffsets { group: group.into(), partitions })?;
            Ok((allowed, Some(result)))
        })?
    }

    /// Queues the removal of all committed offsets of a topic; the future resolves to whether all were removed.
    pub(crate) fn drop_topic(&self, topic: &str) -> impl Future<Output = bool> + Send + use<> {
        all_succeeded(self.shards.iter().map(|shard| shard.drop_topic(topic)).collect())
    }

    /// Queues the removal of the committed offsets of every topic that does not exist; the future resolves to whether all
    /// were removed.
    pub(crate) fn drop_deleted_topics<E>(&self, exists: E) -> impl Future<Output = bool> + Send + use<E>
    where
        E: Fn(&str) -> bool,
    {
        let mut removals = Vec::new();
        for shard in &self.shards {
            let topics: BTreeSet<Arc<str>> = shard.machine(|machine| {
                let offsets = machine.groups().flat_map(|(_, state)| state.offsets());
                offsets.map(|(topic, ..)| topic).filter(|topic| !exists(topic)).cloned().collect()
            });
            removals.extend(topics.iter().map(|topic| shard.drop_topic(topic)));
        }
        all_succeeded(removals)
    }
}

/// Whether all removals succeed; `None` is a removal with nothing to do.
async fn all_succeeded(removals: Vec<Result<Option<WriteResult>, GroupError>>) -> bool {
    let mut all = true;
    for removal in removals {
        all &= match removal {
            Ok(Some(result)) => write_result(result).await.is_ok(),
            Ok(None) => true,
            Err(_) => false,
        };
    }
    all
}
