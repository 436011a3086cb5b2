//! Committed offsets: written through the group's shard, read from what it has applied.

use std::{collections::BTreeSet, sync::Arc};

use millstream_state::group::{CommittedOffset, GroupError, GroupOp, GroupState, MemberRef, OffsetEntry};

use super::{Groups, ended};

/// Committed offsets of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOffsets {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Partitions; `None` where nothing is committed.
    pub partitions: Vec<(i32, Option<CommittedOffset>)>,
}

impl Groups {
    /// Commits offsets; answered when they are durable and every fetch sees them.
    pub async fn commit(
        &self,
        group: Arc<str>,
        member: MemberRef,
        offsets: Vec<OffsetEntry>,
    ) -> Result<(), GroupError> {
        let told = self.slot(&group)?.decide(Some(&group), |d| {
            // First, so that a group of which nothing is stored is not made.
            d.check_growth(&group, &offsets)?;
            d.state.coordinator.commit(d.now, &group, &member)?;
            let op = GroupOp::Commit { group: group.clone(), offsets };
            let empty = matches!(&op, GroupOp::Commit { offsets, .. } if offsets.is_empty());
            if empty { Ok(None) } else { d.write(op).map(Some) }
        })??;
        match told {
            Some(told) => ended(told).await,
            None => Ok(()),
        }
    }

    /// The committed offsets of the given partitions; a group that does not exist has none.
    pub fn offsets_of(
        &self,
        group: &str,
        wanted: Vec<(Arc<str>, Vec<i32>)>,
    ) -> Result<Vec<TopicOffsets>, GroupError> {
        self.look(group, |state| {
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
        self.look(group, |state| {
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

    fn look<R>(&self, group: &str, look: impl FnOnce(Option<&GroupState>) -> R) -> Result<R, GroupError> {
        let slot = self.slot(group)?;
        // A leader has applied everything that was acknowledged, by itself or by an earlier leader.
        if !slot.leads() {
            return Err(GroupError::NotCoordinator);
        }
        Ok(slot.machine(|machine| look(machine.group(group))))
    }

    /// Deletes committed offsets, except of topics that the group's members read; tells for each topic whether it
    /// did. Answered when that is durable.
    pub async fn delete_offsets(
        &self,
        group: &str,
        topics: Vec<(Arc<str>, Vec<i32>)>,
    ) -> Result<Vec<bool>, GroupError> {
        let (allowed, told) = self.slot(group)?.decide(Some(group), |d| {
            let names: Vec<Arc<str>> = topics.iter().map(|(topic, _)| topic.clone()).collect();
            let allowed = d.state.coordinator.may_delete_offsets(group, &names)?;
            let free = topics.iter().zip(&allowed).filter(|(_, allowed)| **allowed);
            let partitions: Vec<_> = free
                .flat_map(|((topic, indexes), _)| indexes.iter().map(|index| (topic.clone(), *index)))
                .collect();
            if partitions.is_empty() {
                return Ok((allowed, None));
            }
            let told = d.write(GroupOp::DeleteOffsets { group: group.into(), partitions })?;
            Ok((allowed, Some(told)))
        })??;
        if let Some(told) = told {
            ended(told).await?;
        }
        Ok(allowed)
    }

    /// A topic is gone: so are the offsets that groups committed for it. Not waited for; what a crash leaves is
    /// removed at the next start.
    pub fn drop_topic(&self, topic: &str) {
        self.slots.iter().for_each(|slot| slot.drop_topic(topic));
    }

    /// Drops the offsets of every topic that is not there any more.
    pub fn drop_dead_topics(&self, lives: impl Fn(&str) -> bool) {
        for slot in &self.slots {
            let topics: BTreeSet<Arc<str>> = slot.machine(|machine| {
                let offsets = machine.groups().flat_map(|(_, state)| state.offsets());
                offsets.map(|(topic, ..)| topic).filter(|topic| !lives(topic)).cloned().collect()
            });
            topics.iter().for_each(|topic| slot.drop_topic(topic));
        }
    }
}
