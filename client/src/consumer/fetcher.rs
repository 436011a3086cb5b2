//! Carries out what the positions ask for: one task that decides, and one for each request on its way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_batch::{BatchHeader, split};
use millstream_protocol::{
    ErrorCode, Records, Str,
    messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    ConsumerConfig, TopicPartition, Waiting,
    aborted::without_aborted,
    memory::{Hold, Memory},
    positions::{After, Positions, Wanted},
};
use crate::{ClientError, Cluster, clock, cluster::Lane};

/// One in this many parts of the memory is for responses in flight; the rest is for what waits to be taken.
const IN_FLIGHT_ONE_OF: usize = 2;
/// Paused partitions keep what was read ahead up to one in this many parts, when others need memory.
const PAUSED_ONE_OF: usize = 4;

/// The newest Fetch version that names topics by their names.
const FETCH_VERSION_MAX: i16 = 12;

/// Batches of one partition that were fetched.
pub(super) struct Fetched {
    pub(super) partition: TopicPartition,
    pub(super) batches: Vec<Bytes>,
    /// Records below belong to what was read before.
    pub(super) from: i64,
    /// Offset behind the last of them.
    pub(super) next: i64,
    pub(super) bytes: usize,
    pub(super) reading: u64,
    /// Of the answer that the batches point into.
    pub(super) _hold: Arc<Hold>,
}

impl Fetched {
    /// A batch in memory of its own, which does not keep the rest of the answer.
    pub(super) fn alone(&self, batch: &Bytes, memory: &Memory) -> (Arc<Fetched>, Bytes) {
        let (partition, bytes) = (self.partition.clone(), batch.len());
        let (from, next, reading) = (self.from, self.next, self.reading);
        let hold = Arc::new(memory.hold(bytes));
        let fetched = Fetched { partition, batches: Vec::new(), from, next, bytes, reading, _hold: hold };
        (Arc::new(fetched), Bytes::copy_from_slice(batch))
    }
}

/// What the reader and the fetching task share.
pub(super) struct Shared {
    /// Locked before `held` where both are.
    pub(super) positions: Mutex<Positions>,
    /// Batches that wait to be given, of partitions that are paused.
    pub(super) held: Mutex<BTreeMap<TopicPartition, Waiting>>,
    pub(super) memory: Memory,
    pub(super) wake: Arc<Notify>,
}

impl Shared {
    /// Changes what is read, and has the fetching task look.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Positions) -> R) -> R {
        let result = change(&mut self.positions.lock());
        self.wake.notify_one();
        result
    }

    /// Forgets what was read ahead of paused partitions where that takes much of the memory: the others could not go on.
    fn make_room(&self) {
        let mut positions = self.positions.lock();
        if positions.paused_bytes() > self.memory.bytes_max() / PAUSED_ONE_OF {
            positions.forget_paused();
            self.held.lock().retain(|partition, waiting| {
                waiting.front().is_some_and(|(fetched, _)| positions.is_current(partition, fetched.reading))
            });
        }
    }
}

enum Done {
    Fetched { broker: i32, wanted: Vec<Wanted>, hold: Hold, answer: Result<FetchResponse, ClientError> },
    Lookups { found: Vec<(TopicPartition, u64, Result<i64, ClientError>)> },
    Refreshed,
}

pub(super) struct Fetcher {
    cluster: Cluster,
    config: Arc<ConsumerConfig>,
    shared: Arc<Shared>,
    out: mpsc::Sender<Result<Fetched, ClientError>>,
    tasks: JoinSet<Done>,
    brokers_in_flight: BTreeSet<i32>,
    /// The broker that was asked last: the others come before it.
    last_asked: i32,
    seeking: bool,
    refreshing: bool,
    stale: BTreeSet<Arc<str>>,
    failures: u32,
}

impl Fetcher {
    pub(super) fn new(
        cluster: Cluster,
        config: Arc<ConsumerConfig>,
        shared: Arc<Shared>,
        out: mpsc::Sender<Result<Fetched, ClientError>>,
    ) -> Fetcher {
        Fetcher {
            cluster,
            config,
            shared,
            out,
            tasks: JoinSet::new(),
            brokers_in_flight: BTreeSet::new(),
            last_asked: -1,
            seeking: false,
            refreshing: false,
            stale: BTreeSet::new(),
            failures: 0,
        }
    }

