//! DeleteGroups, key 42, versions 0 to 2.
//!
//! 2 is flexible.

use std::collections::HashMap;

use millstream_protocol::messages::delete_groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse,
};

use super::{super::context::RequestContext, code_of};

/// Deletes empty groups with their offsets, each independently.
pub(in crate::kafka) async fn delete_groups(
    ctx: &RequestContext,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut names = request.groups_names;
    let mut seen = HashMap::new();
    names.retain(|name| seen.insert(name.clone(), ()).is_none());
    let deletions =
        names.into_iter().map(|group_id| {
            let deleted = ctx.service.groups().delete(&group_id);
            async move {
                DeletableGroupResult { group_id, error_code: code_of(deleted.await), error_message: None }
            }
        });
    let results = futures::future::join_all(deletions).await;
    DeleteGroupsResponse { results, ..Default::default() }
}
