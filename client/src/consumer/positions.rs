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
    /// Which reading of the partition it is for.
    pub(super) reading: u64,
}

/// A partition whose start is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetLookup {
    pub(super) partition: TopicPartition,
    pub(super) start: Start,
    pub(super) reading: u64,
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
    /// Changes with each assignment and each seek: what comes for another reading is of no use.
    reading: u64,
    state: State,
    /// Neither fetched nor given.
    paused: bool,
    /// The next offset to be given to the reader; none until it is known.
    given: Option<i64>,
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
    /// Which of the answers that had records for it was the last.
    served: u64,
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
    /// Nothing: it is not wanted any more.
    Nothing,
}

impl Position {
    fn begin(reading: u64, start: Start) -> Position {
        let known = if let Start::Offset(offset) = start { Some(offset) } else { None };
        Position {
            reading,
            state: if known.is_some() { State::Reading } else { State::Seeking(start) },
            paused: false,
            given: known,
            next: known.unwrap_or(-1),
            ahead_bytes: 0,
            in_flight: false,
            not_before: None,
            failures: 0,
            high_watermark: None,
            drained: false,
            served: 0,
        }
    }
}

/// The partitions that are read.
#[derive(Debug, Default)]
pub(super) struct Positions {
    all: BTreeMap<TopicPartition, Position>,
    ahead_bytes_max: usize,
    readings: u64,
    /// Parts of answers that had records.
    answers: u64,
}

impl Positions {
    pub(super) fn new(ahead_bytes_max: usize) -> Positions {
        Positions { ahead_bytes_max, ..Positions::default() }
    }

