//! DescribeTransactions, key 65, version 0, and ListTransactions, key 66, versions 0 to 1.
//!
//! ListTransactions: 1 filters by duration. 2, which filters by a pattern, comes with transactions. There are no
//! transactions: lists are empty, and every id is unknown.

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

/// Kafka's states of a transaction.
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

/// Says of each transactional id that it is unknown.
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

/// Lists no transactions.
pub(super) async fn list_transactions(
    _: &RequestContext,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    ListTransactionsResponse {
        unknown_state_filters: unknown_states(request.state_filters),
        ..Default::default()
    }
}

/// The states that do not exist: a client must not take an empty list for an answer about them.
fn unknown_states(filters: Vec<Str>) -> Vec<Str> {
    filters.into_iter().filter(|state| !STATES.contains(&&**state)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_do_not_exist_are_named() {
        let filters = ["Ongoing", "ongoing", "Busy"].map(Str::from).to_vec();
        assert_eq!(unknown_states(filters), ["ongoing", "Busy"].map(Str::from));
    }
}
