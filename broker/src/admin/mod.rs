//! The HTTP port: health, metrics, and the JSON admin API.
//!
//! [`endpoints`] is the table of what there is; the routes, the description at `/v1/openapi.json` and `docs/http.md` are
//! made of it. What cannot be answered has a status and one JSON object with the reason, see [`problem`].

#[cfg(test)]
mod document;
mod door;
mod endpoints;
mod groups;
mod metrics;
mod openapi;
mod problem;
mod process;
mod settings;
mod topics;
mod views;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_store::{tables::Tables, wal::Wal};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use crate::{
    clock,
    service::{RecordTimes, Service},
    telemetry::LogSwitch,
};
use door::Door;
use problem::Problem;

/// What the pages are made of.
pub struct Sources {
    /// The verbs.
    pub service: Service,
    /// The log.
    pub wal: Arc<Wal>,
    /// Memtable, runs and cache.
    pub tables: Arc<Tables>,
    /// Kafka connections that are open.
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// What is logged.
    pub log: LogSwitch,
}

struct Admin {
    sources: Sources,
    started: std::time::Instant,
    /// Times of the records that groups read next; whoever makes a page of metrics holds it.
    times: Mutex<RecordTimes>,
}

/// HTTP connections that may be open at once; the pages are for a few people and programs.
const CONNECTIONS_MAX: usize = 256;
/// Largest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Answers HTTP on all listeners until the task is aborted.
pub fn start(listeners: Vec<TcpListener>, sources: Sources) -> JoinHandle<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let times = Mutex::new(RecordTimes::new(metrics::READS_MAX));
    let admin = Arc::new(Admin { sources, started: clock::monotonic(), times });
    tokio::spawn(async move {
        let mut doors = JoinSet::new();
        for listener in listeners {
            let router = router(admin.clone());
            let door = Door { listener, places: places.clone() };
            doors.spawn(async move {
                // Serving ends only with its task.
                let _ = axum::serve(door, router).await;
            });
        }
        while doors.join_next().await.is_some() {}
    })
}

fn router(admin: Arc<Admin>) -> Router {
    let routes = endpoints::all().into_iter();
    let routes = routes.fold(Router::new(), |router, endpoint| router.route(endpoint.path, endpoint.route));
    routes
        .fallback(problem::nowhere)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

/// Work that may wait for the disk, or takes long: not on a thread that requests run on.
async fn in_background<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer could not be made; the broker's log says why",
        )
    })
}

async fn live(State(admin): State<Arc<Admin>>) -> Response {
    match admin.sources.wal.failed() {
        None => (StatusCode::OK, "live\n").into_response(),
        Some(failed) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failed}\n")).into_response(),
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let service = &admin.sources.service;
    let without = service.shards().filter(|shard| shard.group().led_term().is_none()).count();
    match (without, service.metadata().led_term()) {
        (0, Some(_)) => (StatusCode::OK, "ready\n".to_string()).into_response(),
        (n, _) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{n} shards or the metadata group have no leader\n"))
                .into_response()
        }
    }
}

async fn metrics_page(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let page = in_background(move || {
        let uptime = clock::monotonic().saturating_duration_since(admin.started);
        metrics::page(&admin.sources, uptime, &mut admin.times.lock())
    });
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.await?).into_response())
}

async fn cluster(State(admin): State<Arc<Admin>>) -> Response {
    Json(views::cluster(&admin.sources.service)).into_response()
}

async fn description() -> Response {
    Json(openapi::description()).into_response()
}
