//! What is read next, and what may be asked for now.
//!
//! Pure: answers go in, requests come out. A partition is asked for only while little of it waits to be taken: reading ahead
//! is bounded for each partition.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use millstream_protocol::ErrorCode;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record that there is.
    Beginning,
    /// With the next record that is written.
    End,
    /// With this offset.
    Offset(i64),
    /// With the first record whose timestamp is at or after this, in milliseconds.
    Time(i64),
}

/// What a fetch asks of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) partition: TopicPartition,
    pub(super) offset: i64,
    pub(super) leader_epoch: i32,
}

/// What the reading of one partition waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The offset to begin with.
    Seeking(Start),
    /// Nothing.
    Reading,
}

#[derive(Clone, Debug)]
struct Position {
    state: State,
    /// The next offset to be fetched.
    next: i64,
    /// Bytes that were fetched and not taken yet.
    ahead_bytes: usize,
    in_flight: bool,
    not_before: Option<Instant>,
    failures: u32,
    high_watermark: Option<i64>,
    /// The last answer had nothing for any partition.
    drained: bool,
}

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Look for the leader and ask again.
    Refresh,
    /// Begin anew as the reset policy says.
    Reset,
    /// Tell the reader.
    Fail,
}

/// The partitions that are read.
#[derive(Debug, Default)]
pub(super) struct Positions {
    all: BTreeMap<TopicPartition, Position>,
    ahead_bytes_max: usize,
}

impl Positions {
    pub(super) fn new(ahead_bytes_max: usize) -> Positions {
        Positions { all: BTreeMap::new(), ahead_bytes_max }
    }

