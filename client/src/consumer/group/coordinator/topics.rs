//! Which topics a member wants, and whether they have other partitions than when these were given out.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{Beats, Coordinator, Ended};
use crate::{ClientError, clock, consumer::group::membership::MembershipEvent};

/// Topics that matched so shortly ago are not looked for again before a join.
const MATCHED_AGE_MAX: Duration = Duration::from_secs(1);

/// What is known of the topics that a member wants.
#[derive(Default)]
pub(super) struct Wanted {
    /// Those that match the pattern, as of the last metadata.
    matched: BTreeSet<String>,
    matched_at: Option<Instant>,
    /// Those that the last join named.
    joined_with: BTreeSet<String>,
}

impl Coordinator {
    /// The topics to join with: those that are named, and those that match now.
    pub(super) async fn topics_to_join_with(&mut self) -> Result<BTreeSet<String>, Ended> {
        let is_fresh = |at| clock::now().saturating_duration_since(at) < MATCHED_AGE_MAX;
        if !self.wanted.matched_at.is_some_and(is_fresh) {
            let link = self.link.clone();
            let matched = self.meanwhile(link.matching_topics(), Beats::GoOn).await?;
            self.take_in_matched(matched);
        }
        self.wanted.joined_with = self.wanted_topics();
        Ok(self.wanted.joined_with.clone())
    }

    fn take_in_matched(&mut self, matched: BTreeSet<String>) {
        (self.wanted.matched, self.wanted.matched_at) = (matched, Some(clock::now()));
    }

    fn wanted_topics(&self) -> BTreeSet<String> {
        self.link.config.topics.union(&self.wanted.matched).cloned().collect()
    }

    /// Each member looks for topics that match its pattern; the one that gave the partitions out sees to it that new ones
    /// are given out too.
    pub(super) async fn look_for_partitions(&mut self) -> Result<Option<MembershipEvent>, ClientError> {
        let matched = self.link.matching_topics().await?;
        self.take_in_matched(matched);
        let mut changed = self.wanted_topics() != self.wanted.joined_with;
        let topics: Vec<&str> = self.given_out.keys().map(String::as_str).collect();
        if !topics.is_empty() {
            let cluster = &self.link.cluster;
            cluster.refresh(&topics).await?;
            let count =
                |topic: &String| cluster.known(topic).map_or(0, |known| known.partitions.len() as i32);
            changed |= self.given_out.iter().any(|(topic, given)| count(topic) != *given);
        }
        Ok(if changed { self.membership.regroup(clock::now()) } else { None })
    }
}
