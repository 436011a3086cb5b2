//! The HTTP port: health, metrics, and the JSON admin API.
//!
//! [`endpoints`] is the table of all endpoints; the routes, the description at `/v1/openapi.json` and
//! `docs/http.md` are generated from it. A request that fails gets a status and one JSON object with the
//! reason, see [`problem`].

mod acceptor;
mod access;
#[cfg(test)]
mod document;
mod endpoints;
mod groups;
mod metrics;
mod openapi;
mod problem;
mod process;
mod readiness;
mod request_body;
mod settings;
mod shape;
mod topics;
mod views;

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Request, State},
    http::{StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use millstream_model::RaftGroupId;
use millstream_store::{tables::Tables, wal::Wal};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    clock,
    config::BrokerConfig,
    service::{RecordTimes, Service},
    telemetry::LogSwitch,
};
use acceptor::Connections;
pub use access::TokenError;
use access::{Access, Asked};
use problem::Problem;
use readiness::NotReady;

/// The sources of the pages.
pub struct Sources {
    /// The operations.
    pub service: Service,
    /// The log.
    pub wal: Arc<Wal>,
    /// Memtable, runs and cache.
    pub tables: Arc<Tables>,
    /// Open Kafka connections.
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// The log filter.
    pub log: LogSwitch,
}

struct Admin {
    sources: Sources,
    /// Times of the records that groups read next; held while a page of metrics is written.
    times: Mutex<RecordTimes>,
}

/// The port, which answers before the node has started.
struct Port {
    started: std::time::Instant,
    phase: watch::Sender<Phase>,
    access: Access,
    /// One permit per blocking thread in use by this port.
    background: Arc<Semaphore>,
}

#[derive(Clone)]
enum Phase {
    /// The store is being opened.
    Starting,
    /// The store is open; these Raft groups have no leader yet.
    Electing(Arc<Mutex<BTreeSet<RaftGroupId>>>),
    Open(Arc<Admin>),
    Stopping(Arc<Admin>),
}

impl Port {
    /// Runs work that may block on the disk or take long, off the threads of requests.
    async fn in_background<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Problem> {
        // It continues when its request is dropped, and keeps its permit.
        let permit = self.background.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer could not be made; the broker's log says why",
            )
        })
    }
}

impl Phase {
    fn admin(&self) -> Option<&Arc<Admin>> {
        match self {
            Phase::Starting | Phase::Electing(_) => None,
            Phase::Open(admin) | Phase::Stopping(admin) => Some(admin),
        }
    }
}

/// The sources of an open broker; requests that need them are answered with 503 during the start.
struct Open(Arc<Admin>);

impl FromRequestParts<Arc<Port>> for Open {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, port: &Arc<Port>) -> Result<Open, Problem> {
        let open = port.phase.borrow().admin().cloned().map(Open);
        open.ok_or_else(|| {
            let reason = readiness::now(&port.phase.borrow()).unwrap_or(NotReady::Starting);
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        })
    }
}

/// Most blocking threads that this port uses at once; the others read records for consumers.
const BACKGROUND_MAX: usize = 8;
/// Largest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The HTTP port of a broker. It answers during the start, so that a slow start can be distinguished from a
/// hang.
pub struct AdminServer {
    port: Arc<Port>,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Serves all listeners, which were configured with the host `given`, with at most `connections_max`
    /// connections.
    pub fn start(
        listeners: Vec<TcpListener>,
        given: &str,
        config: &BrokerConfig,
        connections_max: usize,
    ) -> Result<AdminServer, TokenError> {
        let bound: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let access = Access::new(given, &bound, config)?;
        if access.only_reads() {
            tracing::info!(
                "HTTP is bound to an address that is not loopback and http.admin.token.file is not set: changes over HTTP are refused"
            );
        }
        let phase = watch::Sender::new(Phase::Starting);
        let background = Arc::new(Semaphore::new(BACKGROUND_MAX));
        let port = Arc::new(Port { started: clock::monotonic(), phase, access, background });
        let router = router(port.clone());
        let connections = Connections::new(connections_max);
        let accepting = listeners
            .into_iter()
            .map(|listener| acceptor::accept(listener, router.clone(), connections.clone()));
        let accepting: JoinSet<()> = accepting.collect();
        let task = tokio::spawn(async move {
            accepting.join_all().await;
        });
        Ok(AdminServer { port, task })
    }

    /// The start now waits for leaders of these groups.
    pub fn electing(&self, leaderless: Arc<Mutex<BTreeSet<RaftGroupId>>>) {
        self.port.phase.send_replace(Phase::Electing(leaderless));
    }