    /// From now on exactly these are read, each from its start; what was fetched before is of no use any more.
    pub(super) fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.all.clear();
        self.add(starts);
    }

    /// From now on these are read too.
    pub(super) fn add(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        for (partition, start) in starts {
            self.readings += 1;
            self.all.insert(partition, Position::begin(self.readings, start));
        }
    }

    /// From now on these are not read.
    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.all.remove(partition);
        }
    }

    /// Goes on from elsewhere; false for a partition that is not read.
    pub(super) fn seek(&mut self, partition: &TopicPartition, start: Start) -> bool {
        let Some(position) = self.all.get_mut(partition) else { return false };
        self.readings += 1;
        let (paused, high_watermark) = (position.paused, position.high_watermark);
        *position = Position { paused, high_watermark, ..Position::begin(self.readings, start) };
        true
    }

    /// Stops or resumes; false for a partition that is not read.
    pub(super) fn set_paused(&mut self, partition: &TopicPartition, paused: bool) -> bool {
        self.all.get_mut(partition).map(|position| position.paused = paused).is_some()
    }

    pub(super) fn is_paused(&self, partition: &TopicPartition) -> bool {
        self.all.get(partition).is_some_and(|position| position.paused)
    }

    /// The next offset to be given to the reader.
    pub(super) fn given(&self, partition: &TopicPartition) -> Option<i64> {
        self.all.get(partition)?.given
    }

    /// Whether what was fetched for this reading is still wanted.
    pub(super) fn is_current(&self, partition: &TopicPartition, reading: u64) -> bool {
        self.all.get(partition).is_some_and(|position| position.reading == reading)
    }

    fn current(&mut self, partition: &TopicPartition, reading: u64) -> Option<&mut Position> {
        self.all.get_mut(partition).filter(|position| position.reading == reading)
    }

    /// Partitions that wait for the offset to begin with, and may be asked about now.
    pub(super) fn seeking(&self, now: Instant) -> Vec<OffsetLookup> {
        let due = self.all.iter().filter(|(_, p)| p.not_before.is_none_or(|at| at <= now));
        due.filter_map(|(partition, position)| match position.state {
            State::Seeking(start) => {
                Some(OffsetLookup { partition: partition.clone(), start, reading: position.reading })
            }
            State::Reading => None,
        })
        .collect()
    }

    /// The offset to begin with; that of the end when no record is late enough.
    pub(super) fn found(&mut self, partition: &TopicPartition, reading: u64, offset: i64) {
        if let Some(position) = self.current(partition, reading) {
            (position.state, position.next, position.failures) = (State::Reading, offset, 0);
            position.not_before = None;
            // Where records wait to be given, they are what comes next.
            if position.ahead_bytes == 0 {
                position.given = Some(offset);
            }
        }
    }

    /// What may be fetched now, by the broker to ask, and the topics of partitions without a leader. `lead` gives a
    /// partition's leader and its epoch, `is_free` whether that broker may be asked. An answer has no room for all of many
    /// partitions, and the broker fills it in their order: those that had none for the longest time come first.
    pub(super) fn wanted(
        &self,
        now: Instant,
        lead: impl Fn(&TopicPartition) -> Option<(i32, i32)>,
        is_free: impl Fn(i32) -> bool,
    ) -> (BTreeMap<i32, Vec<Wanted>>, BTreeSet<Arc<str>>) {
        let may = |p: &Position| {
            p.state == State::Reading
                && !p.in_flight
                && !p.paused
                && p.ahead_bytes < self.ahead_bytes_max
                && p.not_before.is_none_or(|at| at <= now)
        };
        let (mut wanted, mut leaderless) = (BTreeMap::<i32, Vec<(u64, Wanted)>>::new(), BTreeSet::new());
        for (partition, position) in self.all.iter().filter(|(_, position)| may(position)) {
            match lead(partition) {
                Some((leader, leader_epoch)) if is_free(leader) => {
                    let (offset, reading) = (position.next, position.reading);
                    let one = Wanted { partition: partition.clone(), offset, leader_epoch, reading };
                    wanted.entry(leader).or_default().push((position.served, one));
                }
                Some(_) => {}
                None => drop(leaderless.insert(partition.topic.clone())),
            }
        }
        let in_turn = |mut of_broker: Vec<(u64, Wanted)>| {
            of_broker.sort_by_key(|(served, _)| *served);
            of_broker.into_iter().map(|(_, one)| one).collect()
        };
        (wanted.into_iter().map(|(broker, all)| (broker, in_turn(all))).collect(), leaderless)
    }

    /// These are on their way until they are answered.
    pub(super) fn asked(&mut self, wanted: &[Wanted]) {
        for one in wanted {
            if let Some(position) = self.current(&one.partition, one.reading) {
                position.in_flight = true;
            }
        }
    }

    /// Bytes of paused partitions that wait.
    pub(super) fn paused_bytes(&self) -> usize {
        self.all.values().filter(|position| position.paused).map(|position| position.ahead_bytes).sum()
    }

    /// What was read ahead of paused partitions is of no use any more: it is fetched again when they go on.
    pub(super) fn forget_paused(&mut self) {
        let paused = self.all.iter().filter(|(_, position)| position.paused && position.ahead_bytes > 0);
        let paused: Vec<TopicPartition> = paused.map(|(partition, _)| partition.clone()).collect();
        paused.iter().for_each(|partition| self.forget(partition));
    }

    /// The same of one partition.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        let Some(position) = self.all.get_mut(partition) else { return };
        let (Some(given), State::Reading) = (position.given, position.state) else { return };
        self.readings += 1;
        let (paused, high_watermark, served) = (position.paused, position.high_watermark, position.served);
        let anew = Position::begin(self.readings, Start::Offset(given));
        *position = Position { paused, high_watermark, served, ..anew };
    }

    /// Takes in an answer: the records end before `next`. `drained` says that the whole answer was empty, though it could
    /// have held records. False when they are not wanted any more.
    pub(super) fn fetched(
        &mut self,
        wanted: &Wanted,
        next: i64,
        bytes: usize,
        high_watermark: Option<i64>,
        drained: bool,
    ) -> bool {
        self.answers += u64::from(bytes > 0);
        let served = self.answers;
        let Some(position) = self.current(&wanted.partition, wanted.reading) else { return false };
        if bytes > 0 {
            position.served = served;
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
    pub(super) fn failed(&mut self, wanted: &Wanted, code: ErrorCode, retry_at: Instant) -> After {
        self.lost(&wanted.partition, wanted.reading, retry_at);
        match code {
            _ if !self.is_current(&wanted.partition, wanted.reading) => After::Nothing,
            ErrorCode::OFFSET_OUT_OF_RANGE => After::Reset,
            code if code.is_retriable() && code != ErrorCode::CORRUPT_MESSAGE => After::Refresh,
            _ => After::Fail,
        }
    }

    /// The request was not answered: what it asked for is asked for again.
    pub(super) fn lost(&mut self, partition: &TopicPartition, reading: u64, retry_at: Instant) {
        if let Some(position) = self.current(partition, reading) {
            position.in_flight = false;
            position.failures += 1;
            position.not_before = Some(retry_at);
        }
    }

    /// Begins anew. An offset is tried after the wait that the error asked for: it may be one that is not there either.
    pub(super) fn reset(&mut self, partition: &TopicPartition, start: Start) {
        let Some(position) = self.all.get_mut(partition) else { return };
        if let Start::Offset(offset) = start {
            position.next = offset;
            if position.ahead_bytes == 0 {
                position.given = Some(offset);
            }
        } else {
            position.state = State::Seeking(start);
            position.not_before = None;
        }
    }

    /// The reader has taken these bytes, and goes on with `next_offset`.
    pub(super) fn taken(&mut self, partition: &TopicPartition, bytes: usize, next_offset: i64) {
        if let Some(position) = self.all.get_mut(partition) {
            position.ahead_bytes = position.ahead_bytes.saturating_sub(bytes);
            position.given = Some(next_offset);
        }
    }

    /// Failures in a row.
    pub(super) fn failures(&self, partition: &TopicPartition) -> u32 {
        self.all.get(partition).map_or(0, |position| position.failures)
    }

    /// The offset behind the last record, as of the last response.
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
        let wanted = positions.wanted(now, |_| Some((1, 3)), |_| true).0.remove(&1).unwrap_or_default();
        positions.asked(&wanted);
        wanted
    }

    #[test]
    fn reading_begins_where_it_was_told_to() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Beginning), (place(1), Start::Offset(7))]);
        assert_eq!(
            positions.seeking(now),
            [OffsetLookup { partition: place(0), start: Start::Beginning, reading: 1 }]
        );
        let first = wanted(&mut positions, now);
        assert_eq!(first, [Wanted { partition: place(1), offset: 7, leader_epoch: 3, reading: 2 }]);
        assert_eq!(positions.given(&place(0)), None);
        positions.found(&place(0), 1, 2);
        assert_eq!(positions.given(&place(0)), Some(2));
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
        positions.taken(&place(0), 60, 3);
        assert_eq!(wanted(&mut positions, now)[0].offset, 5);
        assert_eq!(positions.high_watermark(&place(0)), Some(9));
    }

    #[test]
    fn partitions_that_had_no_records_for_the_longest_time_come_first() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign((0..3).map(|n| (place(n), Start::Offset(0))));
        let order = |wanted: &[Wanted]| wanted.iter().map(|one| one.partition.partition).collect::<Vec<_>>();
        let mut had = Vec::new();
        for _ in 0..4 {
            let all = wanted(&mut positions, now);
            had.push(order(&all)[0]);
            // The answer has room for the first one alone.
            for (n, one) in all.iter().enumerate() {
                assert!(positions.fetched(one, one.offset + 1, usize::from(n == 0), None, false));
            }
        }
        assert_eq!(had, [0, 1, 2, 0]);
    }

    #[test]
    fn what_is_forgotten_of_a_paused_partition_is_fetched_again_when_it_goes_on() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Offset(3)), (place(1), Start::Offset(0))]);
        let all = wanted(&mut positions, now);
        assert!(
            positions.fetched(&all[0], 8, 50, Some(9), false)
                && positions.fetched(&all[1], 8, 50, None, false)
        );
        positions.set_paused(&place(0), true);
        assert_eq!(positions.paused_bytes(), 50);
        positions.forget_paused();
        assert_eq!((positions.paused_bytes(), positions.given(&place(0))), (0, Some(3)));
        assert!(
            !positions.is_current(&place(0), all[0].reading)
                && positions.is_current(&place(1), all[1].reading)
        );
        assert_eq!(order_and_offsets(&wanted(&mut positions, now)), [(1, 8)]);
        positions.set_paused(&place(0), false);
        assert_eq!(order_and_offsets(&wanted(&mut positions, now)), [(0, 3)]);
    }

    fn order_and_offsets(wanted: &[Wanted]) -> Vec<(i32, i64)> {
        wanted.iter().map(|one| (one.partition.partition, one.offset)).collect()
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
        positions.asked(&wanted[&1]);
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
        positions.taken(&place(0), 10, 5);
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
    fn what_was_asked_before_a_seek_is_dropped_and_a_pause_asks_for_nothing() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Offset(0)), (place(1), Start::Offset(0))]);
        let before = wanted(&mut positions, now);
        assert!(positions.seek(&place(0), Start::Offset(9)) && !positions.seek(&place(7), Start::End));
        assert!(!positions.fetched(&before[0], 5, 1, None, false));
        positions.lost(&before[0].partition, before[0].reading, now + Duration::from_secs(9));
        assert_eq!(positions.given(&place(0)), Some(9));
        assert!(positions.set_paused(&place(0), true));
        assert!(wanted(&mut positions, now).is_empty());
        assert!(positions.set_paused(&place(0), false));
        assert_eq!(wanted(&mut positions, now)[0].offset, 9);
        assert!(positions.fetched(&before[1], 5, 1, None, false), "the other one went on");
    }

    #[test]
    fn adding_and_removing_leaves_the_others_alone() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        positions.assign([(place(0), Start::Offset(3))]);
        let kept = wanted(&mut positions, now).remove(0);
        positions.add([(place(1), Start::Offset(0))]);
        positions.remove(&[place(1)]);
        assert!(positions.is_current(&place(0), kept.reading) && positions.given(&place(1)).is_none());
        assert!(positions.fetched(&kept, 5, 1, None, false));
    }

    #[test]
    fn errors_hold_back_and_say_what_to_do() {
        let (mut positions, now) = (Positions::new(100), clock::now());
        let later = now + Duration::from_millis(10);
        positions.assign([(place(0), Start::Offset(0))]);
        let one = wanted(&mut positions, now).remove(0);
        assert_eq!(positions.failed(&one, ErrorCode::NOT_LEADER_OR_FOLLOWER, later), After::Refresh);
        assert!(wanted(&mut positions, now).is_empty());
        assert_eq!((positions.next_try(now), positions.failures(&place(0))), (Some(later), 1));
        let one = wanted(&mut positions, later).remove(0);
        assert_eq!(positions.failed(&one, ErrorCode::OFFSET_OUT_OF_RANGE, later), After::Reset);
        positions.reset(&place(0), Start::Beginning);
        assert_eq!(positions.seeking(now).len(), 1);
        positions.seek(&place(0), Start::Offset(0));
        let one = wanted(&mut positions, later).remove(0);
        assert_eq!(positions.failed(&one, ErrorCode::OFFSET_OUT_OF_RANGE, later), After::Reset);
        positions.reset(&place(0), Start::Offset(7));
        assert!(wanted(&mut positions, now).is_empty(), "it may be out of range too");
        let one = wanted(&mut positions, later).remove(0);
        assert_eq!((one.offset, positions.given(&place(0))), (7, Some(7)));
        assert_eq!(positions.failed(&one, ErrorCode::TOPIC_AUTHORIZATION_FAILED, later), After::Fail);
        positions.seek(&place(0), Start::End);
        assert_eq!(positions.failed(&one, ErrorCode::TOPIC_AUTHORIZATION_FAILED, later), After::Nothing);
    }
}
