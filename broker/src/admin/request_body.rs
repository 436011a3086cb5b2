//! Request bodies: their timeout, and draining what the handler did not read.

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

/// Longest time for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Limits of draining; the connection of a client that sends more is closed.
const DRAIN_BYTES_MAX: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that can be drained after its reader has dropped it.
#[derive(Clone)]
struct SharedBody {
    data: Arc<Mutex<TimedBody>>,
    started: Arc<AtomicBool>,
}

struct TimedBody {
    data: BodyDataStream,
    deadline: Pin<Box<Sleep>>,
    timed_out: bool,
}

impl TimedBody {
    fn poll_next(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        let next = self.data.poll_next_unpin(task);
        if next.is_pending() && self.deadline.as_mut().poll(task).is_ready() {
            self.timed_out = true;
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)))));
        }
        next
    }
}

impl SharedBody {
    fn of(body: Body, timeout: Duration) -> SharedBody {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let body = TimedBody { data: body.into_data_stream(), deadline, timed_out: false };
        SharedBody { data: Arc::new(Mutex::new(body)), started: Arc::default() }
    }

    /// The unread rest.
    fn body(&self) -> Body {
        let SharedBody { data, started } = self.clone();
        Body::from_stream(stream::poll_fn(move |task| {
            started.store(true, Relaxed);
            data.lock().poll_next(task)
        }))
    }

    fn timed_out(&self) -> bool {
        self.data.lock().timed_out
    }

    async fn drain(self) {
        let mut rest = self.body().into_data_stream();
        let mut bytes = 0;
        while bytes < DRAIN_BYTES_MAX
            && let Some(Ok(part)) = rest.next().await
        {
            bytes += part.len();
        }
    }
}

/// Reads the whole request body before the response is sent: closing a connection with unread bytes resets
/// it, and the response is lost.
pub(super) async fn drain_request_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // A client that sent Expect and got no 100 Continue does not send the body.
    let asks = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let shared = SharedBody::of(body, BODY_TIMEOUT);
    let response = next.run(Request::from_parts(parts, shared.body())).await;
    if shared.timed_out() {
        return late();
    }
    if shared.started.load(Relaxed) || !asks {
        // A body that does not end in time is abandoned.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, shared.drain()).await;
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
        let shared = SharedBody::of(body, Duration::from_millis(20));
        assert!(axum::body::to_bytes(shared.body(), usize::MAX).await.is_err());
        assert!(shared.timed_out());
        assert_eq!(late().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
