//! HTTP connections with limits: a bounded number at once, and a timeout for each phase. When all are in use,
//! the connection that has been idle longest is closed, so that a new one, such as a health probe, is always
//! answered.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::Sleep,
};

use crate::{clock, telemetry::Warnings};

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// From the opening of the connection, or the last response, to the complete head of the next request.
    head: Duration,
    /// For reading a response.
    answer: Duration,
}

const TIMEOUTS: Timeouts = Timeouts { head: Duration::from_secs(10), answer: Duration::from_secs(60) };
/// Largest head of a request; body bytes wait in the same buffer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// One address may have this fraction of the connections.
const ADDRESS_SHARE: usize = 2;
/// Pause after the system refused another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections of all listeners.
pub(super) struct Connections {
    connections_max: usize,
    per_address_max: usize,
    /// One permit per connection, returned when the connection's task has ended.
    permits: Arc<Semaphore>,
    open: Mutex<Open>,
    timeouts: Timeouts,
    warnings: Warnings,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    /// Counts events on all connections, to order them by idle time.
    events: u64,
    connections: HashMap<u64, Connection>,
}

struct Connection {
    address: IpAddr,
    /// Whether a request is being handled.
    is_busy: bool,
    /// The event count at its last change.
    changed_at: u64,
    evicted: Arc<Notify>,
}

/// A permit for one connection, until it is dropped.
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    id: u64,
    evicted: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(connections_max: usize) -> Arc<Connections> {
        Connections::with_timeouts(connections_max, TIMEOUTS)
    }

    fn with_timeouts(connections_max: usize, timeouts: Timeouts) -> Arc<Connections> {
        Arc::new(Connections {
            connections_max,
            per_address_max: connections_max.div_ceil(ADDRESS_SHARE),
            permits: Arc::new(Semaphore::new(connections_max)),
            open: Mutex::default(),
            timeouts,
            warnings: Warnings::default(),
        })
    }

    /// Closes a connection if all are in use, and waits for a free permit.
    async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let (id, evicted) = self.register(address);
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        Some(ConnectionPermit { connections: self.clone(), id, evicted, _permit: permit })
    }

    fn register(&self, address: IpAddr) -> (u64, Arc<Notify>) {
        let mut open = self.open.lock();
        if open.connections.values().filter(|c| c.address == address).count() >= self.per_address_max {
            open.evict_idlest(|connection| connection.address == address);
        } else if open.connections.len() >= self.connections_max {
            open.evict_idlest(|_| true);
        }
        let (id, evicted) = (open.next_id, Arc::new(Notify::new()));
        open.next_id += 1;
        let changed_at = open.next_event();
        let connection = Connection { address, is_busy: false, changed_at, evicted: evicted.clone() };
        open.connections.insert(id, connection);
        (id, evicted)
    }

    /// Frees a file descriptor for a system that has none left.
    fn evict_idlest(&self) {
        self.open.lock().evict_idlest(|_| true);
    }
}

impl Open {
    fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Closes the connection that has waited longest for a request, or else the one whose response takes
    /// longest.
    fn evict_idlest(&mut self, among: impl Fn(&Connection) -> bool) {
        let candidates = self.connections.iter().filter(|(_, connection)| among(connection));
        let idlest = candidates.min_by_key(|(_, c)| (c.is_busy, c.changed_at)).map(|(id, _)| *id);
        if let Some(connection) = idlest.and_then(|id| self.connections.remove(&id)) {
            connection.evicted.notify_one();
        }
    }
}

impl ConnectionPermit {
    fn set_busy(&self, is_busy: bool) {
        let mut open = self.connections.open.lock();
        let changed_at = open.next_event();
        if let Some(connection) = open.connections.get_mut(&self.id) {
            (connection.is_busy, connection.changed_at) = (is_busy, changed_at);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.open.lock().connections.remove(&self.id);
    }
}

/// Accepts and serves connections; dropping it ends them too.
pub(super) async fn accept(listener: TcpListener, router: Router, connections: Arc<Connections>) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(permit) = connections.admit(address.ip()).await else { return };
                tasks.spawn(serve(stream, router.clone(), permit));
                // A burst of connections must not evict one before its task has run: its request may have arrived already.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if let Some(left_out) = connections.warnings.admit(clock::monotonic()) {
                    tracing::warn!(%error, left_out, "HTTP connection not accepted");
                }
                connections.evict_idlest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, permit: ConnectionPermit) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        permit.set_busy(true);
        let answered = router.call(request.map(Body::new));
        let permit = &permit;
        async move {
            let answer = answered.await;
            permit.set_busy(false);
            answer
        }
    });
    let Timeouts { head, answer } = permit.connections.timeouts;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES_MAX);
    // A client that has sent its request and shut down its write side, as `nc` does, still gets a response.
    http.half_close(true);
    let stream = TimedStream { stream, timeout: answer, deadline: None };
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => {
            if let Err(error) = served {
                tracing::debug!(%error, "HTTP connection ended");
            }
        }
        () = permit.evicted.notified() => tracing::debug!("HTTP connection closed for a new one"),
    }
}

