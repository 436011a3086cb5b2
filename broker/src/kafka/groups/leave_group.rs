//! LeaveGroup, key 13, versions 0 to 5.
//!
//! 1 adds the throttle time; 3 takes a list of members, each with its own result, and static ones by their instance id;
//! 4 is flexible; 5 adds the reason.

use millstream_protocol::{
    Str,
    messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse},
};

use super::{super::context::RequestContext, code, code_of, member};
use crate::service::GroupError;

/// Version from which a request has a list of members.
const LIST_FROM: i16 = 3;

/// Removes members from the group.
pub(in crate::kafka) async fn leave_group(
    ctx: &RequestContext,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let one = |id: Str| MemberIdentity { member_id: id, group_instance_id: None, ..Default::default() };
    let members = if ctx.version >= LIST_FROM { request.members } else { vec![one(request.member_id)] };
    let who: Vec<_> =
        members.iter().map(|m| member(&m.member_id, m.group_instance_id.as_ref(), -1)).collect();
    respond(ctx.version, members, ctx.service.groups().leave(&request.group_id, &who))
}

fn respond(
    version: i16,
    members: Vec<MemberIdentity>,
    results: Result<Vec<Result<(), GroupError>>, GroupError>,
) -> LeaveGroupResponse {
    let results = match results {
        Ok(results) => results,
        Err(error) => return LeaveGroupResponse { error_code: code(error), ..Default::default() },
    };
    if version < LIST_FROM {
        let error_code = results.first().map_or(0, |result| code_of(*result));
        return LeaveGroupResponse { error_code, ..Default::default() };
    }
    let answer = |(asked, result): (MemberIdentity, Result<(), GroupError>)| MemberResponse {
        member_id: asked.member_id,
        group_instance_id: asked.group_instance_id,
        error_code: code_of(result),
    };
    LeaveGroupResponse {
        members: members.into_iter().zip(results).map(answer).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_return_the_members_error_as_top_level_error() {
        let asked = || vec![MemberIdentity { member_id: "m".into(), ..Default::default() }];
        let unknown = || Ok(vec![Err(GroupError::UnknownMember)]);
        assert_eq!(respond(2, asked(), unknown()).error_code, 25);
        let new = respond(3, asked(), unknown());
        assert_eq!((new.error_code, new.members[0].error_code), (0, 25));
        assert_eq!(respond(3, asked(), Err(GroupError::NotCoordinator)).error_code, 16);
    }
}
