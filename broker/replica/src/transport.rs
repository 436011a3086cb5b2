//! How replicas of a group reach one another.
//!
//! A group whose only voter is this node never calls anyone, so the only transport there is refuses every
//! call as unreachable, which openraft treats as a peer that is down.

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    alias::{SnapshotOf, VoteOf},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

use crate::{
    config::{Peer, TypeConfig},
    machine::CheckpointData,
};

/// No peer can be reached.
#[derive(Debug, thiserror::Error)]
#[error("node {target} at {address:?} cannot be reached: this broker runs without peers")]
pub(crate) struct NoPeers {
    target: u64,
    address: String,
}

/// Makes connections that reach nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone;

/// A connection that reaches nobody.
#[derive(Debug)]
pub(crate) struct NoConnection {
    target: u64,
    address: String,
}

impl NoConnection {
    fn refusal(&self) -> Unreachable<TypeConfig> {
        Unreachable::new(&NoPeers { target: self.target, address: self.address.clone() })
    }
}

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = NoConnection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> NoConnection {
        NoConnection { target, address: node.address.clone() }
    }
}

impl RaftNetworkV2<TypeConfig> for NoConnection {
    type SnapshotData = CheckpointData;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.refusal()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.refusal()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TypeConfig>,
        _snapshot: SnapshotOf<TypeConfig, CheckpointData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(self.refusal()))
    }
}