    /// Fetches until the reader is gone.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.config.check() {
            // A reader that is gone need not know.
            let _ = self.out.send(Err(error)).await;
            return;
        }
        loop {
            let wake_at = self.begin(clock::now());
            tokio::select! {
                () = self.shared.wake.notified() => {}
                Some(done) = self.tasks.join_next() => {
                    let results = match done {
                        Ok(done) => self.take_in(done),
                        Err(_) => Vec::new(),
                    };
                    for one in results {
                        if self.out.send(one).await.is_err() {
                            return;
                        }
                    }
                }
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Begins what can be begun, and says when to look again if nothing happens before. All of it by one look at the clock:
    /// a wait that ended between two would be over neither for what is asked nor for what is waited for.
    fn begin(&mut self, now: Instant) -> Option<Instant> {
        self.seek(now);
        self.fetch(now);
        self.refresh();
        self.shared.positions.lock().next_try(now)
    }

    /// Asks where to begin, for partitions that do not know.
    fn seek(&mut self, now: Instant) {
        let wanted = self.shared.positions.lock().seeking(now);
        if self.seeking || wanted.is_empty() {
            return;
        }
        self.seeking = true;
        let cluster = self.cluster.clone();
        self.tasks.spawn(async move {
            let readings: HashMap<_, _> =
                wanted.iter().map(|sought| (sought.partition.clone(), sought.reading)).collect();
            let starts = wanted.into_iter().map(|sought| (sought.partition, sought.start)).collect();
            let found = crate::admin::find_starts(&cluster, starts).await.into_iter();
            let with_reading = |(partition, result)| {
                let reading = readings.get(&partition).copied().unwrap_or_default();
                (partition, reading, result)
            };
            Done::Lookups { found: found.map(with_reading).collect() }
        });
    }

    /// One request to each broker that none is on its way to, while there is memory for their answers.
    fn fetch(&mut self, now: Instant) {
        let lead = |partition: &TopicPartition| self.leader(partition);
        let is_free = |broker: i32| !self.brokers_in_flight.contains(&broker);
        let (mut wanted, leaderless) = self.shared.positions.lock().wanted(now, lead, is_free);
        self.stale.extend(leaderless);
        let brokers = wanted.len() + self.brokers_in_flight.len();
        let mut in_turn: Vec<i32> = wanted.keys().copied().collect();
        in_turn.sort_by_key(|broker| *broker <= self.last_asked);
        for broker in in_turn {
            let wanted = wanted.remove(&broker).unwrap_or_default();
            let bytes_max = self.answer_bytes_max(wanted.len(), brokers);
            let Some(hold) = self.shared.memory.reserve(bytes_max) else {
                return self.shared.make_room();
            };
            self.shared.positions.lock().asked(&wanted);
            self.brokers_in_flight.insert(broker);
            self.last_asked = broker;
            let (cluster, config) = (self.cluster.clone(), self.config.clone());
            self.tasks.spawn(async move {
                let answer = ask(&cluster, &config, broker, &wanted, bytes_max).await;
                Done::Fetched { broker, wanted, hold, answer }
            });
        }
    }

    /// Limit of a response for this many partitions, when this many brokers are asked at the same time.
    fn answer_bytes_max(&self, partitions: usize, brokers: usize) -> usize {
        let size = |bytes: i32| usize::try_from(bytes).unwrap_or_default();
        let share = self.shared.memory.bytes_max() / IN_FLIGHT_ONE_OF / brokers.max(1);
        let all = size(self.config.partition_bytes_max).saturating_mul(partitions);
        all.min(size(self.config.bytes_max)).min(share).max(1)
    }

    fn leader(&self, partition: &TopicPartition) -> Option<(i32, i32)> {
        let topic = self.cluster.known(&partition.topic)?;
        let known = topic.partitions.get(usize::try_from(partition.partition).ok()?)?;
        Some((known.leader?, known.leader_epoch))
    }

    fn refresh(&mut self) {
        if self.stale.is_empty() || self.refreshing {
            return;
        }
        self.refreshing = true;
        self.failures += 1;
        let topics = std::mem::take(&mut self.stale);
        let (cluster, failures) = (self.cluster.clone(), self.failures);
        self.tasks.spawn(async move {
            tokio::time::sleep(cluster.backoff().after(failures, clock::random_u64())).await;
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            if let Err(error) = cluster.refresh(&topics).await {
                tracing::debug!(%error, "metadata");
            }
            Done::Refreshed
        });
    }

    /// What the reader is to hear.
    fn take_in(&mut self, done: Done) -> Vec<Result<Fetched, ClientError>> {
        match done {
            Done::Refreshed => {
                self.refreshing = false;
                Vec::new()
            }
            Done::Lookups { found } => {
                self.seeking = false;
                self.take_starts(found)
            }
            Done::Fetched { broker, wanted, hold, answer } => {
                self.brokers_in_flight.remove(&broker);
                match answer {
                    Ok(response) => self.take_answer(&wanted, response, hold),
                    Err(error) => self.take_loss(&wanted, &error),
                }
            }
        }
    }

    fn take_starts(
        &mut self,
        found: Vec<(TopicPartition, u64, Result<i64, ClientError>)>,
    ) -> Vec<Result<Fetched, ClientError>> {
        let mut results = Vec::new();
        for (partition, reading, result) in found {
            match result {
                Ok(offset) => self.shared.positions.lock().found(&partition, reading, offset),
                Err(error) if error.is_retriable() => {
                    self.stale.insert(partition.topic.clone());
                    let retry_at = self.retry_at(&partition);
                    self.shared.positions.lock().lost(&partition, reading, retry_at);
                }
                Err(error) => {
                    let retry_at = self.retry_at(&partition);
                    self.shared.positions.lock().lost(&partition, reading, retry_at);
                    results.push(Err(error));
                }
            }
        }
        results
    }

    fn take_loss(&mut self, wanted: &[Wanted], error: &ClientError) -> Vec<Result<Fetched, ClientError>> {
        tracing::debug!(%error, "a fetch was not answered");
        for one in wanted {
            self.stale.insert(one.partition.topic.clone());
            let retry_at = self.retry_at(&one.partition);
            self.shared.positions.lock().lost(&one.partition, one.reading, retry_at);
        }
        Vec::new()
    }

    fn take_answer(
        &mut self,
        wanted: &[Wanted],
        response: FetchResponse,
        mut hold: Hold,
    ) -> Vec<Result<Fetched, ClientError>> {
        let mut answers: HashMap<(String, i32), PartitionData> = HashMap::new();
        for topic in response.responses {
            answers.extend(
                topic.partitions.into_iter().map(|p| ((topic.topic.to_string(), p.partition_index), p)),
            );
        }
        hold.correct(answers.values().map(|data| data.records.len()).sum());
        let hold = Arc::new(hold);
        let drained = answers.values().all(|data| data.error_code == 0 && data.records.is_empty());
        let mut results = Vec::new();
        for one in wanted {
            let key = (one.partition.topic.to_string(), one.partition.partition);
            // A partition that the answer leaves out has nothing new.
            let data = answers.remove(&key);
            let code = data.as_ref().map_or(response.error_code, |data| data.error_code);
            match (ErrorCode(code), data) {
                (ErrorCode::NONE, data) => results.extend(self.take_records(one, data, drained, &hold)),
                (code, _) => results.extend(self.take_error(one, code)),
            }
        }
        results
    }

    fn take_records(
        &mut self,
        wanted: &Wanted,
        data: Option<PartitionData>,
        drained: bool,
        hold: &Arc<Hold>,
    ) -> Option<Result<Fetched, ClientError>> {
        self.failures = 0;
        let high_watermark = data.as_ref().map(|data| data.high_watermark);
        let data = data.unwrap_or_default();
        let (batches, next) = match whole_batches(data.records, wanted.offset) {
            Ok(found) => found,
            Err(source) => {
                let retry_at = self.retry_at(&wanted.partition);
                self.shared.positions.lock().lost(&wanted.partition, wanted.reading, retry_at);
                let (topic, partition) = (wanted.partition.topic.to_string(), wanted.partition.partition);
                return Some(Err(ClientError::Records { topic, partition, offset: wanted.offset, source }));
            }
        };
        let batches = match (&data.aborted_transactions, self.config.read_committed) {
            (Some(aborted), true) => without_aborted(batches, aborted),
            _ => batches,
        };
        let bytes = batches.iter().map(Bytes::len).sum();
        let is_next = self.shared.positions.lock().fetched(
            wanted,
            next,
            bytes,
            high_watermark,
            drained && batches.is_empty(),
        );
        if !is_next || batches.is_empty() {
            return None;
        }
        let (partition, reading) = (wanted.partition.clone(), wanted.reading);
        let _hold = hold.clone();
        Some(Ok(Fetched { partition, batches, from: wanted.offset, next, bytes, reading, _hold }))
    }

    fn take_error(&mut self, wanted: &Wanted, code: ErrorCode) -> Option<Result<Fetched, ClientError>> {
        let retry_at = self.retry_at(&wanted.partition);
        let after = self.shared.positions.lock().failed(wanted, code, retry_at);
        match (after, self.config.reset) {
            (After::Refresh, _) => {
                self.stale.insert(wanted.partition.topic.clone());
                None
            }
            (After::Nothing, _) => None,
            (After::Reset, Some(start)) => {
                tracing::warn!(partition = %wanted.partition, offset = wanted.offset, "the offset is not there any more");
                self.shared.positions.lock().reset(&wanted.partition, start);
                None
            }
            _ => {
                let what = format!("fetch {} from offset {}", wanted.partition, wanted.offset);
                Some(Err(ClientError::Refused { what, code, reason: None }))
            }
        }
    }

    fn retry_at(&self, partition: &TopicPartition) -> Instant {
        let failures = self.shared.positions.lock().failures(partition) + 1;
        clock::now() + self.cluster.backoff().after(failures, clock::random_u64())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn ask(
    cluster: &Cluster,
    config: &ConsumerConfig,
    broker: i32,
    wanted: &[Wanted],
    bytes_max: usize,
) -> Result<FetchResponse, ClientError> {
    let connection = cluster.broker(broker, Lane::Fetch).await?;
    let version = connection.version::<FetchRequest>(FETCH_VERSION_MAX)?;
    let bytes_max = i32::try_from(bytes_max).unwrap_or(i32::MAX);
    let mut topics: Vec<FetchTopic> = Vec::new();
    for one in wanted {
        let partition = FetchPartition {
            partition: one.partition.partition,
            current_leader_epoch: one.leader_epoch,
            fetch_offset: one.offset,
            partition_max_bytes: config.partition_bytes_max.min(bytes_max),
            ..Default::default()
        };
        match topics.last_mut().filter(|topic| *topic.topic == *one.partition.topic) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(FetchTopic {
                topic: Str::from(one.partition.topic.to_string()),
                partitions: vec![partition],
                ..Default::default()
            }),
        }
    }
    let wait: Duration = config.wait_max;
    let request = FetchRequest {
        max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: config.min_bytes,
        max_bytes: bytes_max,
        isolation_level: config.read_committed.into(),
        // No session: each request says all that it wants.
        session_id: 0,
        session_epoch: -1,
        topics,
        ..Default::default()
    };
    connection.call_waiting(version, &request, wait).await
}

/// The batches, and the offset behind the last. A broker may cut the last batch short; it comes whole next time.
fn whole_batches(records: Records, from: i64) -> Result<(Vec<Bytes>, i64), millstream_batch::BatchError> {
    let pieces = match records {
        Records::None => Vec::new(),
        Records::One(bytes) => vec![bytes],
        Records::Many(pieces) => pieces,
    };
    let (mut batches, mut next) = (Vec::new(), from);
    for piece in &pieces {
        for batch in split(piece) {
            match batch {
                Ok(batch) => {
                    let header = BatchHeader::parse(&batch)?;
                    millstream_batch::check_crc(&batch)?;
                    if header.next_offset() > from {
                        next = next.max(header.next_offset());
                        batches.push(batch);
                    }
                }
                Err(millstream_batch::BatchError::Truncated { .. }) if !batches.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok((batches, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Start;
    use millstream_batch::{BatchBuilder, Codec, NewRecord};

    fn batch(base_offset: i64, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None).base_offset(base_offset);
        (0..records).for_each(|_| builder.push(NewRecord { value: Some(b"v"), ..NewRecord::default() }));
        builder.build().expect("a batch")
    }

    #[test]
    fn batches_below_the_position_and_a_last_one_that_is_cut_are_left_out() {
        let (old, first, second) = (batch(0, 2), batch(2, 3), batch(5, 2));
        let cut = second.slice(..second.len() - 1);
        let all: Bytes = [&old[..], &first[..], &cut[..]].concat().into();
        let (batches, next) = whole_batches(Records::One(all), 3).expect("whole");
        assert_eq!((batches, next), (vec![first], 5));
    }

    #[test]
    fn damage_is_told() {
        let mut bytes = batch(0, 1).to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(whole_batches(Records::One(bytes.into()), 0).is_err());
        let cut = batch(0, 1).slice(..65);
        assert!(whole_batches(Records::One(cut), 0).is_err(), "the first batch must be whole");
    }

    #[tokio::test]
    async fn a_wait_that_ends_while_it_is_looked_is_not_forgotten() {
        let partition = TopicPartition { topic: "a".into(), partition: 0 };
        let mut positions = Positions::new(100);
        positions.assign([(partition.clone(), Start::Offset(0))]);
        let retry_at = clock::now();
        positions.lost(&partition, 1, retry_at);
        let shared = Arc::new(Shared {
            positions: Mutex::new(positions),
            held: Mutex::default(),
            memory: Memory::new(1 << 20, Arc::default()),
            wake: Arc::default(),
        });
        let cluster = Cluster::new(crate::ClientConfig::new("127.0.0.1:1"));
        let mut fetcher = Fetcher::new(cluster, Arc::default(), shared, mpsc::channel(1).0);
        // By now it is over; when it was looked it was not yet.
        assert_eq!(fetcher.begin(retry_at - Duration::from_nanos(1)), Some(retry_at));
        assert!(fetcher.stale.is_empty() && !fetcher.refreshing, "nothing was asked for");
        assert_eq!(fetcher.begin(retry_at), None);
        assert!(fetcher.refreshing, "its leader is asked for");
    }
}
