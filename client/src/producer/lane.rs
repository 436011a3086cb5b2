//! One broker's produce requests: they leave in the order in which they were decided, and are answered while the next
//! ones are on their way already.
//!
//! The broker checks the order of an idempotent producer's batches, so encoding and sending are the work of one task; only
//! the waiting for answers overlaps.

use std::sync::Arc;

use bytes::Bytes;
use millstream_protocol::{
    ErrorCode, Records, Str,
    messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    Acks,
    batch::{Batch, Place},
    machine::Try,
    result::Appended,
};
use crate::{
    ClientError, Cluster,
    cluster::Lane as Purpose,
    wire::{Connection, Pending},
};

/// The newest Produce version that names topics by their names, and does not belong to transactions.
const PRODUCE_VERSION_MAX: i16 = 11;
/// Requests that wait to be encoded; fewer than this are ever in flight to one broker.
const REQUESTS_WAITING_MAX: usize = 16;

/// What became of a request's batches.
pub(super) struct Answered {
    pub(super) broker: i32,
    pub(super) tries: Vec<(Batch, Try)>,
}

/// Where one broker's requests go. Dropping it ends its tasks.
pub(super) struct Lane {
    requests: mpsc::Sender<Vec<Batch>>,
    task: AbortHandle,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lane {
    pub(super) fn open(cluster: Cluster, acks: Acks, broker: i32, answers: mpsc::Sender<Answered>) -> Lane {
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        let work = Work { cluster, acks, broker, answers };
        Lane { requests, task: tokio::spawn(work.run(waiting)).abort_handle() }
    }

    /// Queues a request; gives it back when the lane takes none.
    pub(super) fn send(&self, batches: Vec<Batch>) -> Result<(), Vec<Batch>> {
        self.requests.try_send(batches).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(batches) | mpsc::error::TrySendError::Closed(batches) => batches,
        })
    }
}

struct Work {
    cluster: Cluster,
    acks: Acks,
    broker: i32,
    answers: mpsc::Sender<Answered>,
}

impl Work {
    async fn run(self, mut requests: mpsc::Receiver<Vec<Batch>>) {
        let mut waiters = JoinSet::new();
        while let Some(batches) = requests.recv().await {
            while waiters.try_join_next().is_some() {}
            let (sent, mut tries, topics) = encode(batches);
            let pending = if sent.is_empty() { Ok(None) } else { self.begin(topics).await };
            let (broker, answers) = (self.broker, self.answers.clone());
            waiters.spawn(async move {
                let asked = match pending {
                    Ok(Some(pending)) => pending.wait().await.map(Some),
                    Ok(None) => Ok(None),
                    Err(error) => Err(error),
                };
                tries.extend(sent.into_iter().map(|batch| {
                    let outcome = outcome(&asked, &batch.place);
                    (batch, outcome)
                }));
                // The producer is gone, and with it every receiver of results.
                let _ = answers.send(Answered { broker, tries }).await;
            });
        }
    }

    /// Puts a request on its way; nothing to wait for when the broker does not answer.
    async fn begin(
        &self,
        topic_data: Vec<TopicProduceData>,
    ) -> Result<Option<Pending<ProduceRequest>>, ClientError> {
        let connection: Arc<Connection> = self.cluster.broker(self.broker, Purpose::Produce).await?;
        let version = connection.version::<ProduceRequest>(PRODUCE_VERSION_MAX)?;
        let timeout_ms = i32::try_from(self.cluster.config().request_timeout.as_millis()).unwrap_or(i32::MAX);
        let request =
            ProduceRequest { acks: self.acks.number(), timeout_ms, topic_data, ..Default::default() };
        match self.acks {
            Acks::None => connection.send_one_way(version, &request).await.map(|()| None),
            _ => connection.begin(version, &request).await.map(Some),
        }
    }
}

/// Batches that were encoded, what became of those that could not be, and the request's data.
type Encoded = (Vec<Batch>, Vec<(Batch, Try)>, Vec<TopicProduceData>);

