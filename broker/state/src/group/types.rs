//! What goes into the coordinator and what comes out.

use std::sync::Arc;

use bytes::Bytes;

use super::GroupOp;

/// Both clocks, read once for each input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds that only grow; deadlines are in these.
    pub mono_ms: u64,
    /// Wall-clock time in milliseconds; goes into replicated state.
    pub wall_ms: i64,
}

/// The bounds of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Least session timeout that a member may ask for, in milliseconds.
    pub session_timeout_min_ms: i32,
    /// Greatest session timeout, in milliseconds.
    pub session_timeout_max_ms: i32,
    /// How long an empty group waits for more members after the first, in milliseconds.
    pub initial_rebalance_delay_ms: u64,
    /// Most members of one group.
    pub members_max: usize,
    /// Most groups of one coordinator.
    pub groups_max: usize,
    /// Most bytes that all groups of a node hold.
    pub bytes_max: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            initial_rebalance_delay_ms: 0,
            members_max: 10_000,
            groups_max: 1_000_000,
            bytes_max: usize::MAX,
        }
    }
}

/// A new member that has not heard of its join for this long is taken to be gone, in milliseconds: until then its
/// session timeout says nothing, because it has no id to send heartbeats with.
pub(super) const NEW_MEMBER_JOIN_MS: u64 = 300_000;
/// Most bytes of one member's protocols.
pub(super) const MEMBER_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one generation: it has to fit into a log entry.
pub(super) const GENERATION_BYTES_MAX: usize = 16 << 20;

/// Names a request that waits for its answer; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a write that the coordinator waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Why a request of a member or a tool was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// An empty name where members are concerned.
    #[error("the group's name is empty")]
    InvalidGroupId,
    /// Outside the bounds.
    #[error("the session timeout is outside the broker's bounds")]
    InvalidSessionTimeout,
    /// No such group, where a tool asks for one.
    #[error("the group does not exist")]
    GroupNotFound,
    /// No such member; it joins again as a new one.
    #[error("the group does not know the member")]
    UnknownMember,
    /// The member is to join again under the id that comes with this.
    #[error("the member has to join under the id that it was given")]
    MemberIdRequired,
    /// Another client joined under the same instance id.
    #[error("another client joined under the same instance id")]
    FencedInstance,
    /// Not the current generation.
    #[error("the generation is not the group's current one")]
    IllegalGeneration,
    /// The member is to join again.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// Nothing that all members speak.
    #[error("the group's members share no protocol with this one")]
    InconsistentProtocol,
    /// No room.
    #[error("the group has as many members as it may have")]
    Full,
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
    /// Too many bytes of metadata or assignments.
    #[error("the group's metadata or assignments are too large")]
    TooLarge,
    /// Ask for the coordinator again.
    #[error("this node does not coordinate the group")]
    NotCoordinator,
    /// All groups together hold as many bytes as they may.
    #[error("the groups of this broker hold as many bytes as groups.bytes.max allows")]
    OutOfBytes,
    /// Retry: it may or may not have happened.
    #[error("the coordinator cannot answer now")]
    Unavailable,
}

/// A member wants to be part of the next generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// The member's id; empty for one that has none yet.
    pub member_id: Arc<str>,
    /// The id that a static member gave itself.
    pub instance_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// How long the member may be silent.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for the member.
    pub rebalance_timeout_ms: i32,
    /// What the members speak.
    pub protocol_type: String,
    /// Protocols with the member's metadata, the preferred one first.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// End of the new member's id, unique for ever.
    pub fresh_id: Arc<str>,
    /// Whether a new member first gets its id and then joins.
    pub two_steps: bool,
    /// Whether the client knows that a leader need not assign.
    pub can_skip_assignment: bool,
}

/// A member is part of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The member's id.
    pub member_id: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// What the members speak.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// The member that assigns.
    pub leader: Arc<str>,
    /// Whether the leader is to keep the assignment as it is.
    pub skip_assignment: bool,
    /// All members, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub id: Arc<str>,
    /// Its instance id.
    pub instance_id: Option<Arc<str>>,
    /// Its metadata of the chosen protocol.
    pub metadata: Bytes,
}

/// A join came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefusal {
    /// Why.
    pub error: GroupError,
    /// The id that the answer names: with [`GroupError::MemberIdRequired`] the one to join under.
    pub member_id: Arc<str>,
}

/// A member asks for its assignment; the leader brings everyone's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// The member.
    pub member: MemberRef,
    /// What the member takes to be the protocol type.
    pub protocol_type: Option<String>,
    /// What the member takes to be the protocol.
    pub protocol: Option<String>,
    /// From the leader: members and assignments.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// Who a member says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRef {
    /// Its id; may be empty where a simple consumer or a tool asks.
    pub id: Arc<str>,
    /// Its instance id.
    pub instance_id: Option<Arc<str>>,
    /// Its generation.
    pub generation: i32,
}

/// A member's assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// What the members speak.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// What the leader assigned.
    pub assignment: Bytes,
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answer a join.
    Joined(Ticket, Result<Joined, JoinRefusal>),
    /// Answer a sync.
    Synced(Ticket, Result<Synced, GroupError>),
    /// Replicate, then tell the coordinator.
    Write(WriteId, GroupOp),
}

/// Kafka's states of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No members.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Everyone has an assignment.
    Stable,
}

impl Phase {
    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::PreparingRebalance => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

/// A group as tools see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its state.
    pub phase: Phase,
    /// What its members speak.
    pub protocol_type: Option<String>,
    /// The chosen protocol, while the group is stable.
    pub protocol: Option<String>,
    /// Its members, sorted by id.
    pub members: Vec<MemberView>,
}

/// A member as tools see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub id: Arc<str>,
    /// Its instance id.
    pub instance_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// Its metadata of the chosen protocol, while the group is stable.
    pub metadata: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}
