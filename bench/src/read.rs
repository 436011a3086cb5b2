//! Reading records: all that there is, as they come, or in groups.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use millstream_client::{
    Cluster,
    consumer::{Chunk, Consumer, ConsumerConfig, Event, GroupConfig, GroupConsumer, Start, TopicPartition},
};
use parking_lot::Mutex;

use super::{
    clock,
    error::BenchError,
    live::Live,
    load::{Timetable, joined},
    meter::{Latencies, Series},
    topic::Range,
};

/// While nothing comes it is looked so often whether there is anything left to come.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Nothing has come for so long: what is left will not come.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// The run and the number of a record stand at the beginning of its value.
pub const MARK_BYTES: usize = 16;

/// What was read, and how long it took.
pub(super) struct Read {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    pub(super) latencies: Latencies,
    pub(super) series: Series,
    pub(super) ended: Instant,
}

impl Read {
    fn new(began: Instant) -> Read {
        Read {
            records: 0,
            bytes: 0,
            took: Duration::ZERO,
            latencies: Latencies::new(),
            series: Series::new(began),
            ended: began,
        }
    }

    fn count(&mut self, chunk: &Chunk, began: Instant) {
        let values = chunk.records.iter().filter_map(|record| record.value.as_ref());
        self.bytes += values.map(|value| value.len() as u64).sum::<u64>();
        self.records += chunk.records.len() as u64;
        self.ended = clock::monotonic();
        self.took = self.ended.saturating_duration_since(began);
        self.series.add(self.ended, chunk.records.len() as u64);
    }
}

/// Where each partition ends, of those that have something.
fn left(ranges: &BTreeMap<TopicPartition, Range>) -> BTreeMap<TopicPartition, i64> {
    let full = ranges.iter().filter(|(_, (begin, end))| begin < end);
    full.map(|(place, (_, end))| (place.clone(), *end)).collect()
}

/// Offsets in these ranges.
fn records_in(ranges: &BTreeMap<TopicPartition, Range>) -> u64 {
    ranges.values().map(|(begin, end)| end.saturating_sub(*begin).max(0) as u64).sum()
}

/// Reads everything in these ranges.
pub(super) async fn everything(
    cluster: Cluster,
    ranges: &BTreeMap<TopicPartition, Range>,
    live: &Live,
) -> Result<Read, BenchError> {
    live.begin("reading", records_in(ranges));
    let mut left = left(ranges);
    let mut consumer = Consumer::new(cluster, ConsumerConfig::default());
    let began = clock::monotonic();
    let mut read = Read::new(began);
    consumer.assign(left.keys().map(|place| (place.clone(), Start::Offset(ranges[place].0))));
    while !left.is_empty() {
        let chunk = match tokio::time::timeout(LOOK_EVERY, consumer.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => {
                left.retain(|place, _| !consumer.is_drained(place));
                continue;
            }
        };
        read.count(&chunk, began);
        live.add(chunk.records.len() as u64);
        if left.get(&chunk.partition).is_some_and(|end| chunk.next_offset >= *end) {
            left.remove(&chunk.partition);
        }
    }
    Ok(read)
}

/// The number of a record of this run; none for records of others.
fn number(value: &[u8], run: u64) -> Option<u64> {
    let (mark, number) = (value.get(..8)?, value.get(8..MARK_BYTES)?);
    (mark == run.to_be_bytes()).then(|| u64::from_be_bytes(number.try_into().unwrap_or_default()))
}

