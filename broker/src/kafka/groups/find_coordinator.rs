//! FindCoordinator, key 10, versions 0 to 4.
//!
//! 1 adds the kind of key, the throttle time and an error message; 3 is flexible; 4 asks for many keys at once, and its
//! response has another shape.

use std::time::Duration;

use millstream_protocol::{
    Str,
    messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
};

use super::{super::context::RequestContext, ErrorCode};

/// Version from which keys come in a list.
const LIST_FROM: i16 = 4;
/// The kind of a key that names a group.
const GROUP: i8 = 0;
/// How long the first request waits for the topic of committed offsets.
const CREATE_WAIT_MAX: Duration = Duration::from_secs(1);
/// The kind of a key that is a transactional id.
const TRANSACTION: i8 = 1;

/// Tells which broker coordinates.
pub(in crate::kafka) async fn find_coordinator(
    ctx: &RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if request.key_type == GROUP {
        create_offsets_topic(ctx).await;
    }
    if ctx.version >= LIST_FROM {
        let keys = request.coordinator_keys.iter();
        let coordinators = keys.map(|key| find(ctx, request.key_type, key)).collect();
        return FindCoordinatorResponse { coordinators, error_message: None, ..Default::default() };
    }
    let found = find(ctx, request.key_type, &request.key);
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

/// As in Kafka, the topic appears with the first group. Groups do not need it: they work also where it cannot be created.
async fn create_offsets_topic(ctx: &RequestContext) {
    if ctx.service.has_offsets_topic() {
        return;
    }
    let creation = ctx.service.change(|change| async move { change.create_offsets_topic().await });
    if let Ok(Ok(Err(error))) = tokio::time::timeout(CREATE_WAIT_MAX, creation).await {
        tracing::warn!(%error, "the topic for committed offsets is not created");
    }
}

/// A client that asks for a transaction must not ask for ever. librdkafka, which asks for one key at a time, takes only
/// one error as final here; Java, which asks for lists, shows the reason only with another one.
fn no_transactions(version: i16) -> ErrorCode {
    if version >= LIST_FROM {
        ErrorCode::INVALID_REQUEST
    } else {
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    }
}

fn find(ctx: &RequestContext, kind: i8, key: &Str) -> Coordinator {
    let refused = |code: ErrorCode, reason: &'static str| Coordinator {
        key: key.clone(),
        node_id: -1,
        port: -1,
        error_code: code.0,
        error_message: Some(Str::from(reason)),
        ..Default::default()
    };
    match kind {
        GROUP => {}
        TRANSACTION => return refused(no_transactions(ctx.version), "transactions are not supported"),
        _ => return refused(ErrorCode::INVALID_REQUEST, "this broker coordinates consumer groups only"),
    }
    let this = ctx.service.brokers().into_iter().find(|broker| broker.id == ctx.service.node_id());
    match this.filter(|_| ctx.service.groups().coordinates(key)) {
        Some(broker) => Coordinator {
            key: key.clone(),
            node_id: broker.id,
            host: Str::from(broker.host),
            port: broker.port.into(),
            error_code: ErrorCode::NONE.0,
            error_message: None,
        },
        None => refused(ErrorCode::COORDINATOR_NOT_AVAILABLE, "the group has no coordinator now"),
    }
}
