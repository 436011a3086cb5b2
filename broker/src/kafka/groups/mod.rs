//! Classic consumer groups, one file per API.

mod delete_groups;
mod describe_groups;
mod find_coordinator;
mod heartbeat;
mod join_group;
mod leave_group;
mod list_groups;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod sync_group;

use std::sync::Arc;

use millstream_protocol::Str;

pub(super) use self::{
    delete_groups::delete_groups, describe_groups::describe_groups, find_coordinator::find_coordinator,
    heartbeat::heartbeat, join_group::join_group, leave_group::leave_group, list_groups::list_groups,
    offset_commit::offset_commit, offset_delete::offset_delete, offset_fetch::offset_fetch,
    sync_group::sync_group,
};
use super::{
    context::RequestContext,
    error::{ErrorCode, group_code},
};
use crate::service::{GroupError, MemberRef};

/// Copies a string, because a decoded [`Str`] keeps the whole request frame in memory.
fn owned(text: &Str) -> Arc<str> {
    Arc::from(&**text)
}

fn text(text: &Arc<str>) -> Str {
    Str::from(text.to_string())
}

fn member(id: &Str, instance_id: Option<&Str>, generation: i32) -> MemberRef {
    MemberRef { id: owned(id), instance_id: instance_id.map(owned), generation }
}

fn code(error: GroupError) -> i16 {
    group_code(error).0
}

fn code_of(result: Result<(), GroupError>) -> i16 {
    result.map_or_else(code, |()| ErrorCode::NONE.0)
}

/// Whether the cluster has the partition.
fn exists(ctx: &RequestContext, topic: &str, index: i32) -> bool {
    let count = ctx.service.topic(topic).map_or(0, |view| view.partitions.len());
    usize::try_from(index).is_ok_and(|index| index < count)
}
