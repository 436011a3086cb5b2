//! The Kafka protocol: the only code in the broker that knows Kafka's messages and error codes.
//!
//! [`api`] is the table of supported APIs; each row has the request type, the supported versions and the handler.

mod acls;
mod alter_configs;
mod api;
mod client_quotas;
#[cfg(test)]
mod closed_connection_tests;
mod configs;
mod context;
mod create_partitions;
mod create_topics;
mod delegation_tokens;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
#[cfg(test)]
mod document;
mod error;
mod fetch;
mod groups;
mod init_producer_id;
mod leader_epoch;
mod list_config_resources;
mod list_offsets;
mod log_dirs;
mod metadata;
mod operations;
mod placement;
mod produce;
mod scram_users;
mod sessions;
mod timeout;
mod transactions;
mod versions;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use millstream_protocol::{DecodeError, Reader, RequestHeader};

pub(crate) use context::Peer;

use self::{api::Row, context::RequestContext, sessions::FetchSessions};
use crate::{
    partition::Replies,
    service::{PendingChange, Service},
};

/// The outcome of a request.
pub(crate) enum Reply {
    /// A response frame.
    Frame(Vec<Bytes>),
    /// The client expects no response.
    Nothing,
    /// The connection must be closed, for this reason.
    Close(String),
}

/// A request whose first stage, which runs in the order of arrival, is done.
pub(crate) enum Answer {
    Now(Reply),
    /// May be dropped: the request changes no state.
    Later(BoxFuture<'static, Reply>),
    /// The request changes state and runs to completion even if nothing waits for the reply.
    Change(PendingChange<Reply>),
}

/// Dispatches requests to their handlers.
pub(crate) struct Dispatcher {
    service: Service,
    sessions: Arc<FetchSessions>,
}

impl Dispatcher {
    pub(crate) fn new(service: Service) -> Arc<Dispatcher> {
        Arc::new(Dispatcher { service, sessions: Arc::default() })
    }

    /// Memory budget of records in replies to consumers.
    pub(crate) fn replies(&self) -> Replies {
        self.service.replies().clone()
    }

    /// Runs the first stage of a request. Must be called in the order of arrival for the requests of one connection.
    pub(crate) fn begin(&self, peer: &Peer, frame: Bytes) -> Answer {
        let mut reader = Reader::new(frame);
        let header = match RequestHeader::decode(&mut reader) {
            Ok(header) => header,
            Err(error) => return close(format!("the request's header cannot be read: {error}")),
        };
        let Some(row) = api::find(header.key) else {
            return close(format!("API {} is not served", header.key));
        };
        if !row.versions.contains(header.version) {
            return refuse_version(row, &header);
        }
        let context = RequestContext {
            service: self.service.clone(),
            sessions: self.sessions.clone(),
            version: header.version,
            client_id: header.client_id,
            client_host: peer.host.clone(),
            turns: peer.turns.clone(),
        };
        match (row.begin)(context, header.correlation_id, reader) {
            Ok(answer) => answer,
            Err(error) => close(malformed(row, header.version, &error)),
        }
    }
}

fn refuse_version(row: &Row, header: &RequestHeader) -> Answer {
    if let Some(frame) = versions::refusal(row.key, header.correlation_id) {
        return Answer::Now(Reply::Frame(frame));
    }
    let (min, max) = (row.versions.min, row.versions.max);
    close(format!("{} version {} is not served; {min} to {max} are", row.key.name(), header.version))
}

fn malformed(row: &Row, version: i16, error: &DecodeError) -> String {
    format!("{} version {version} cannot be read: {error}", row.key.name())
}

fn close(reason: String) -> Answer {
    Answer::Now(Reply::Close(reason))
}
