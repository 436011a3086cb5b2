//! Who reads what: Kafka's assignors. Names, and what travels between members, are Kafka's own, so that members of any
//! client can be in one group.

mod range;
mod round_robin;
mod sticky;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use crate::consumer::TopicPartition;

pub(crate) use wire::read_assignment;
pub(super) use wire::{Subscription, read_subscription, write_assignment, write_subscription};

/// How a group's partitions are given to its members. The group uses the first one that all its members know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Assignor {
    /// Of each topic a run of partitions for each member; partitions of the same number of several topics meet at one member.
    Range,
    /// All partitions in turn.
    RoundRobin,
    /// As equal as possible, and as few changes as possible; every change stops all members.
    Sticky,
    /// The same, but a change stops only the partitions that move.
    CooperativeSticky,
}

impl Assignor {
    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "roundrobin",
            Assignor::Sticky => "sticky",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }

    pub(super) fn named(name: &str) -> Option<Assignor> {
        use Assignor::{CooperativeSticky, Range, RoundRobin, Sticky};
        [Range, RoundRobin, Sticky, CooperativeSticky].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Whether members keep what they read while the group changes. Members whose assignors do not all allow that give up
    /// everything first, as Kafka's own consumers do.
    pub(super) fn is_cooperative(self) -> bool {
        self == Assignor::CooperativeSticky
    }

    /// Gives the partitions of each topic to the members that want it.
    pub(super) fn assign(self, members: &[Member], partitions: &BTreeMap<String, i32>) -> Assignment {
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by_key(|member| member.rank());
        match self {
            Assignor::Range => range::assign(&members, partitions),
            Assignor::RoundRobin => round_robin::assign(&members, partitions),
            Assignor::Sticky => sticky::assign(&members, partitions),
            Assignor::CooperativeSticky => {
                sticky::without_moving(sticky::assign(&members, partitions), &members)
            }
        }
    }
}

/// Each member's partitions, by member id.
pub(super) type Assignment = BTreeMap<String, Vec<TopicPartition>>;

/// A member as the group's leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: String,
    /// Its name, when it keeps its place while it is away.
    pub(super) instance: Option<String>,
    pub(super) topics: BTreeSet<String>,
    /// What it had before.
    pub(super) owned: BTreeSet<TopicPartition>,
    /// In which generation it had that; none when it does not say.
    pub(super) generation: Option<i32>,
}

impl Member {
    /// Members with names come first, by their names, so that a restart changes nothing; then the others by their ids.
    fn rank(&self) -> (bool, &str) {
        (self.instance.is_none(), self.instance.as_deref().unwrap_or(&self.id))
    }

    fn wants(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }
}

/// An assignment without partitions.
fn nothing(members: &[&Member]) -> Assignment {
    members.iter().map(|member| (member.id.clone(), Vec::new())).collect()
}

/// Every partition, in the order of topics and numbers.
fn all_partitions(partitions: &BTreeMap<String, i32>) -> impl Iterator<Item = TopicPartition> {
    partitions.iter().flat_map(|(topic, count)| {
        let topic: std::sync::Arc<str> = topic.as_str().into();
        (0..*count).map(move |partition| TopicPartition { topic: topic.clone(), partition })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn member(id: &str, topics: &[&str]) -> Member {
        let topics = topics.iter().map(|t| t.to_string()).collect();
        Member { id: id.into(), topics, ..Member::default() }
    }

    pub(super) fn topics(counts: &[(&str, i32)]) -> BTreeMap<String, i32> {
        counts.iter().map(|(topic, count)| (topic.to_string(), *count)).collect()
    }

    /// A member's partitions in words.
    pub(super) fn assigned(assignment: &Assignment, member: &str) -> Vec<String> {
        assignment[member].iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn whatever_the_assignor_every_partition_has_one_reader_that_wants_it() {
        let members = [member("a", &["t"]), member("b", &["u"]), member("c", &["t", "u"]), member("d", &[])];
        let counts = topics(&[("t", 5), ("u", 1), ("unread", 2)]);
        for name in ["range", "roundrobin", "sticky", "cooperative-sticky"] {
            let assignment = Assignor::named(name).expect("known").assign(&members, &counts);
            let mut all: Vec<String> = assignment.values().flatten().map(|p| p.to_string()).collect();
            all.sort();
            assert_eq!(all, ["t-0", "t-1", "t-2", "t-3", "t-4", "u-0"], "{name}");
            assert!(assigned(&assignment, "a").iter().all(|p| p.starts_with("t-")), "{name}");
            assert!(assigned(&assignment, "d").is_empty(), "{name}");
        }
        assert_eq!(Assignor::named("uniform"), None);
    }

    #[test]
    fn members_with_names_come_first() {
        let named = Member { instance: Some("z".into()), ..member("m9", &["t"]) };
        let assignment = Assignor::Range.assign(&[member("m1", &["t"]), named], &topics(&[("t", 3)]));
        assert_eq!(assigned(&assignment, "m9"), ["t-0", "t-1"]);
    }
}
