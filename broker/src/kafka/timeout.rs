//! How long a request that changes something is waited for. The change itself runs to its end.

use std::time::Duration;

/// Shortest time for which a request is waited for: clients send 0 where they mean "soon".
const WAIT_MS_MIN: i32 = 1000;

/// The wait that a request's timeout stands for.
pub(super) fn wait_of(timeout_ms: i32) -> Duration {
    Duration::from_millis(timeout_ms.max(WAIT_MS_MIN).unsigned_abs().into())
}
