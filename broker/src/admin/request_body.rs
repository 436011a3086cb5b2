//! Bodies: the time that one may take, and the rest of one that the answer did not need.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::problem::Problem;

/// Longest time in which a body comes.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// So much of the rest is read, and for so long; whoever sends more has the connection closed on it.
const REST_BYTES_MAX: usize = 16 << 20;
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// A body whose rest can be read when its reader has let go of it.
#[derive(Clone)]
struct Shared {
    data: Arc<Mutex<TimedBody>>,
    begun: Arc<AtomicBool>,
}

struct TimedBody {
    data: BodyDataStream,
    deadline: Pin<Box<Sleep>>,
    is_late: bool,
}

impl TimedBody {
    fn poll_next(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        let next = self.data.poll_next_unpin(task);
        if next.is_pending() && self.deadline.as_mut().poll(task).is_ready() {
            self.is_late = true;
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)))));
        }
        next
    }
}

impl Shared {
    fn of(body: Body, timeout: Duration) -> Shared {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let body = TimedBody { data: body.into_data_stream(), deadline, is_late: false };
        Shared { data: Arc::new(Mutex::new(body)), begun: Arc::default() }
    }

    /// What is left of it.
    fn body(&self) -> Body {
        let Shared { data, begun } = self.clone();
        Body::from_stream(stream::poll_fn(move |task| {
            begun.store(true, Relaxed);
            data.lock().poll_next(task)
        }))
    }

    fn is_late(&self) -> bool {
        self.data.lock().is_late
    }

    async fn read_rest(self) {
        let mut rest = self.body().into_data_stream();
        let mut bytes = 0;
        while bytes < REST_BYTES_MAX
            && let Some(Ok(part)) = rest.next().await
        {
            bytes += part.len();
        }
    }
}

/// Lets whoever sends a body send it to its end before it gets the answer: a connection that is closed on bytes that
/// are still under way is reset, and the answer is lost with it.
pub(super) async fn drain_request_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who asks first whether to send, and was not told to, does not.
    let asks = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let shared = Shared::of(body, BODY_TIMEOUT);
    let response = next.run(Request::from_parts(parts, shared.body())).await;
    if shared.is_late() {
        return late();
    }
    if shared.begun.load(Relaxed) || !asks {
        // A body that does not end in time is left.
        let _ = tokio::time::timeout(REST_TIMEOUT, shared.read_rest()).await;
    }
    response
}

fn late() -> Response {
    let seconds = BODY_TIMEOUT.as_secs();
    let problem = Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        format_args!("the body did not come within {seconds} seconds; send it again"),
    );
    let mut response = problem.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_come_ends_with_an_error() {
        let first = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"{"))]);
        let body = Body::from_stream(first.chain(stream::pending()));
        let shared = Shared::of(body, Duration::from_millis(20));
        assert!(axum::body::to_bytes(shared.body(), usize::MAX).await.is_err());
        assert!(shared.is_late());
        assert_eq!(late().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
