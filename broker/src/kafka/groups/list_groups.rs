//! ListGroups, key 16, versions 0 to 5.
//!
//! 1 adds the throttle time; 3 is flexible; 4 filters by state and returns the state; 5 the same for types.

use millstream_protocol::{
    Str,
    messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup as Listed},
};

use super::{super::context::RequestContext, text};
use crate::service::ListedGroup;

/// The type of every group.
const CLASSIC: &str = "classic";

/// Lists the groups that this broker coordinates.
pub(in crate::kafka) async fn list_groups(
    ctx: &RequestContext,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let wanted = |group: &ListedGroup| {
        allows(&request.states_filter, group.state) && allows(&request.types_filter, CLASSIC)
    };
    let groups = ctx.service.groups().list().into_iter().filter(wanted).map(listed);
    ListGroupsResponse { groups: groups.collect(), ..Default::default() }
}

fn allows(filter: &[Str], value: &str) -> bool {
    filter.is_empty() || filter.iter().any(|allowed| allowed.eq_ignore_ascii_case(value))
}

fn listed(group: ListedGroup) -> Listed {
    Listed {
        group_id: text(&group.name),
        protocol_type: Str::from(group.protocol_type),
        group_state: Str::from(group.state),
        group_type: Str::from(CLASSIC),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_ignores_case_and_an_empty_one_allows_all() {
        assert!(allows(&[], "Stable"));
        assert!(allows(&["empty".into(), "stable".into()], "Stable"));
        assert!(!allows(&["Empty".into()], "Stable"));
    }
}
