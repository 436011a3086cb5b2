//! The context of a request: its connection and the broker's services.

use std::{net::SocketAddr, sync::Arc};

use millstream_protocol::Str;

use super::sessions::FetchSessions;
use crate::service::{Service, Turns};

/// The client at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its address as Kafka shows it: `/127.0.0.1`.
    pub host: Arc<str>,
    /// Keeps its produce requests in order.
    pub(super) turns: Arc<Turns>,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr) -> Peer {
        Peer { host: format!("/{}", address.ip().to_canonical()).into(), turns: Arc::default() }
    }
}

/// What happens to a request in progress when its connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnClose {
    /// It changes nothing and is dropped.
    Drop,
    /// It changes state and runs to completion.
    Finish,
}

/// What a handler needs besides the request.
#[derive(Clone)]
pub(super) struct RequestContext {
    pub(super) service: Service,
    /// Fetch sessions of all connections.
    pub(super) sessions: Arc<FetchSessions>,
    /// Version of request and response.
    pub(super) version: i16,
    pub(super) client_id: Option<Str>,
    /// The client's address as Kafka shows it.
    pub(super) client_host: Arc<str>,
    /// Keeps the client's produce requests in order.
    pub(super) turns: Arc<Turns>,
}
