//! The transport between replicas of a group: the seam at which a process, a simulation and a node without
//! peers differ.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use futures::future::BoxFuture;
use millstream_model::{NodeId, RaftGroupId};
use openraft::{
    OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2,
    alias::{SnapshotOf, VoteOf},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use crate::{
    config::TypeConfig,
    machine::{CheckpointData, MachineAdapter},
};

/// Carries requests between replicas of the same group on different nodes.
///
/// Contract: a request reaches the group's replica on the target node at most once, through
/// [`Group::handle`](crate::Group::handle), and the response is that replica's. An error does not say whether
/// the request arrived, and neither does a dropped call. Requests may overtake one another. The transport
/// knows the nodes' addresses; groups store only node ids.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and waits for its response.
    fn call(
        &self,
        to: NodeId,
        group: RaftGroupId,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerResponse, PeerUnreachable>>;
}

/// A node could not be reached, or did not respond.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("node {node} cannot be reached: {reason}")]
pub struct PeerUnreachable {
    /// The target node.
    pub node: NodeId,
    /// The transport's error.
    pub reason: &'static str,
}

/// A request between replicas.
pub struct PeerRequest(pub(crate) Request);

/// A response between replicas.
pub struct PeerResponse(pub(crate) Response);

pub(crate) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Snapshot(Box<(VoteOf<TypeConfig>, SnapshotOf<TypeConfig, CheckpointData>)>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
}

#[derive(Debug)]
pub(crate) enum Response {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Snapshot(SnapshotResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
}

impl fmt::Debug for PeerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Request::Append(request) => write!(f, "append {request}"),
            Request::Vote(request) => write!(f, "vote {request}"),
            Request::PreVote(request) => write!(f, "pre-vote {request}"),
            Request::Snapshot(snapshot) => write!(f, "snapshot {:?} by {}", snapshot.1.meta, snapshot.0),
            Request::TransferLeader(request) => write!(f, "transfer leader {request:?}"),
        }
    }
}

impl fmt::Debug for PeerResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Handles a peer's request on this node.
pub(crate) async fn handle(
    raft: &Raft<TypeConfig, MachineAdapter>,
    request: PeerRequest,
) -> Result<PeerResponse, Box<dyn std::error::Error + Send + Sync>> {
    Ok(PeerResponse(match request.0 {
        Request::Append(request) => Response::Append(raft.append_entries(request).await?),
        Request::Vote(request) => Response::Vote(raft.vote(request).await?),
        Request::PreVote(request) => Response::Vote(raft.pre_vote(request).await?),
        Request::Snapshot(snapshot) => {
            let (vote, snapshot) = *snapshot;
            Response::Snapshot(raft.install_full_snapshot(vote, snapshot).await?)
        }
        Request::TransferLeader(request) => {
            Response::TransferLeader(raft.handle_transfer_leader(request).await?)
        }
    }))
}

/// The transport of a node that runs alone: it reaches no other node.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl NoPeers {
    /// The transport for all groups of the process.
    pub fn shared() -> Arc<dyn Transport> {
        static ONE: LazyLock<Arc<NoPeers>> = LazyLock::new(|| Arc::new(NoPeers));
        ONE.clone()
    }
}

impl Transport for NoPeers {
    fn call(
        &self,
        node: NodeId,
        _: RaftGroupId,
        _: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerResponse, PeerUnreachable>> {
        let reason = "this broker runs without peers";
        Box::pin(std::future::ready(Err(PeerUnreachable { node, reason })))
    }
}

/// Makes openraft's connections of one group.
pub(crate) struct Connector {
    pub(crate) group: RaftGroupId,
    pub(crate) transport: Arc<dyn Transport>,
}

/// openraft's connection from one group's replica to another.
pub(crate) struct Connection {
    group: RaftGroupId,
    target: NodeId,
    transport: Arc<dyn Transport>,
}

impl RaftNetworkFactory<TypeConfig> for Connector {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &()) -> Connection {
        Connection { group: self.group, target: NodeId(target), transport: self.transport.clone() }
    }
}

/// Why there is no response.
enum CallError {
    Unreachable(PeerUnreachable),
    /// openraft abandons a request only much later, and a connection that hangs must not block replication.
    TimedOut(PeerUnreachable),
}

impl From<CallError> for RPCError<TypeConfig> {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(error) => RPCError::Unreachable(Unreachable::new(&error)),
            CallError::TimedOut(error) => RPCError::Network(NetworkError::new(&error)),
        }
    }
}

impl From<CallError> for StreamingError<TypeConfig> {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(error) => StreamingError::Unreachable(Unreachable::new(&error)),
            CallError::TimedOut(error) => StreamingError::Network(NetworkError::new(&error)),
        }
    }
}

impl Connection {
    async fn call(&self, request: Request, option: &RPCOption) -> Result<Response, CallError> {
        let call = self.transport.call(self.target, self.group, PeerRequest(request));
        match tokio::time::timeout(option.soft_ttl(), call).await {
            Ok(Ok(response)) => Ok(response.0),
            Ok(Err(error)) => Err(CallError::Unreachable(error)),
            Err(_) => Err(CallError::TimedOut(self.unreachable("the request timed out"))),
        }
    }

    fn unreachable(&self, reason: &'static str) -> PeerUnreachable {
        PeerUnreachable { node: self.target, reason }
    }

    /// The response is of another kind than the request: the peer is not a replica of the group.
    fn mismatch(&self) -> CallError {
        CallError::Unreachable(self.unreachable("its response does not match the request"))
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = CheckpointData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Append(request), &option).await? {
            Response::Append(response) => Ok(response),
            _ => Err(self.mismatch().into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Vote(request), &option).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.mismatch().into()),
        }
    }

    // openraft's default grants every pre-vote.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::PreVote(request), &option).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.mismatch().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, CheckpointData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let request = Request::Snapshot(Box::new((vote, snapshot)));
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            response = self.call(request, &option) => match response? {
                Response::Snapshot(response) => Ok(response),
                _ => Err(self.mismatch().into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::TransferLeader(request), &option).await? {
            Response::TransferLeader(response) => Ok(response),
            _ => Err(self.mismatch().into()),
        }
    }
}
