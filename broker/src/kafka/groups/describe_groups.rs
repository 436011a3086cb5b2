//! DescribeGroups, key 15, versions 0 to 6.
//!
//! 1 adds the throttle time; 3 the authorized operations; 4 static members; 5 is flexible; from 6 on a group that does not
//! exist is an error, before that it is a dead group.

use millstream_protocol::{
    Str,
    messages::describe_groups::{
        DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
    },
};

use super::{
    super::{context::RequestContext, operations},
    ErrorCode, code, text,
};
use crate::service::{GroupView, MemberView};

const NOT_FOUND_FROM: i16 = 6;

pub(in crate::kafka) async fn describe_groups(
    ctx: &RequestContext,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let describe = |id: Str| {
        let mut group = match ctx.service.groups().describe(&id) {
            Ok(Some(view)) => described(view),
            Ok(None) => dead(&id, ctx.version),
            Err(error) => {
                DescribedGroup { error_code: code(error), error_message: None, ..Default::default() }
            }
        };
        group.group_id = id;
        let with_operations = request.include_authorized_operations && group.error_code == 0;
        group.authorized_operations = operations::if_requested(with_operations, operations::GROUP);
        group
    };
    DescribeGroupsResponse {
        groups: request.groups.into_iter().map(describe).collect(),
        ..Default::default()
    }
}

fn described(view: GroupView) -> DescribedGroup {
    DescribedGroup {
        error_message: None,
        group_state: Str::from(view.phase.name()),
        protocol_type: view.protocol_type.map(Str::from).unwrap_or_default(),
        protocol_data: view.protocol.map(Str::from).unwrap_or_default(),
        members: view.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(member: MemberView) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: text(&member.id),
        group_instance_id: member.instance_id.as_ref().map(text),
        client_id: Str::from(member.client_id),
        client_host: Str::from(member.client_host),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    }
}

fn dead(id: &Str, version: i16) -> DescribedGroup {
    let (error_code, error_message) = if version >= NOT_FOUND_FROM {
        (ErrorCode::GROUP_ID_NOT_FOUND.0, Some(Str::from(format!("Group {id} not found."))))
    } else {
        (ErrorCode::NONE.0, None)
    };
    DescribedGroup { error_code, error_message, group_state: "Dead".into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_group_is_dead_and_in_newer_versions_an_error() {
        let (old, new) = (dead(&"g".into(), 5), dead(&"g".into(), 6));
        assert_eq!((old.error_code, &*old.group_state), (0, "Dead"));
        assert_eq!((new.error_code, &*new.group_state), (69, "Dead"));
        assert_eq!(new.error_message.as_deref(), Some("Group g not found."));
    }
}
