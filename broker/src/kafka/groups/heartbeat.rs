//! Heartbeat, key 12, versions 0 to 4.
//!
//! 1 adds the throttle time; 3 static members; 4 is flexible.

use millstream_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use super::{super::context::RequestContext, code_of, member};

/// Extends a member's session; an error makes the member join again.
pub(in crate::kafka) async fn heartbeat(
    ctx: &RequestContext,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    let who = member(&request.member_id, request.group_instance_id.as_ref(), request.generation_id);
    let result = ctx.service.groups().heartbeat(&request.group_id, &who);
    HeartbeatResponse { error_code: code_of(result), ..Default::default() }
}
