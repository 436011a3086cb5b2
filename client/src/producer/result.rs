//! What becomes of a record: one result for each batch, which all its records share.

use std::{
    future::IntoFuture,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use millstream_protocol::ErrorCode;
use tokio::sync::Notify;

use super::batch::Place;

/// Where a record went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset, or -1 where the broker does not say.
    pub offset: i64,
    /// The record's timestamp as it is stored.
    pub timestamp_ms: i64,
}

/// Why a record was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The broker said no.
    #[error("the broker refused the record: {code}{}", reason.as_ref().map_or_else(String::new, |r| format!(": {r}")))]
    Refused {
        /// Kafka's code.
        code: ErrorCode,
        /// The broker's words, if it had any.
        reason: Option<String>,
    },
    /// The time for delivery is over, and no try can have been appended.
    #[error("the record was not delivered in time: {reason}")]
    Expired {
        /// What the last try ended with.
        reason: String,
    },
    /// No answer tells whether the record was appended.
    #[error("it is not known whether the record was appended: {reason}")]
    Unknown {
        /// What the last try ended with.
        reason: String,
    },
    /// The record cannot be encoded.
    #[error("the record cannot be encoded: {0}")]
    Encoding(String),
    /// The producer was dropped before the result was known.
    #[error("the producer is closed")]
    Closed,
}

/// Where a batch begins and what time the broker gave it; -1 for each that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    pub(crate) log_append_time_ms: i64,
}

#[derive(Debug)]
enum Outcome {
    Done(Result<Appended, DeliveryError>),
    /// The batch was too large and travels in pieces: the number of each one's first record, and its result.
    Split(Vec<(usize, Arc<BatchResult>)>),
}

/// The result of a batch, once it is there. It never changes then.
#[derive(Debug)]
pub(crate) struct BatchResult {
    place: Place,
    outcome: OnceLock<Outcome>,
    wake: Notify,
}

impl BatchResult {
    fn set(&self, outcome: Outcome) {
        // The first one stays: a promise that is dropped after it was kept says nothing new.
        if self.outcome.set(outcome).is_ok() {
            self.wake.notify_waiters();
        }
    }

    async fn outcome(&self) -> &Outcome {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            // From here on no call of the waiters is missed.
            woken.as_mut().enable();
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            woken.await;
        }
    }
}

/// Owes a batch its result. Dropped without one, it reports that the producer is closed.
#[derive(Debug)]
pub(crate) struct Promise(Arc<BatchResult>);

impl Promise {
    pub(crate) fn new(place: Place) -> Promise {
        Promise(Arc::new(BatchResult { place, outcome: OnceLock::new(), wake: Notify::new() }))
    }

    /// Waits for the result of one of the batch's records.
    pub(crate) fn delivery(&self, at: usize, timestamp_ms: i64) -> Delivery {
        Delivery { result: self.0.clone(), at, timestamp_ms }
    }

    pub(crate) fn keep(self, result: Result<Appended, DeliveryError>) {
        self.0.set(Outcome::Done(result));
    }

    /// The batch travels in pieces with these counts of records: promises for each.
    pub(crate) fn split(self, counts: &[usize]) -> Vec<Promise> {
        let pieces: Vec<Promise> = counts.iter().map(|_| Promise::new(self.0.place.clone())).collect();
        let firsts = counts.iter().scan(0, |next, count| {
            let first = *next;
            *next += count;
            Some(first)
        });
        self.0.set(Outcome::Split(firsts.zip(pieces.iter().map(|piece| piece.0.clone())).collect()));
        pieces
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.set(Outcome::Done(Err(DeliveryError::Closed)));
    }
}

/// Waits for a record's result, by `.await` or [`wait`](Delivery::wait). Dropping it changes nothing for the record.
#[derive(Debug)]
pub struct Delivery {
    result: Arc<BatchResult>,
    at: usize,
    timestamp_ms: i64,
}