/// A stream whose peer must keep reading what is written.
struct TimedStream {
    stream: TcpStream,
    timeout: Duration,
    /// Runs while the system accepts no more bytes.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(context, bytes) {
            return Poll::Ready(written);
        }
        let timeout = self.timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Called when everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.deadline = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn admitted(connections: &Arc<Connections>, address: IpAddr) -> ConnectionPermit {
        connections.admit(address).now_or_never().flatten().expect("room")
    }

    fn is_evicted(permit: &ConnectionPermit) -> bool {
        permit.evicted.notified().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_idlest_connection_makes_room_for_a_new_one() {
        let connections = Connections::new(4);
        let [first, second] = [HERE, HERE].map(|address| admitted(&connections, address));
        let [third, fourth] = [THERE, THERE].map(|address| admitted(&connections, address));
        first.set_busy(true);
        third.set_busy(true);
        third.set_busy(false);
        let other = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
        let mut waiting = Box::pin(connections.admit(other));
        assert!(waiting.as_mut().now_or_never().is_none(), "the evicted connection is still open");
        assert!(is_evicted(&second), "it waits longest for a request");
        drop(second);
        let fifth = waiting.await.expect("room");
        assert_eq!([&first, &third, &fourth, &fifth].map(is_evicted), [false; 4]);
    }

    #[tokio::test]
    async fn when_all_are_busy_the_one_whose_answer_takes_longest_makes_room() {
        let connections = Connections::new(2);
        let [first, second] = [HERE, THERE].map(|address| admitted(&connections, address));
        [&second, &first].into_iter().for_each(|permit| permit.set_busy(true));
        let other = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
        assert!(connections.admit(other).now_or_never().is_none());
        assert_eq!([&first, &second].map(is_evicted), [false, true]);
    }

    #[tokio::test]
    async fn one_address_makes_room_among_its_own_connections() {
        let connections = Connections::new(4);
        let other = admitted(&connections, THERE);
        let first = admitted(&connections, HERE);
        let _second = admitted(&connections, HERE);
        let _third = admitted(&connections, HERE);
        assert_eq!([&other, &first].map(is_evicted), [false, true]);
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn bound() -> (TcpListener, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    fn start(listener: TcpListener, timeouts: Timeouts) {
        let router = Router::new()
            .route("/", get(|| async { "" }))
            .route("/large", get(|| async { vec![0; 64 << 20] }));
        tokio::spawn(accept(listener, router, Connections::with_timeouts(8, timeouts)));
    }

    /// A port with short timeouts; one of its responses is larger than the socket buffers.
    async fn port(timeouts: Timeouts) -> std::net::SocketAddr {
        let (listener, address) = bound().await;
        start(listener, timeouts);
        address
    }

    #[tokio::test]
    async fn a_request_is_answered_although_a_burst_of_connections_follows_it() {
        let (listener, address) = bound().await;
        let mut first = TcpStream::connect(address).await.expect("connected");
        first.write_all(REQUEST.as_bytes()).await.expect("sent");
        let mut burst = Vec::new();
        for _ in 0..64 {
            burst.push(TcpStream::connect(address).await.expect("connected"));
        }
        start(listener, TIMEOUTS);
        let mut answer = [0; 12];
        first.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_the_head_of_a_request_is_closed() {
        let timeouts = Timeouts { head: Duration::from_millis(50), ..TIMEOUTS };
        let address = port(timeouts).await;
        for sent in ["", "GET / HTTP/1.1\r\nHost: a\r\n", REQUEST] {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(sent.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            let closed = tokio::time::timeout(TIMEOUTS.head, stream.read_to_string(&mut answer)).await;
            closed.expect("closed in time").expect("closed in good order");
            assert_eq!(answer.starts_with("HTTP/1.1 200"), sent == REQUEST, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_its_answer_is_closed() {
        let timeouts = Timeouts { answer: Duration::from_millis(50), ..TIMEOUTS };
        let mut stream = TcpStream::connect(port(timeouts).await).await.expect("connected");
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
        let closed = tokio::time::timeout(TIMEOUTS.head, async {
            // Sends until the write blocks: nothing is read here.
            while stream.write_all(b"x").await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        closed.await.expect("closed in time");
    }
}
