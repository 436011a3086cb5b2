//! Accepts connections, within the limits, and ends them all when the broker stops.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{
    connection::{Serving, serve},
    descriptors::Descriptors,
    input::{Budgets, RequestSize},
    load_shedding,
    registry::{ConnectionPermit, Full, Limits, Registry},
};
use crate::{clock, config::BrokerConfig, kafka::Dispatcher, telemetry::Warnings};

/// How long the replies in flight may take when the broker stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Time between two looks for connections that do nothing.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long a new connection waits for the place of one that is closing.
const EVICTION_WAIT_MAX: Duration = Duration::from_millis(100);
/// Pause after the system could not give another connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The Kafka port, open.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    acceptors: Vec<JoinHandle<()>>,
    sweepers: Vec<JoinHandle<()>>,
    registry: Arc<Registry>,
}

struct Acceptor {
    registry: Arc<Registry>,
    dispatcher: Arc<Dispatcher>,
    budgets: Budgets,
    frame_bytes_max: usize,
    stop: watch::Receiver<bool>,
    warnings: Arc<Warnings>,
    http_addr: SocketAddr,
}

impl Server {
    /// Accepts connections on all listeners; who asks for HTTP there is sent to `http_addr`.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        dispatcher: Arc<Dispatcher>,
        config: &BrokerConfig,
        descriptors: Descriptors,
        http_addr: SocketAddr,
    ) -> Server {
        let (stop, stopped) = watch::channel(false);
        let limits = Limits {
            connections_max: descriptors.kafka_connections,
            per_address_max: config.connections_per_ip_max,
            by_open_files: descriptors.kafka_connections < config.connections_max,
        };
        let registry = Registry::new(limits, clock::monotonic());
        let budgets = Budgets::new(config.requests_bytes_max);
        let warnings = Arc::<Warnings>::default();
        let acceptors = listeners.into_iter().map(|listener| {
            let door = Acceptor {
                registry: registry.clone(),
                dispatcher: dispatcher.clone(),
                budgets: budgets.clone(),
                frame_bytes_max: config.request_bytes_max,
                stop: stopped.clone(),
                warnings: warnings.clone(),
                http_addr,
            };
            tokio::spawn(door.accept(listener))
        });
        let acceptors = acceptors.collect();
        let sweepers = vec![
            tokio::spawn(sweep(registry.clone())),
            tokio::spawn(load_shedding::of_requests(registry.clone(), budgets.small, RequestSize::Small)),
            tokio::spawn(load_shedding::of_requests(registry.clone(), budgets.incoming, RequestSize::Large)),
            tokio::spawn(load_shedding::of_complete_requests(registry.clone(), budgets.large)),
            tokio::spawn(load_shedding::of_replies(registry.clone(), dispatcher.replies())),
        ];
        Server { stop, acceptors, sweepers, registry }
    }

    /// Tells how many connections are open, whenever it is called.
    pub(crate) fn connection_count(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let registry = self.registry.clone();
        move || registry.count()
    }

    /// Takes no more requests, lets those in flight be answered, and closes.
    pub(crate) async fn shutdown(self) {
        self.stop.send_replace(true);
        self.sweepers.iter().for_each(JoinHandle::abort);
        for acceptor in self.acceptors {
            // One that panicked has said so.
            let _ = acceptor.await;
        }
    }
}

async fn sweep(registry: Arc<Registry>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let closed = registry.sweep(clock::monotonic());
        if closed > 0 {
            tracing::info!(closed, "closing connections that do nothing");
        }
    }
}

impl Acceptor {
    async fn accept(mut self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while !*self.stop.borrow() {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.admit(stream, address, &mut connections).await,
                    Err(error) => {
                        if let Some(left_out) = self.warnings.admit(clock::monotonic()) {
                            tracing::warn!(%error, left_out, "a connection could not be accepted");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = self.stop.changed() => {}
            }
        }
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
            tracing::warn!("connections that did not end in time are cut");
            connections.shutdown().await;
        }
    }

    async fn admit(&self, stream: TcpStream, address: SocketAddr, connections: &mut JoinSet<()>) {
        let seat = match self.seat(address.ip()).await {
            Ok(seat) => seat,
            Err(full) => {
                if let Some(left_out) = self.warnings.admit(clock::monotonic()) {
                    tracing::warn!(%address, %full, left_out, "a connection was refused");
                }
                return;
            }
        };
        let serving = Serving {
            dispatcher: self.dispatcher.clone(),
            budgets: self.budgets.clone(),
            frame_bytes_max: self.frame_bytes_max,
            stop: self.stop.clone(),
            warnings: self.warnings.clone(),
            http_addr: self.http_addr,
        };
        connections.spawn(serve(stream, address, seat, serving));
    }

    /// A place for a connection; when all are taken, that of the one which has been idle longest.
    async fn seat(&self, address: IpAddr) -> Result<ConnectionPermit, Full> {
        let full = match self.registry.take(address, clock::monotonic()) {
            Err(full @ (Full::InAll(_) | Full::OfOpenFiles(_))) => full,
            taken => return taken,
        };
        let leaves = self.registry.leaves();
        if !self.registry.evict_idlest(clock::monotonic()) {
            return Err(full);
        }
        // It leaves at once, unless its task has much to do.
        let _ = tokio::time::timeout(EVICTION_WAIT_MAX, leaves).await;
        self.registry.take(address, clock::monotonic())
    }
}