impl Delivery {
    /// Waits until the record is delivered, or until it is known that it will not be. A call that is dropped has changed
    /// nothing.
    pub async fn wait(self) -> Result<Delivered, DeliveryError> {
        let Delivery { mut result, mut at, timestamp_ms } = self;
        loop {
            let piece = match result.outcome().await {
                Outcome::Done(done) => return delivered(&result.place, done, at, timestamp_ms),
                Outcome::Split(pieces) => pieces.iter().rev().find(|(first, _)| *first <= at).cloned(),
            };
            let Some((first, piece)) = piece else { return Err(DeliveryError::Closed) };
            (result, at) = (piece, at - first);
        }
    }

    /// The result, if it is known by now.
    pub fn now(&self) -> Option<Result<Delivered, DeliveryError>> {
        let (mut result, mut at) = (&self.result, self.at);
        loop {
            match result.outcome.get()? {
                Outcome::Done(done) => return Some(delivered(&result.place, done, at, self.timestamp_ms)),
                Outcome::Split(pieces) => {
                    let (first, piece) = pieces.iter().rev().find(|(first, _)| *first <= at)?;
                    (result, at) = (piece, at - first);
                }
            }
        }
    }
}

fn delivered(
    place: &Place,
    done: &Result<Appended, DeliveryError>,
    at: usize,
    timestamp_ms: i64,
) -> Result<Delivered, DeliveryError> {
    let appended = done.clone()?;
    Ok(Delivered {
        topic: place.topic.clone(),
        partition: place.partition,
        offset: if appended.base_offset < 0 { -1 } else { appended.base_offset + at as i64 },
        timestamp_ms: if appended.log_append_time_ms < 0 {
            timestamp_ms
        } else {
            appended.log_append_time_ms
        },
    })
}

impl IntoFuture for Delivery {
    type Output = Result<Delivered, DeliveryError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise() -> Promise {
        Promise::new(Place { topic: "a".into(), partition: 3 })
    }

    fn offset(delivery: &Delivery) -> Option<Result<i64, DeliveryError>> {
        delivery.now().map(|result| result.map(|delivered| delivered.offset))
    }

    #[test]
    fn each_record_counts_from_the_batchs_offset() {
        let promise = promise();
        let (first, third) = (promise.delivery(0, 5), promise.delivery(2, 7));
        assert_eq!(offset(&first), None);
        promise.keep(Ok(Appended { base_offset: 100, log_append_time_ms: -1 }));
        assert_eq!(offset(&first), Some(Ok(100)));
        let delivered = third.now().expect("a result").expect("delivered");
        assert_eq!((delivered.offset, delivered.timestamp_ms, delivered.partition), (102, 7, 3));
    }

    #[test]
    fn the_records_of_a_split_batch_have_the_results_of_their_pieces() {
        let promise = promise();
        let deliveries: Vec<Delivery> = (0..5).map(|at| promise.delivery(at, 0)).collect();
        let mut pieces = promise.split(&[2, 3]).into_iter();
        let (one, two) = (pieces.next().expect("one"), pieces.next().expect("two"));
        let two = two.split(&[1, 2]);
        one.keep(Ok(Appended { base_offset: 10, log_append_time_ms: -1 }));
        for (n, piece) in (20..).step_by(10).zip(two) {
            piece.keep(Ok(Appended { base_offset: n, log_append_time_ms: -1 }));
        }
        let offsets: Vec<_> = deliveries.iter().filter_map(|d| offset(d)?.ok()).collect();
        assert_eq!(offsets, [10, 11, 20, 30, 31]);
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_a_dropped_promise_says_so() {
        let promise = promise();
        let waiting = tokio::spawn(promise.delivery(0, 0).wait());
        tokio::task::yield_now().await;
        promise.keep(Ok(Appended { base_offset: 1, log_append_time_ms: 9 }));
        let delivered = waiting.await.expect("no panic").expect("delivered");
        assert_eq!((delivered.offset, delivered.timestamp_ms), (1, 9));
        let lost = self::promise().delivery(0, 0);
        assert_eq!(lost.await, Err(DeliveryError::Closed));
    }
}
