//! What a handler is told beside the request itself.

use std::{net::SocketAddr, sync::Arc};

use millstream_protocol::Str;

use super::sessions::FetchSessions;
use crate::service::{Service, Turns};

/// The client at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its address as Kafka shows it: `/127.0.0.1`.
    pub host: Arc<str>,
    /// What it produces takes effect in the order of its requests.
    pub(super) turns: Arc<Turns>,
}

impl Peer {
    /// The client at `address`.
    pub(crate) fn new(address: SocketAddr) -> Peer {
        Peer { host: format!("/{}", address.ip().to_canonical()).into(), turns: Arc::default() }
    }
}

/// What becomes of the rest of a request when its connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnClose {
    /// It changes nothing and is dropped.
    Drop,
    /// It changes state and runs to its end.
    Finish,
}

/// One request's surroundings.
#[derive(Clone)]
pub(super) struct RequestContext {
    /// What the broker does.
    pub(super) service: Service,
    /// Fetch sessions of all connections.
    pub(super) sessions: Arc<FetchSessions>,
    /// Version of request and response.
    pub(super) version: i16,
    /// What the client calls itself.
    pub(super) client_id: Option<Str>,
    /// The client's address as Kafka shows it.
    pub(super) client_host: Arc<str>,
    /// The client's turns to produce.
    pub(super) turns: Arc<Turns>,
}
