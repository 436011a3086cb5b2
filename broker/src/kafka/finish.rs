//! Work that must not stop in the middle.
//!
//! A handler's future ends where it stands when its connection goes away. What changes the cluster in more than one
//! step runs in a task of its own instead: the handler only waits for it.

use std::time::Duration;

/// Shortest time for which a request is waited for: clients send 0 where they mean "soon".
const WAIT_MS_MIN: i32 = 1000;

/// Runs the work to its end, and waits for that as long as the client said; `None` when it takes longer, or when
/// it panicked.
pub(super) async fn within<T, F>(timeout_ms: i32, work: F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let wait = Duration::from_millis(timeout_ms.max(WAIT_MS_MIN) as u64);
    match tokio::time::timeout(wait, tokio::spawn(work)).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::error!(%error, "a request failed");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_goes_on_when_the_one_who_waits_is_gone() {
        let (begin, begun) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let waiting = within(1000, async move {
            begun.await.expect("told to begin");
            tell.send(7).expect("somebody listens");
        });
        // Polled once, then dropped, as when a connection closes.
        assert!(Box::pin(waiting).as_mut().now_or_never().is_none());
        begin.send(()).expect("the work still waits");
        assert_eq!(told.await, Ok(7));
    }
}
