//! Produce 3-11 (0-2 are advertised but refused, see the table).
//!
//! 3: record format 2, transactional id. 5: log start offset. 7: zstd. 8: errors per record, message.
//! 9: flexible. 10: leader hints. 11: an error code for transactions that must be aborted.

use std::time::Duration;

use millstream_protocol::{
    Records, Str,
    messages::produce::{
        BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceRequest, ProduceResponse,
        TopicProduceData, TopicProduceResponse,
    },
};

use super::{
    context::{OnClose, RequestContext},
    error::{ErrorCode, refusal},
};
use crate::service::{Appended, ProduceError, ProducePart, Queueing};

/// Maximum time that a producer may wait for an acknowledgement.
const TIMEOUT_MS_MAX: i32 = 600_000;

/// The answer for one partition, before the service's results are known.
enum PartitionAnswer {
    /// The next of the service's results.
    Pending,
    Refused(ProduceError),
}

/// Queues the batches in order; the returned future resolves when they are durable.
pub(super) fn produce(
    context: &RequestContext,
    request: ProduceRequest,
) -> (OnClose, impl Future<Output = Result<Option<ProduceResponse>, String>> + Send + 'static) {
    let acks = request.acks;
    let timeout = Duration::from_millis(request.timeout_ms.clamp(0, TIMEOUT_MS_MAX) as u64);
    let transactional = request.transactional_id.is_some();
    let mut parts = Vec::new();
    let topics: Vec<_> = request
        .topic_data
        .into_iter()
        .map(|topic| partition_answers(context, topic, acks, &mut parts))
        .collect();
    let submitted = parts.len();
    let (queueing, pending) = context.service.produce(&context.turns, parts, transactional, timeout);
    let on_close = match queueing {
        Queueing::Done => OnClose::Drop,
        Queueing::Pending => OnClose::Finish,
    };
    let response = async move {
        let results = pending.await;
        assert_eq!(results.len(), submitted, "one result for each submitted batch");
        let mut results = results.into_iter();
        let responses: Vec<_> =
            topics.into_iter().map(|(name, answers)| topic_response(name, answers, &mut results)).collect();
        if acks != 0 {
            return Ok(Some(ProduceResponse { responses, ..Default::default() }));
        }
        // Without a response there is no way to report an error; a closed connection makes the client refresh its metadata.
        match responses.iter().flat_map(|topic| &topic.partition_responses).find(|p| p.error_code != 0) {
            Some(failed) => {
                Err(format!("a produce request without acknowledgement failed: error {}", failed.error_code))
            }
            None => Ok(None),
        }
    };
    (on_close, response)
}

fn partition_answers(
    context: &RequestContext,
    topic: TopicProduceData,
    acks: i16,
    parts: &mut Vec<ProducePart>,
) -> (Str, Vec<(i32, PartitionAnswer)>) {
    let view = context.service.topic(&topic.name);
    let answers = topic.partition_data.into_iter().map(|data| {
        let partition = usize::try_from(data.index).ok();
        let answer = match (&view, partition, data.records) {
            _ if !(-1..=1).contains(&acks) => PartitionAnswer::Refused(ProduceError::InvalidAcks),
            (None, ..) | (_, None, _) => PartitionAnswer::Refused(ProduceError::UnknownPartition),
            (Some(view), ..) if view.internal => PartitionAnswer::Refused(ProduceError::InternalTopic),
            (Some(view), Some(partition), Records::One(records)) => {
                parts.push(ProducePart { topic: view.clone(), partition, records });
                PartitionAnswer::Pending
            }
            _ => PartitionAnswer::Refused(ProduceError::InvalidRecord(
                "a partition takes exactly one batch in a request".into(),
            )),
        };
        if matches!(answer, PartitionAnswer::Refused(_)) {
            context.service.meter().refused();
        }
        (data.index, answer)
    });
    (topic.name, answers.collect())
}

fn topic_response(
    name: Str,
    answers: Vec<(i32, PartitionAnswer)>,
    results: &mut impl Iterator<Item = Result<Appended, ProduceError>>,
) -> TopicProduceResponse {
    let partition_responses = answers.into_iter().map(|(index, answer)| {
        let result = match answer {
            PartitionAnswer::Pending => results.next().unwrap_or(Err(ProduceError::Unavailable)),
            PartitionAnswer::Refused(error) => Err(error),
        };
        partition_response(index, result)
    });
    TopicProduceResponse { name, partition_responses: partition_responses.collect(), ..Default::default() }
}

fn partition_response(index: i32, result: Result<Appended, ProduceError>) -> PartitionProduceResponse {
    match result {
        Ok(appended) => PartitionProduceResponse {
            index,
            error_code: ErrorCode::NONE.0,
            base_offset: appended.base_offset,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: appended.log_start_offset,
            ..Default::default()
        },
        Err(error) => {
            let (error_code, error_message) = refusal(&error);
            PartitionProduceResponse {
                index,
                error_code,
                base_offset: -1,
                record_errors: record_errors(error),
                error_message,
                ..Default::default()
            }
        }
    }
}

/// The refused records: a client fails these with their reason, and may resend the others.
fn record_errors(error: ProduceError) -> Vec<BatchIndexAndErrorMessage> {
    let ProduceError::RefusedRecords(refused) = error else { return Vec::new() };
    let listed = refused.listed.into_iter().map(|record| BatchIndexAndErrorMessage {
        batch_index: record.index,
        batch_index_error_message: record.reason.map(Str::from),
    });
    listed.collect()
}