    /// The broker is open.
    pub fn open(&self, sources: Sources) {
        let times = Mutex::new(RecordTimes::new(metrics::READS_MAX));
        self.port.phase.send_replace(Phase::Open(Arc::new(Admin { sources, times })));
    }

    /// The broker is stopping and no longer ready.
    pub fn stopping(&self) {
        self.port.phase.send_modify(|phase| {
            if let Phase::Open(admin) = phase {
                *phase = Phase::Stopping(admin.clone());
            }
        });
    }

    /// Closes the port.
    pub fn close(self) {
        self.task.abort();
    }
}

fn router(port: Arc<Port>) -> Router {
    let routes = endpoints::all().into_iter();
    let routes = routes.fold(Router::new(), |router, endpoint| {
        // A trailing slash is ignored.
        let with_slash = format!("{}/", endpoint.path);
        router.route(endpoint.path, endpoint.route.clone()).route(&with_slash, endpoint.route)
    });
    routes
        .fallback(problem::nowhere)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(port.clone(), guard))
        .layer(middleware::from_fn(request_body::drain_request_body))
        .with_state(port)
}

/// Checks the permission of a request.
async fn guard(State(port): State<Arc<Port>>, request: Request, next: Next) -> Response {
    let asked = Asked::of(request.method(), request.uri(), request.headers());
    let checked = if port.access.reads_file(&asked) {
        let with_file = port.clone();
        port.in_background(move || with_file.access.check(&asked)).await.flatten()
    } else {
        // Health needs none of the blocking threads.
        port.access.check(&asked)
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn live(State(port): State<Arc<Port>>) -> Response {
    let admin = port.phase.borrow().admin().cloned();
    match admin.and_then(|admin| admin.sources.wal.failed()) {
        None => (StatusCode::OK, "live\n").into_response(),
        Some(failed) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failed}\n")).into_response(),
    }
}

async fn ready(State(port): State<Arc<Port>>) -> Response {
    let not_ready = readiness::soon(&port.phase).await;
    let warning = readiness::warning(&port.phase.borrow());
    let warning = warning.map(|trouble| format!("warning: {trouble}\n")).unwrap_or_default();
    match not_ready {
        None => (StatusCode::OK, format!("ready\n{warning}")).into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n{warning}")).into_response(),
    }
}

async fn metrics_page(State(port): State<Arc<Port>>, Open(admin): Open) -> Result<Response, Problem> {
    let this = port.clone();
    let page = this.in_background(move || {
        let uptime = clock::monotonic().saturating_duration_since(port.started);
        let ready = readiness::now(&port.phase.borrow()).is_none();
        metrics::page(&admin.sources, ready, uptime, &mut admin.times.lock())
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.await?).into_response())
}

async fn cluster(Open(admin): Open) -> Response {
    Json(views::cluster(&admin.sources.service)).into_response()
}

async fn description() -> Response {
    Json(openapi::description()).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// Status line and body of a response.
    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    /// The port of a broker that is starting, and its address.
    async fn starting() -> (AdminServer, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let config = BrokerConfig::from_values(&Default::default());
        let server = AdminServer::start(vec![listener], "127.0.0.1:0", &config, 8);
        (server.expect("no token is asked for"), address)
    }

    #[tokio::test]
    async fn a_broker_that_starts_is_live_and_not_ready_and_says_so() {
        let (server, address) = starting().await;
        let live = get(address, "/health/live").await;
        assert!(live.starts_with("HTTP/1.0 200") && live.ends_with("live\n"), "{live}");
        for path in ["/health/ready", "/v1/topics", "/metrics"] {
            let answer = get(address, path).await;
            assert!(answer.starts_with("HTTP/1.0 503") && answer.contains("is starting"), "{path}: {answer}");
        }
        assert!(get(address, "/v1/openapi.json").await.starts_with("HTTP/1.0 200"), "it depends on nothing");
        server.close();
    }

    #[tokio::test]
    async fn whoever_sends_a_body_may_send_to_its_end_and_gets_the_answer() {
        let (server, address) = starting().await;
        let body = vec![b' '; 4 << 20];
        for (line, status) in [("POST /nothing", "404"), ("GET /health/live", "200")] {
            let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("sent");
            let early = tokio::time::timeout(Duration::from_millis(300), stream.readable()).await;
            assert!(early.is_err(), "a response came before the body was read");
            stream.write_all(&body).await.expect("the connection takes it to its end");
            let mut answer = vec![0; 12];
            stream.read_exact(&mut answer).await.expect("answered");
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));

            // A client that sent Expect is answered at once.
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await.expect("sent");
            stream.read_exact(&mut answer).await.expect("answered");
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"));
        }
        server.close();
    }
}
