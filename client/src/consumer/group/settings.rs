//! How a member takes part in its group.

use std::{collections::BTreeSet, time::Duration};

use super::{Assignor, pattern::TopicPattern};
use crate::{
    ClientError,
    consumer::{ConsumerConfig, Start},
};

/// How a member takes part in its group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub group: String,
    /// Topics to read, by name; one that does not exist yet is read once it does. Default with
    /// [`matching`](GroupConfig::matching): none.
    pub topics: BTreeSet<String>,
    /// Topics to read besides: those that match, those that are made later included, which are found when
    /// [`metadata_age_max`](crate::ClientConfig::metadata_age_max) is over. Topics that the broker keeps for itself are none
    /// of them. Records that are written to a topic before it is found are read with `start` at the beginning. Default: none.
    pub pattern: Option<TopicPattern>,
    /// How partitions may be given out, the preferred one first; at least one. Members whose assignors are all cooperative go
    /// on reading what they keep while the group changes. Default: range, then cooperative-sticky.
    pub assignors: Vec<Assignor>,
    /// A name under which the member keeps its place while it is away for less than the session timeout: a restart then
    /// moves nothing. No two members of a group may have the same. Default: none.
    pub instance: Option<String>,
    /// Where to begin in partitions of which the group has committed nothing. Default: [`Start::End`].
    pub start: Start,
    /// How often what was read is committed; none commits only on request. Default: 5 s.
    pub commit_every: Option<Duration>,
    /// A member that is not heard of for so long is taken out; the broker has bounds of its own for it. Default: 45 s.
    pub session_timeout: Duration,
    /// How often the member is heard of; shorter than `session_timeout`. Default: 3 s.
    pub heartbeat_interval: Duration,
    /// How long the others wait for this member when the group changes: for its next call of
    /// [`GroupConsumer::next`](super::GroupConsumer::next). Default: 5 min.
    pub rebalance_timeout: Duration,
    /// How long the application may do without asking for records or [events](super::GroupConsumer::event): after that the
    /// member leaves the group, so that others read its partitions, and joins again when it is asked; then it tells
    /// [`Event::Overdue`](super::Event::Overdue). A member with an `instance` name is only not heard of any more. Like
    /// `max.poll.interval.ms` of Kafka's clients; looked at with every heartbeat, so that it may be later by
    /// `heartbeat_interval`. From 1 ms to 2^31 - 1 ms. Default: 5 min.
    pub poll_interval_max: Duration,
    /// How it reads.
    pub consumer: ConsumerConfig,
}

/// Longest time that the protocol can carry.
const TIMEOUT_MS_MAX: u128 = i32::MAX as u128;

impl GroupConfig {
    /// A member of `group` that reads `topics`.
    pub fn new(group: &str, topics: impl IntoIterator<Item = String>) -> GroupConfig {
        GroupConfig {
            group: group.to_string(),
            topics: topics.into_iter().collect(),
            pattern: None,
            assignors: vec![Assignor::Range, Assignor::CooperativeSticky],
            instance: None,
            start: Start::End,
            commit_every: Some(Duration::from_secs(5)),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(300),
            poll_interval_max: Duration::from_secs(300),
            consumer: ConsumerConfig::default(),
        }
    }

    /// A member of `group` that reads the topics that match.
    pub fn matching(group: &str, pattern: TopicPattern) -> GroupConfig {
        GroupConfig { pattern: Some(pattern), ..GroupConfig::new(group, []) }
    }

    /// Says what cannot be; the member itself does that before it joins.
    pub fn check(&self) -> Result<(), ClientError> {
        let times = [
            ("session_timeout", self.session_timeout),
            ("heartbeat_interval", self.heartbeat_interval),
            ("rebalance_timeout", self.rebalance_timeout),
            ("poll_interval_max", self.poll_interval_max),
        ];
        for (key, time) in times {
            if !(1..=TIMEOUT_MS_MAX).contains(&time.as_millis()) {
                return Err(ClientError::setting(key, time, "it is from 1 ms to 2147483647 ms"));
            }
        }
        if self.heartbeat_interval >= self.session_timeout {
            let (interval, allowed) = (self.heartbeat_interval, "it is shorter than session_timeout");
            return Err(ClientError::setting("heartbeat_interval", interval, allowed));
        }
        if self.commit_every.is_some_and(|every| every.is_zero()) {
            return Err(ClientError::setting("commit_every", self.commit_every, "it is longer than 0"));
        }
        if self.assignors.is_empty() {
            return Err(ClientError::setting("assignors", &self.assignors, "there is at least one"));
        }
        self.consumer.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_told_by_its_name() {
        let named = |change: fn(&mut GroupConfig)| {
            let mut config = GroupConfig::new("g", []);
            change(&mut config);
            config.check().err().map(|error| error.to_string())
        };
        assert_eq!(named(|_| {}), None);
        assert_eq!(named(|config| config.poll_interval_max = Duration::from_millis(1)), None);
        for (change, key) in [
            (
                (|config| config.poll_interval_max = Duration::ZERO) as fn(&mut GroupConfig),
                "poll_interval_max is 0ns",
            ),
            (
                |config| config.poll_interval_max = Duration::from_millis(1 << 31),
                "poll_interval_max is 2147483.648s",
            ),
            (|config| config.heartbeat_interval = Duration::from_secs(45), "heartbeat_interval is 45s"),
            (|config| config.commit_every = Some(Duration::ZERO), "commit_every is Some(0ns)"),
            (|config| config.assignors.clear(), "assignors is []"),
            (|config| config.consumer.memory_bytes = 0, "memory_bytes is 0"),
        ] {
            let message = named(change).expect("cannot be");
            assert!(message.starts_with(key), "{message}");
        }
    }
}
