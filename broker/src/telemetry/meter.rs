//! Counters of requests and topics.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_model::TopicId;

use super::Histogram;

/// Topics with series of their own; all others share one.
pub(super) const TOPIC_SERIES_MAX: usize = 500;

/// One more than the largest API key that is counted; the last slot counts all others.
const API_KEYS: usize = 128;

/// Requests of one API.
#[derive(Debug, Default)]
pub struct ApiMeter {
    /// From the arrival of a request to its reply, including waits for records.
    pub duration: Histogram,
}

/// Stages of requests.
#[derive(Debug, Default)]
pub struct StageMeter {
    /// Checking and ordering the batches of a produce request.
    pub produce_check: Histogram,
    /// Finding and reading the records of a fetch.
    pub fetch_read: Histogram,
    /// Waits of fetches for new records; only of those that wait.
    pub fetch_wait: Histogram,
}

/// Stages of a shard's group commits.
#[derive(Debug, Default)]
pub struct CommitMeter {
    /// How long the oldest batch of each waited for it.
    pub queue: Histogram,
    /// From the proposal until it is applied.
    pub log: Histogram,
}

/// Counters of the whole broker since it was started.
#[derive(Debug)]
pub struct Meter {
    /// Totals of all topics, deleted ones included.
    pub total: TopicMeter,
    /// Refused batches.
    pub produce_refused: AtomicU64,
    /// Stages of requests.
    pub stages: StageMeter,
    apis: Box<[ApiMeter]>,
}

impl Default for Meter {
    fn default() -> Meter {
        let apis = std::iter::repeat_with(ApiMeter::default).take(API_KEYS).collect();
        Meter {
            total: TopicMeter::default(),
            produce_refused: AtomicU64::new(0),
            stages: StageMeter::default(),
            apis,
        }
    }
}

impl Meter {
    /// Counts a completed request.
    pub fn answered(&self, api_key: i16, after: Duration) {
        let place = usize::try_from(api_key).unwrap_or(API_KEYS).min(API_KEYS - 1);
        self.apis[place].duration.record(after);
    }

    /// Counts a refused batch.
    pub fn refused(&self) {
        self.produce_refused.fetch_add(1, Relaxed);
    }

    /// The APIs by key.
    pub fn apis(&self) -> impl Iterator<Item = (i16, &ApiMeter)> {
        (0..).zip(self.apis.iter())
    }
}

/// Counters of one topic since the broker was started or the topic was created.
#[derive(Debug, Default)]
pub struct TopicMeter {
    /// Bytes of acknowledged batches.
    pub produced_bytes: AtomicU64,
    /// Records of these.
    pub produced_records: AtomicU64,
    /// Bytes of batches returned to consumers.
    pub fetched_bytes: AtomicU64,
}

impl TopicMeter {
    /// Counts an acknowledged batch.
    pub fn produced(&self, bytes: usize, records: i32) {
        self.produced_bytes.fetch_add(bytes as u64, Relaxed);
        self.produced_records.fetch_add(u64::try_from(records).unwrap_or(0), Relaxed);
    }

    /// Counts batches returned to a consumer.
    pub fn fetched(&self, bytes: usize) {
        self.fetched_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// The meters of all topics. A topic gets its meter when it is created and keeps it while it exists, so a
/// series never changes its topic and never decreases.
#[derive(Debug, Default)]
pub struct TopicMeters {
    /// Topics with a series of their own, at most [`TOPIC_SERIES_MAX`].
    own: HashMap<TopicId, Arc<TopicMeter>>,
    /// Shared by the topics that were created while all series were in use. It outlives them.
    other: Arc<TopicMeter>,
    /// Topics that use the shared meter.
    others: HashSet<TopicId>,
}

impl TopicMeters {
    /// The meter of a topic, assigned on the first call.
    pub fn of(&mut self, id: TopicId) -> Arc<TopicMeter> {
        if let Some(meter) = self.own.get(&id) {
            return meter.clone();
        }
        if self.own.len() < TOPIC_SERIES_MAX && !self.others.contains(&id) {
            return self.own.entry(id).or_default().clone();
        }
        self.others.insert(id);
        self.other.clone()
    }

    /// Frees the series of a deleted topic.
    pub fn release(&mut self, id: TopicId) {
        self.own.remove(&id);
        self.others.remove(&id);
    }

    /// Frees the series of all other topics.
    pub fn retain(&mut self, exists: impl Fn(TopicId) -> bool) {
        self.own.retain(|id, _| exists(*id));
        self.others.retain(|id| exists(*id));
    }

    /// The meter of topics without a series of their own.
    pub fn other(&self) -> Arc<TopicMeter> {
        self.other.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_keeps_its_series_and_the_shared_one_never_decreases() {
        let mut meters = TopicMeters::default();
        let id = |n: usize| TopicId((n as u128).to_be_bytes());
        let shared = |meter: &Arc<TopicMeter>, meters: &TopicMeters| Arc::ptr_eq(meter, &meters.other());
        for n in 1..=TOPIC_SERIES_MAX + 2 {
            let meter = meters.of(id(n));
            meter.produced(10, 1);
            assert_eq!(shared(&meter, &meters), n > TOPIC_SERIES_MAX, "topic {n}");
        }
        let own = meters.of(id(7));
        meters.release(id(1));
        meters.release(id(TOPIC_SERIES_MAX + 1));
        assert_eq!(meters.other().produced_records.load(Relaxed), 2, "it outlives its topics");
        assert!(shared(&meters.of(id(TOPIC_SERIES_MAX + 2)), &meters), "a topic does not change its series");
        assert!(Arc::ptr_eq(&own, &meters.of(id(7))));
        assert!(!shared(&meters.of(id(9999)), &meters), "a new topic gets the free series");
        assert!(shared(&meters.of(id(10_000)), &meters));
        meters.retain(|kept| kept == id(7) || kept == id(10_000));
        assert!(Arc::ptr_eq(&own, &meters.of(id(7))));
        assert!(shared(&meters.of(id(10_000)), &meters));
        assert!(!shared(&meters.of(id(10_001)), &meters));
    }

    #[test]
    fn requests_are_counted_by_their_api_and_no_key_is_out_of_bounds() {
        let meter = Meter::default();
        for key in [0, 0, 3, -1, i16::MAX] {
            meter.answered(key, Duration::from_millis(1));
        }
        let counts: Vec<(i16, u64)> =
            meter.apis().map(|(key, api)| (key, api.duration.read().count)).collect();
        assert_eq!(
            counts.iter().filter(|(_, n)| *n > 0).copied().collect::<Vec<_>>(),
            [(0, 2), (3, 1), (127, 2)]
        );
    }
}