fn encode(batches: Vec<Batch>) -> Encoded {
    let (mut sent, mut failed, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    for mut batch in batches {
        match batch.encode() {
            Ok(encoded) => {
                add(&mut topics, &batch.place, encoded);
                sent.push(batch);
            }
            Err(error) => failed.push((batch, Try::Unencodable { reason: error.to_string() })),
        }
    }
    (sent, failed, topics)
}

fn add(topics: &mut Vec<TopicProduceData>, place: &Place, encoded: Bytes) {
    let data = PartitionProduceData { index: place.partition, records: Records::One(encoded) };
    match topics.last_mut().filter(|topic| *topic.name == *place.topic) {
        Some(topic) => topic.partition_data.push(data),
        None => topics.push(TopicProduceData {
            name: Str::from(place.topic.to_string()),
            partition_data: vec![data],
            ..Default::default()
        }),
    }
}

/// What became of one batch of a request.
fn outcome(asked: &Result<Option<ProduceResponse>, ClientError>, place: &Place) -> Try {
    match asked {
        Ok(Some(response)) => find(response, place),
        Ok(None) => Try::Appended(Appended { base_offset: -1, log_append_time_ms: -1 }),
        Err(error @ ClientError::Unreachable { .. }) => Try::Unsent { reason: error.to_string() },
        Err(error @ (ClientError::Unwritable { .. } | ClientError::Unsupported { .. })) => {
            Try::Refused { code: ErrorCode::UNSUPPORTED_VERSION, reason: Some(error.to_string()) }
        }
        Err(error) => Try::Lost { reason: error.to_string() },
    }
}

fn find(response: &ProduceResponse, place: &Place) -> Try {
    let topic = response.responses.iter().find(|topic| *topic.name == *place.topic);
    let found = topic.and_then(|topic| topic.partition_responses.iter().find(|p| p.index == place.partition));
    match found {
        None => Try::Lost { reason: "the broker's answer leaves the partition out".to_string() },
        Some(p) if p.error_code == 0 => {
            Try::Appended(Appended { base_offset: p.base_offset, log_append_time_ms: p.log_append_time_ms })
        }
        Some(p) => {
            let first = p.record_errors.first().and_then(|e| e.batch_index_error_message.clone());
            let reason = p.error_message.clone().or(first).map(|text| text.to_string());
            Try::Refused { code: ErrorCode(p.error_code), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::messages::produce::{PartitionProduceResponse, TopicProduceResponse};

    fn place(partition: i32) -> Place {
        Place { topic: "a".into(), partition }
    }

    #[test]
    fn a_batch_finds_its_own_answer() {
        let one = |index, error_code, base_offset| PartitionProduceResponse {
            index,
            error_code,
            base_offset,
            error_message: None,
            ..Default::default()
        };
        let partition_responses = vec![one(0, 6, -1), one(1, 0, 7)];
        let topic = TopicProduceResponse { name: Str::from("a"), partition_responses, ..Default::default() };
        let asked = Ok(Some(ProduceResponse { responses: vec![topic], ..Default::default() }));
        let appended = Appended { base_offset: 7, log_append_time_ms: -1 };
        assert_eq!(outcome(&asked, &place(1)), Try::Appended(appended));
        let refused = Try::Refused { code: ErrorCode::NOT_LEADER_OR_FOLLOWER, reason: None };
        assert_eq!(outcome(&asked, &place(0)), refused);
        assert!(matches!(outcome(&asked, &place(2)), Try::Lost { .. }));
    }

    #[test]
    fn what_was_not_sent_is_not_in_doubt() {
        let unreachable = ClientError::Unreachable { addresses: "x".into(), reason: "refused".into() };
        let unsent = outcome(&Err(unreachable), &place(0));
        assert!(matches!(&unsent, Try::Unsent { reason } if reason.contains("refused")), "{unsent:?}");
        let ended = ClientError::Disconnected { address: "x".into(), reason: "gone".into() };
        assert!(matches!(outcome(&Err(ended), &place(0)), Try::Lost { .. }));
    }
}
