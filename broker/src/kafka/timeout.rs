//! How long a response waits for a change. The change itself always runs to completion.

use std::time::Duration;

/// Minimum wait: some clients send 0 and expect the result of a short operation.
const WAIT_MS_MIN: i32 = 1000;

/// The wait for a request's timeout.
pub(super) fn wait_of(timeout_ms: i32) -> Duration {
    Duration::from_millis(timeout_ms.max(WAIT_MS_MIN).unsigned_abs().into())
}
