//! The Kafka edge: the only code in the broker that knows Kafka's messages and error codes.
//!
//! [`api`] is the table of what is advertised; each row names the request, the versions that work, and the handler.

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

/// What becomes of a request.
pub(crate) enum Reply {
    /// Bytes for the client.
    Frame(Vec<Bytes>),
    /// The client wants no answer.
    Nothing,
    /// The connection cannot go on.
    Close(String),
}

/// A request that has begun: what must happen in the order of arrival has happened.
pub(crate) enum Answer {
    /// The reply is there.
    Now(Reply),
    /// The reply comes; nothing is lost when it is dropped.
    Later(BoxFuture<'static, Reply>),
    /// The request changes state, and runs to its end also when nothing waits for the reply.
    Change(PendingChange<Reply>),
}

/// Finds each request's row and begins it.
pub(crate) struct Dispatcher {
    service: Service,
    sessions: Arc<FetchSessions>,
}

impl Dispatcher {
    /// A dispatcher to the given verbs.
    pub(crate) fn new(service: Service) -> Arc<Dispatcher> {
        Arc::new(Dispatcher { service, sessions: Arc::default() })
    }

    /// Memory of records on their way to consumers.
    pub(crate) fn replies(&self) -> Replies {
        self.service.replies().clone()
    }

    /// Begins a request; requests of one connection are begun in the order of their arrival.
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
