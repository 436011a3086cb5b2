//! The HTTP port: health, metrics, and the first of the JSON admin API.
//!
//! | path | answer |
//! | --- | --- |
//! | `/health/live` | 200 while the process runs and its log can be written, else 503 |
//! | `/health/ready` | 200 while a producer can produce to every shard, else 503 |
//! | `/metrics` | Prometheus text; names in `docs/metrics.md` |
//! | `/v1/cluster` | brokers, shards, versions |
//! | `/v1/topics`, `/v1/topics/{name}` | topics with their partitions and configuration |

mod door;
mod metrics;
mod process;
mod views;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use millstream_store::{tables::Tables, wal::Wal};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use crate::{clock, service::Service};
use door::Door;

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
}

struct Admin {
    sources: Sources,
    started: std::time::Instant,
}

/// HTTP connections that may be open at once; the pages are for a few people and programs.
const CONNECTIONS_MAX: usize = 256;

/// Answers HTTP on all listeners until the task is aborted.
pub fn start(listeners: Vec<TcpListener>, sources: Sources) -> JoinHandle<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let admin = Arc::new(Admin { sources, started: clock::monotonic() });
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
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/v1/cluster", get(cluster))
        .route("/v1/topics", get(topics))
        .route("/v1/topics/{name}", get(topic))
        .with_state(admin)
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

async fn metrics_page(State(admin): State<Arc<Admin>>) -> Response {
    let uptime = clock::monotonic().saturating_duration_since(admin.started);
    let page = metrics::page(&admin.sources, uptime);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn cluster(State(admin): State<Arc<Admin>>) -> Response {
    Json(views::cluster(&admin.sources.service)).into_response()
}

async fn topics(State(admin): State<Arc<Admin>>) -> Response {
    // Sizes of a hundred thousand partitions take a while: not on a thread that others wait for.
    let service = admin.sources.service.clone();
    match tokio::task::spawn_blocking(move || views::topics(&service)).await {
        Ok(view) => Json(view).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn topic(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    match views::topic(&admin.sources.service, &name) {
        Some(view) => Json(view).into_response(),
        None => {
            let error = views::Problem { error: format!("topic '{name}' does not exist") };
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
    }
}