/// What a record of this run begins with.
pub(super) fn mark(run: u64, number: u64) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..8].copy_from_slice(&run.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Reads the records of a run while they are written, each once.
pub(super) async fn as_they_come(
    mut consumer: Consumer,
    run: u64,
    timetable: Timetable,
) -> Result<Read, BenchError> {
    let began = timetable.counts_from();
    let mut read = Read::new(began);
    let (mut seen, mut came) = (vec![false; timetable.records as usize], 0);
    while came < timetable.records {
        let Ok(chunk) = tokio::time::timeout(QUIET_MAX, consumer.next()).await else {
            let (written, seconds) = (timetable.records, QUIET_MAX.as_secs());
            return Err(BenchError::Records { read: came, written, seconds });
        };
        let chunk = chunk?;
        let now = clock::monotonic();
        for value in chunk.records.iter().filter_map(|record| record.value.as_ref()) {
            let Some(number) = number(value, run).filter(|n| seen.get(*n as usize) == Some(&false)) else {
                continue;
            };
            seen[number as usize] = true;
            came += 1;
            if number >= timetable.warmup_records {
                read.latencies.add(now.saturating_duration_since(timetable.due(number)));
                read.series.add(now, 1);
                read.records += 1;
                read.bytes += value.len() as u64;
                read.ended = now;
            }
        }
    }
    read.took = read.ended.saturating_duration_since(began);
    Ok(read)
}

/// What all members of all groups have read.
pub(super) struct GroupsRead {
    pub(super) read: Read,
    /// From the beginning until the last member had its partitions.
    pub(super) ready: Duration,
}

/// What the members of one group share.
struct Group {
    name: String,
    left: Mutex<BTreeMap<TopicPartition, i64>>,
}

/// How many groups, and of how many members.
#[derive(Clone, Copy)]
pub(super) struct GroupsPlan {
    pub(super) groups: u32,
    pub(super) members: u32,
}

/// Every group reads the topic from its beginning to its end.
pub(super) async fn in_groups(
    cluster: &Cluster,
    topic: &str,
    ranges: &BTreeMap<TopicPartition, Range>,
    plan: GroupsPlan,
    live: &Arc<Live>,
) -> Result<(GroupsRead, Vec<String>), BenchError> {
    let (run, began) = (clock::random_u64(), clock::monotonic());
    let shared = Arc::new(Mutex::new(GroupsRead { read: Read::new(began), ready: Duration::ZERO }));
    let (mut tasks, mut names) = (Vec::new(), Vec::new());
    let expected = records_in(ranges) * u64::from(plan.groups);
    live.begin("reading in groups", expected);
    for at in 0..plan.groups {
        let group =
            Arc::new(Group { name: format!("bench-{run:016x}-{at}"), left: Mutex::new(left(ranges)) });
        names.push(group.name.clone());
        for _ in 0..plan.members {
            let member =
                Member { group: group.clone(), all: shared.clone(), began, expected, live: live.clone() };
            // Connections of its own, as a process of its own would have.
            let own = Cluster::new(cluster.config().clone());
            tasks.push(joined(tokio::spawn(member.run(own, topic.to_string()))));
        }
    }
    try_join_all(tasks).await?;
    let all = Arc::into_inner(shared).map(Mutex::into_inner);
    let all = all.ok_or_else(|| BenchError::Task(std::io::Error::other("a member is left")))?;
    Ok((all, names))
}

struct Member {
    group: Arc<Group>,
    all: Arc<Mutex<GroupsRead>>,
    began: Instant,
    /// Records that all groups together have to read.
    expected: u64,
    live: Arc<Live>,
}

impl Member {
    async fn run(self, cluster: Cluster, topic: String) -> Result<(), BenchError> {
        let config = GroupConfig { start: Start::Beginning, ..GroupConfig::new(&self.group.name, [topic]) };
        let mut consumer = GroupConsumer::new(cluster, config);
        let (mut waits, mut last) = (true, self.began);
        while !self.group.left.lock().is_empty() {
            match tokio::time::timeout(LOOK_EVERY, consumer.event()).await {
                Err(_) if clock::monotonic().saturating_duration_since(last) > QUIET_MAX => {
                    let (read, seconds) = (self.all.lock().read.records, QUIET_MAX.as_secs());
                    let written = self.expected;
                    return Err(BenchError::Records { read, written, seconds });
                }
                Err(_) => {}
                Ok(event) => {
                    last = clock::monotonic();
                    self.note(event?, last, &mut waits);
                }
            }
        }
        Ok(consumer.close().await?)
    }

    fn note(&self, event: Event, now: Instant, waits: &mut bool) {
        match event {
            Event::Assigned(_) if *waits => {
                *waits = false;
                let since = now.saturating_duration_since(self.began);
                let mut all = self.all.lock();
                all.read.latencies.add(since);
                all.ready = all.ready.max(since);
            }
            Event::Records(chunk) => {
                self.all.lock().read.count(&chunk, self.began);
                self.live.add(chunk.records.len() as u64);
                let mut left = self.group.left.lock();
                if left.get(&chunk.partition).is_some_and(|end| chunk.next_offset >= *end) {
                    left.remove(&chunk.partition);
                }
            }
            Event::Assigned(_) | Event::Revoked(_) | Event::Lost(_) | Event::Overdue { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_of_which_run_and_which_it_is() {
        let mut value = mark(7, 9).to_vec();
        value.extend([1, 2, 3]);
        assert_eq!(number(&value, 7), Some(9));
        assert_eq!(number(&value, 8), None, "another run's");
        assert_eq!(number(&value[..15], 7), None, "too short to be ours");
    }

    #[test]
    fn only_partitions_with_something_are_read() {
        let place = |partition| TopicPartition { topic: "t".into(), partition };
        let ranges = BTreeMap::from([(place(0), (5, 5)), (place(1), (5, 8))]);
        assert_eq!(left(&ranges), BTreeMap::from([(place(1), 8)]));
    }
}
