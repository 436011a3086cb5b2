//! Fetch 4-12.
//!
//! 4: isolation level, last stable offset. 5: log start offset. 7: sessions. 9: leader epoch. 10: zstd.
//! 11: rack, preferred replica. 12: flexible, truncation by epoch.

use std::{sync::Arc, time::Duration};

use millstream_protocol::{
    Records, Str,
    messages::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData},
};

use super::{
    context::RequestContext,
    error::ErrorCode,
    sessions::{FetchPlan, LastReported, Reading},
};
use crate::{
    clock,
    service::{FetchError, FetchPart, Fetched, TopicView},
};

/// Maximum bytes of records in one response; clients may lower it.
const FETCH_BYTES_MAX: i32 = 55 << 20;
/// Maximum long-poll time.
const WAIT_MS_MAX: i32 = 600_000;

pub(super) async fn fetch(context: &RequestContext, mut request: FetchRequest) -> FetchResponse {
    if request.replica_id >= 0 {
        // Brokers do not replicate over this protocol, and a client is never a replica.
        return FetchResponse { error_code: ErrorCode::INVALID_REQUEST.0, ..Default::default() };
    }
    if context.version < 7 {
        (request.session_id, request.session_epoch) = (0, -1);
    }
    let max_bytes = request.max_bytes.clamp(0, FETCH_BYTES_MAX) as usize;
    let min_bytes = (request.min_bytes.max(0) as usize).min(max_bytes);
    let max_wait = Duration::from_millis(request.max_wait_ms.clamp(0, WAIT_MS_MAX) as u64);
    let new_id = clock::random_u64() as i32;
    let plan = match context.sessions.begin(request, new_id, clock::monotonic()) {
        Ok(plan) => plan,
        Err(code) => return FetchResponse { error_code: code.0, ..Default::default() },
    };
    let found = resolve(context, &plan.readings);
    let parts: Vec<FetchPart> = found.iter().filter_map(|part| part.as_ref().ok().copied()).collect();
    // Errors are returned without waiting.
    let max_wait = if parts.len() < found.len() { Duration::ZERO } else { max_wait };
    let results = context.service.fetch(&parts, max_bytes, max_wait, min_bytes).await;
    respond(&plan, found, results)
}

/// Resolves the partitions.
fn resolve(context: &RequestContext, readings: &[Reading]) -> Vec<Result<FetchPart, FetchError>> {
    let mut last: Option<(&Str, Option<Arc<TopicView>>)> = None;
    let mut found = Vec::with_capacity(readings.len());
    for reading in readings {
        let view = match &last {
            Some((name, view)) if *name == &reading.topic => view,
            _ => &last.insert((&reading.topic, context.service.topic(&reading.topic))).1,
        };
        found.push(part(view.as_deref(), reading).ok_or(FetchError::UnknownPartition));
    }
    found
}

fn part(view: Option<&TopicView>, reading: &Reading) -> Option<FetchPart> {
    let wanted = &reading.wanted;
    let partition = view?.partitions.get(usize::try_from(wanted.partition).ok()?)?;
    Some(FetchPart {
        partition: *partition,
        offset: wanted.fetch_offset,
        max_bytes: wanted.partition_max_bytes.max(0) as usize,
        current_leader_epoch: wanted.current_leader_epoch,
    })
}

fn respond(
    plan: &FetchPlan,
    found: Vec<Result<FetchPart, FetchError>>,
    results: Vec<Result<Fetched, FetchError>>,
) -> FetchResponse {
    let mut results = results.into_iter();
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    for (reading, found) in plan.readings.iter().zip(found) {
        let result = found.and_then(|_| results.next().unwrap_or(Err(FetchError::Unavailable)));
        let state = result.as_ref().ok().map(|fetched| LastReported {
            high_watermark: fetched.high_watermark,
            log_start_offset: fetched.log_start_offset,
        });
        let has_records = result.as_ref().is_ok_and(|fetched| !fetched.is_empty());
        if !plan.must_report(reading, state, has_records) {
            continue;
        }
        let data = partition_data(reading.wanted.partition, result);
        match responses.last_mut() {
            Some(topic) if topic.topic == reading.topic => topic.partitions.push(data),
            _ => responses.push(FetchableTopicResponse {
                topic: reading.topic.clone(),
                partitions: vec![data],
                ..Default::default()
            }),
        }
    }
    FetchResponse { session_id: plan.session_id, responses, ..Default::default() }
}

fn partition_data(partition_index: i32, result: Result<Fetched, FetchError>) -> PartitionData {
    match result {
        Ok(fetched) => PartitionData {
            partition_index,
            high_watermark: fetched.high_watermark,
            last_stable_offset: fetched.last_stable_offset,
            log_start_offset: fetched.log_start_offset,
            aborted_transactions: None,
            records: Records::from(fetched.records),
            ..Default::default()
        },
        Err(error) => PartitionData {
            partition_index,
            error_code: ErrorCode::from(&error).0,
            high_watermark: -1,
            aborted_transactions: None,
            records: Records::from(Vec::new()),
            ..Default::default()
        },
    }
}
