//! The rest of a body that the answer did not need.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, HttpBody},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

/// So much of the rest is read, and for so long; whoever sends more has the connection closed on it.
const REST_BYTES_MAX: usize = 16 << 20;
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// A body whose rest can be read when its reader has let go of it.
#[derive(Clone)]
struct Shared {
    data: Arc<Mutex<BodyDataStream>>,
    begun: Arc<AtomicBool>,
}

impl Shared {
    fn of(body: Body) -> Shared {
        Shared { data: Arc::new(Mutex::new(body.into_data_stream())), begun: Arc::default() }
    }

    /// What is left of it.
    fn body(&self) -> Body {
        let Shared { data, begun } = self.clone();
        Body::from_stream(stream::poll_fn(move |task| {
            begun.store(true, Relaxed);
            data.lock().poll_next_unpin(task)
        }))
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
pub(super) async fn hear_out(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who asks first whether to send, and was not told to, does not.
    let asks = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let shared = Shared::of(body);
    let response = next.run(Request::from_parts(parts, shared.body())).await;
    if shared.begun.load(Relaxed) || !asks {
        // A body that does not end in time is left.
        let _ = tokio::time::timeout(REST_TIMEOUT, shared.read_rest()).await;
    }
    response
}
