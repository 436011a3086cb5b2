//! What requests and topics have moved.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::Histogram;

/// One more than the largest API key that is counted; the last place takes what is beyond.
const API_KEYS: usize = 128;

/// Requests of one API.
#[derive(Debug, Default)]
pub struct ApiMeter {
    /// From the arrival of the request to its reply, waiting for records included.
    pub duration: Histogram,
}

/// Where the time of requests goes.
#[derive(Debug, Default)]
pub struct StageMeter {
    /// Checking and ordering the batches of a produce request.
    pub produce_check: Histogram,
    /// What a fetch spends on finding and reading records.
    pub fetch_read: Histogram,
    /// What it waits for records that are not there yet; only of those that wait.
    pub fetch_wait: Histogram,
}

/// Where the time of a shard's group commits goes.
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
    /// Moved by all topics, deleted ones included.
    pub total: TopicMeter,
    /// Batches that were refused.
    pub produce_refused: AtomicU64,
    /// Where the time of requests goes.
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
    /// Counts a request that was answered.
    pub fn answered(&self, api_key: i16, after: Duration) {
        let place = usize::try_from(api_key).unwrap_or(API_KEYS).min(API_KEYS - 1);
        self.apis[place].duration.record(after);
    }

    /// Counts a batch that was not appended.
    pub fn refused(&self) {
        self.produce_refused.fetch_add(1, Relaxed);
    }

    /// The APIs by their keys.
    pub fn apis(&self) -> impl Iterator<Item = (i16, &ApiMeter)> {
        (0..).zip(self.apis.iter())
    }
}

/// What one topic has moved since the broker was started or the topic was made.
#[derive(Debug, Default)]
pub struct TopicMeter {
    /// Bytes of acknowledged batches.
    pub produced_bytes: AtomicU64,
    /// Records of these.
    pub produced_records: AtomicU64,
    /// Bytes of batches that were given to consumers.
    pub fetched_bytes: AtomicU64,
}

impl TopicMeter {
    /// Counts an acknowledged batch.
    pub fn produced(&self, bytes: usize, records: i32) {
        self.produced_bytes.fetch_add(bytes as u64, Relaxed);
        self.produced_records.fetch_add(u64::try_from(records).unwrap_or(0), Relaxed);
    }

    /// Counts batches that a consumer gets.
    pub fn fetched(&self, bytes: usize) {
        self.fetched_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
