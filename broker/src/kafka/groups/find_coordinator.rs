//! FindCoordinator, key 10, versions 0 to 4.
//!
//! 1 adds the key type, the throttle time and an error message; 3 is flexible; 4 takes a list of keys, and its response
//! has another format.

use std::time::Duration;

use millstream_protocol::{
    Str,
    messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
};

use super::{super::context::RequestContext, ErrorCode};

/// Version from which a request has a list of keys.
const LIST_FROM: i16 = 4;
/// The type of a key that is a group id.
const GROUP: i8 = 0;
/// Maximum wait of the first request for the creation of `__consumer_offsets`.
const CREATE_WAIT_MAX: Duration = Duration::from_secs(1);
/// The type of a key that is a transactional id.
const TRANSACTION: i8 = 1;

/// Returns the coordinators of groups.
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

/// Creates `__consumer_offsets` at the first lookup, as Kafka does. Groups work also when it cannot be created.
async fn create_offsets_topic(ctx: &RequestContext) {
    if ctx.service.has_offsets_topic() {
        return;
    }
    let creation = ctx.service.change(|change| async move { change.create_offsets_topic().await });
    if let Ok(Ok(Err(error))) = tokio::time::timeout(CREATE_WAIT_MAX, creation).await {
        tracing::warn!(%error, "cannot create __consumer_offsets");
    }
}

/// The error for a transactional id, chosen so that clients do not retry forever. librdkafka, which uses single keys, takes
/// only one error as fatal here; the Java client, which uses lists, shows the message only with another one.
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
