//! DescribeTransactions, key 65, version 0, and ListTransactions, key 66, versions 0 to 1.
//!
//! ListTransactions: 1 filters by duration; 2, which filters by a pattern, is not supported. There are no transactions:
//! lists are empty, and every id is unknown.

use millstream_protocol::{
    Str,
    messages::{
        describe_transactions::{
            DescribeTransactionsRequest, DescribeTransactionsResponse, TransactionState,
        },
        list_transactions::{ListTransactionsRequest, ListTransactionsResponse},
    },
};

use super::{context::RequestContext, error::ErrorCode};

/// Kafka's transaction states.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

/// Every transactional id is unknown.
pub(super) async fn describe_transactions(
    _: &RequestContext,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let unknown = |transactional_id| TransactionState {
        error_code: ErrorCode::TRANSACTIONAL_ID_NOT_FOUND.0,
        transactional_id,
        ..Default::default()
    };
    DescribeTransactionsResponse {
        transaction_states: request.transactional_ids.into_iter().map(unknown).collect(),
        ..Default::default()
    }
}

/// The list is always empty.
pub(super) async fn list_transactions(
    _: &RequestContext,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    ListTransactionsResponse {
        unknown_state_filters: unknown_states(request.state_filters),
        ..Default::default()
    }
}

/// The states in the filter that do not exist, so that a client does not mistake the empty list for a valid answer.
fn unknown_states(filters: Vec<Str>) -> Vec<Str> {
    filters.into_iter().filter(|state| !STATES.contains(&&**state)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_states_are_reported() {
        let filters = ["Ongoing", "ongoing", "Busy"].map(Str::from).to_vec();
        assert_eq!(unknown_states(filters), ["ongoing", "Busy"].map(Str::from));
    }
}