    /// From now on exactly these are read, each from its start; what was fetched of others is of no use any more.
    pub(super) fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        let position = |start| Position {
            state: match start {
                Start::Offset(_) => State::Reading,
                start => State::Seeking(start),
            },
            next: if let Start::Offset(offset) = start { offset } else { -1 },
            ahead_bytes: 0,
            in_flight: false,
            not_before: None,
            failures: 0,
            high_watermark: None,
            drained: false,
        };
        self.all = starts.into_iter().map(|(partition, start)| (partition, position(start))).collect();
    }

    /// Partitions that wait for the offset to begin with, and may be asked about now.
    pub(super) fn seeking(&self, now: Instant) -> Vec<(TopicPartition, Start)> {
        let due = self.all.iter().filter(|(_, p)| p.not_before.is_none_or(|at| at <= now));
        due.filter_map(|(partition, position)| match position.state {
            State::Seeking(start) => Some((partition.clone(), start)),
            State::Reading => None,
        })
        .collect()
    }

    /// The offset to begin with; that of the end when no record is late enough.
    pub(super) fn found(&mut self, partition: &TopicPartition, offset: i64) {
        if let Some(position) = self.all.get_mut(partition) {
            (position.state, position.next, position.failures) = (State::Reading, offset, 0);
            position.not_before = None;
        }
    }

    /// What may be fetched now, by the broker to ask, and the topics of partitions that nobody leads. `lead` gives a
    /// partition's leader and its epoch, `is_free` whether that broker may be asked. What is given counts as on its way until
    /// it is answered.
    pub(super) fn wanted(
        &mut self,
        now: Instant,
        lead: impl Fn(&TopicPartition) -> Option<(i32, i32)>,
        is_free: impl Fn(i32) -> bool,
    ) -> (BTreeMap<i32, Vec<Wanted>>, BTreeSet<Arc<str>>) {
        let ahead_bytes_max = self.ahead_bytes_max;
        let may = |p: &Position| {
            p.state == State::Reading
                && !p.in_flight
                && p.ahead_bytes < ahead_bytes_max
                && p.not_before.is_none_or(|at| at <= now)
        };
        let (mut wanted, mut leaderless) = (BTreeMap::<i32, Vec<Wanted>>::new(), BTreeSet::new());
        for (partition, position) in self.all.iter_mut().filter(|(_, position)| may(position)) {
            match lead(partition) {
                Some((leader, leader_epoch)) if is_free(leader) => {
                    position.in_flight = true;
                    let one = Wanted { partition: partition.clone(), offset: position.next, leader_epoch };
                    wanted.entry(leader).or_default().push(one);
                }
                Some(_) => {}
                None => drop(leaderless.insert(partition.topic.clone())),
            }
        }
        (wanted, leaderless)
    }

    /// Takes in an answer: the records end before `next`. `drained` says that the whole answer was empty, though it could
    /// have held records. False when they are not what is read next: the partition was assigned anew meanwhile.
    pub(super) fn fetched(
        &mut self,
        wanted: &Wanted,
        next: i64,
        bytes: usize,
        high_watermark: Option<i64>,
        drained: bool,
    ) -> bool {
        let Some(position) = self.all.get_mut(&wanted.partition) else { return false };
        if !position.in_flight || position.next != wanted.offset {
            return false;
        }
        position.in_flight = false;
        position.failures = 0;
        position.next = next.max(position.next);
        position.ahead_bytes += bytes;
        position.high_watermark = high_watermark.or(position.high_watermark);
        position.drained = drained;
        true
    }

    /// Takes in an error: says what it means, and holds the partition back until `retry_at`.
    pub(super) fn failed(&mut self, partition: &TopicPartition, code: ErrorCode, retry_at: Instant) -> After {
        if let Some(position) = self.all.get_mut(partition) {
            position.in_flight = false;
            position.failures += 1;
            position.not_before = Some(retry_at);
        }
        match code {
            ErrorCode::OFFSET_OUT_OF_RANGE => After::Reset,
            code if code.is_retriable() && code != ErrorCode::CORRUPT_MESSAGE => After::Refresh,
            _ => After::Fail,
        }
    }

    /// The request was not answered: what it asked for is asked for again.
    pub(super) fn lost(&mut self, partition: &TopicPartition, retry_at: Instant) {
        if let Some(position) = self.all.get_mut(partition) {
            position.in_flight = false;
            position.failures += 1;
            position.not_before = Some(retry_at);
        }
    }

    /// Begins anew.
    pub(super) fn reset(&mut self, partition: &TopicPartition, start: Start) {
        if let Some(position) = self.all.get_mut(partition) {
            position.state = State::Seeking(start);
            position.not_before = None;
        }
    }

    /// The reader has taken so many bytes.
    pub(super) fn taken(&mut self, partition: &TopicPartition, bytes: usize) {
        if let Some(position) = self.all.get_mut(partition) {
            position.ahead_bytes = position.ahead_bytes.saturating_sub(bytes);
        }
    }

    /// Failures in a row.
    pub(super) fn failures(&self, partition: &TopicPartition) -> u32 {
        self.all.get(partition).map_or(0, |position| position.failures)
    }

    /// The offset behind the last record, as the last answer told it.
    pub(super) fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.all.get(partition)?.high_watermark
    }

    /// Whether all that there was is taken: the broker had no more when it was asked last. Where compaction has removed the
    /// last records this is so below the high watermark.
    pub(super) fn is_drained(&self, partition: &TopicPartition) -> bool {
        self.all.get(partition).is_some_and(|p| p.drained && p.ahead_bytes == 0 && p.state == State::Reading)
    }

    /// When to look again, if nothing happens before.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.all.values().filter_map(|position| position.not_before).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    fn place(partition: i32) -> TopicPartition {
        TopicPartition { topic: "a".into(), partition }
    }

    /// What is wanted when broker 1 leads everything in epoch 3 and may be asked.
    fn wanted(positions: &mut Positions, now: Instant) -> Vec<Wanted> {
        positions.wanted(now, |_| Some((1, 3)), |_| true).0.remove(&1).unwrap_or_default()
    }

    #[test]
    fn reading_begins_where_it_was_told_to() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Beginning), (place(1), Start::Offset(7))]);
        assert_eq!(positions.seeking(now), [(place(0), Start::Beginning)]);
        let first = wanted(&mut positions, now);
        assert_eq!(first, [Wanted { partition: place(1), offset: 7, leader_epoch: 3 }]);
        positions.found(&place(0), 2);
        assert_eq!(wanted(&mut positions, now)[0].offset, 2);
        assert!(wanted(&mut positions, now).is_empty(), "both are on their way");
    }

    #[test]
    fn reading_ahead_is_bounded() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Offset(0))]);
        let one = wanted(&mut positions, now).remove(0);
        assert!(positions.fetched(&one, 5, 100, Some(9), false));
        assert!(wanted(&mut positions, now).is_empty(), "enough is waiting");
        positions.taken(&place(0), 60);
        assert_eq!(wanted(&mut positions, now)[0].offset, 5);
        assert_eq!(positions.high_watermark(&place(0)), Some(9));
    }

    #[test]
    fn a_busy_broker_is_not_asked_and_a_missing_leader_is_told() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([
            (place(0), Start::Offset(0)),
            (place(1), Start::Offset(0)),
            (place(2), Start::Offset(0)),
        ]);
        let lead = |p: &TopicPartition| (p.partition < 2).then_some((p.partition, 0));
        let (wanted, leaderless) = positions.wanted(now, lead, |broker| broker == 1);
        assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [1]);
        assert!(leaderless.contains("a"));
        let (wanted, _) = positions.wanted(now, lead, |_| true);
        assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [0], "the other one is on its way");
    }

    #[test]
    fn a_partition_is_drained_when_all_is_taken_and_the_broker_has_no_more() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Offset(0))]);
        let one = wanted(&mut positions, now).remove(0);
        assert!(positions.fetched(&one, 5, 10, Some(9), false));
        let one = wanted(&mut positions, now).remove(0);
        assert!(positions.fetched(&one, 5, 0, None, true));
        assert!(!positions.is_drained(&place(0)), "ten bytes are not taken yet");
        positions.taken(&place(0), 10);
        assert!(positions.is_drained(&place(0)));
        assert_eq!(positions.high_watermark(&place(0)), Some(9));
    }

    #[test]
    fn an_answer_to_an_older_assignment_is_dropped() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Offset(0))]);
        let one = wanted(&mut positions, now).remove(0);
        positions.assign([(place(0), Start::Offset(50))]);
        assert!(!positions.fetched(&one, 5, 1, Some(9), false));
        assert_eq!(wanted(&mut positions, now)[0].offset, 50);
    }

    #[test]
    fn errors_hold_back_and_say_what_to_do() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        let later = now + Duration::from_millis(10);
        positions.assign([(place(0), Start::Offset(0))]);
        wanted(&mut positions, now);
        assert_eq!(positions.failed(&place(0), ErrorCode::NOT_LEADER_OR_FOLLOWER, later), After::Refresh);
        assert!(wanted(&mut positions, now).is_empty());
        assert_eq!((positions.next_try(now), positions.failures(&place(0))), (Some(later), 1));
        wanted(&mut positions, later);
        assert_eq!(positions.failed(&place(0), ErrorCode::OFFSET_OUT_OF_RANGE, later), After::Reset);
        positions.reset(&place(0), Start::Beginning);
        assert_eq!(positions.seeking(now).len(), 1);
        assert_eq!(positions.failed(&place(0), ErrorCode::TOPIC_AUTHORIZATION_FAILED, later), After::Fail);
    }
}
