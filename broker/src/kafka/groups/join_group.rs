//! JoinGroup, key 11, versions 0 to 9.
//!
//! 1 adds the rebalance timeout; 2 the throttle time; 4 assigns a new member's id before it joins; 5 adds static members;
//! 6 is flexible; 7 returns the protocol type, and no protocol in an error; 8 adds the reason of the join; 9 can make a
//! leader keep the assignment.

use bytes::Bytes;
use millstream_protocol::{
    Str,
    messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember},
};

use super::{super::context::RequestContext, code, owned, text};
use crate::service::{JoinRefusal, JoinRequest, Joined, JoinedMember};

const REBALANCE_TIMEOUT_FROM: i16 = 1;
const TWO_STEPS_FROM: i16 = 4;
const NO_PROTOCOL_FROM: i16 = 7;
const SKIP_ASSIGNMENT_FROM: i16 = 9;

/// Resolves when the group's next generation begins.
pub(in crate::kafka) async fn join_group(
    ctx: &RequestContext,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let version = ctx.version;
    match ctx.service.groups().join(join_request(ctx, request)).await {
        Ok(joined) => accept(joined, version),
        Err(refusal) => refuse(&refusal, version),
    }
}

fn join_request(ctx: &RequestContext, request: JoinGroupRequest) -> JoinRequest {
    let session_timeout_ms = request.session_timeout_ms;
    let named = ctx.version >= REBALANCE_TIMEOUT_FROM && request.rebalance_timeout_ms >= 0;
    let protocols = request.protocols.iter();
    JoinRequest {
        group: owned(&request.group_id),
        member_id: owned(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(owned),
        client_id: ctx.client_id.as_ref().map(|id| id.to_string()).unwrap_or_default(),
        client_host: ctx.client_host.to_string(),
        session_timeout_ms,
        rebalance_timeout_ms: if named { request.rebalance_timeout_ms } else { session_timeout_ms },
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.map(|p| (owned(&p.name), Bytes::copy_from_slice(&p.metadata))).collect(),
        fresh_id: Default::default(),
        two_steps: ctx.version >= TWO_STEPS_FROM,
        can_skip_assignment: ctx.version >= SKIP_ASSIGNMENT_FROM,
    }
}

fn accept(joined: Joined, version: i16) -> JoinGroupResponse {
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.map(Str::from),
        protocol_name: protocol_name(joined.protocol, version),
        leader: text(&joined.leader),
        skip_assignment: joined.skip_assignment,
        member_id: text(&joined.member_id),
        members: joined.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(member: JoinedMember) -> JoinGroupResponseMember {
    JoinGroupResponseMember {
        member_id: text(&member.id),
        group_instance_id: member.instance_id.as_ref().map(text),
        metadata: member.metadata,
    }
}

fn refuse(refusal: &JoinRefusal, version: i16) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: code(refusal.error),
        generation_id: -1,
        protocol_type: None,
        protocol_name: protocol_name(None, version),
        member_id: text(&refusal.member_id),
        ..Default::default()
    }
}

/// Older versions cannot encode "none".
fn protocol_name(name: Option<String>, version: i16) -> Option<Str> {
    if version >= NO_PROTOCOL_FROM { name.map(Str::from) } else { Some(Str::from(name.unwrap_or_default())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::GroupError;

    #[test]
    fn a_refusal_has_no_protocol_in_the_format_of_its_version() {
        let refusal = JoinRefusal { error: GroupError::MemberIdRequired, member_id: "m".into() };
        let old = refuse(&refusal, 6);
        assert_eq!((old.error_code, &*old.member_id, old.generation_id), (79, "m", -1));
        assert_eq!(old.protocol_name.as_deref(), Some(""));
        assert_eq!(refuse(&refusal, 7).protocol_name, None);
    }
}
