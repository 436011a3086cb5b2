//! SyncGroup, key 14, versions 0 to 5.
//!
//! 1 adds the throttle time; 3 static members; 4 is flexible; 5 adds protocol type and protocol, with which a client
//! that mixes up its groups is detected.

use bytes::Bytes;
use millstream_protocol::{
    Str,
    messages::sync_group::{SyncGroupRequest, SyncGroupResponse},
};

use super::{super::context::RequestContext, code, member, owned};
use crate::service::{GroupError, SyncRequest};

const PROTOCOLS_FROM: i16 = 5;

/// Resolves when the generation's assignments are durable.
pub(in crate::kafka) async fn sync_group(
    ctx: &RequestContext,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    let named = request.protocol_type.is_some() && request.protocol_name.is_some();
    if ctx.version >= PROTOCOLS_FROM && !named {
        return refuse(GroupError::InconsistentProtocol);
    }
    let assignments = request.assignments.iter();
    let ask = SyncRequest {
        group: owned(&request.group_id),
        member: member(&request.member_id, request.group_instance_id.as_ref(), request.generation_id),
        protocol_type: request.protocol_type.map(String::from),
        protocol: request.protocol_name.map(String::from),
        assignments: assignments
            .map(|one| (owned(&one.member_id), Bytes::copy_from_slice(&one.assignment)))
            .collect(),
    };
    match ctx.service.groups().sync(ask).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type.map(Str::from),
            protocol_name: synced.protocol.map(Str::from),
            assignment: synced.assignment,
            ..Default::default()
        },
        Err(error) => refuse(error),
    }
}

fn refuse(error: GroupError) -> SyncGroupResponse {
    SyncGroupResponse {
        error_code: code(error),
        protocol_type: None,
        protocol_name: None,
        ..Default::default()
    }
}
