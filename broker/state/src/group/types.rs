//! The coordinator's inputs and outputs.

use std::sync::Arc;

use bytes::Bytes;

use super::GroupOp;

/// Both clocks, read once per input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds, for deadlines.
    pub mono_ms: u64,
    /// Wall-clock time in milliseconds, for replicated state.
    pub wall_ms: i64,
}

/// The limits of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Smallest session timeout that a member may request, in milliseconds.
    pub session_timeout_min_ms: i32,
    /// Largest session timeout, in milliseconds.
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

/// A new member whose join has not been answered for this long is taken to be gone, in milliseconds. Until
/// then its session timeout does not apply, because it has no id for heartbeats.
pub(super) const NEW_MEMBER_JOIN_MS: u64 = 300_000;
/// Most bytes of one member's protocols.
pub(super) const MEMBER_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one generation: it must fit into a log entry.
pub(super) const GENERATION_BYTES_MAX: usize = 16 << 20;

/// Identifies a request that waits for its answer; chosen by the caller and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Identifies a write that the coordinator waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Why a request of a member or a tool was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A request of a member with an empty group name.
    #[error("the group name is empty")]
    InvalidGroupId,
    /// The session timeout is out of range.
    #[error("the session timeout is outside the broker's bounds")]
    InvalidSessionTimeout,
    /// The group does not exist.
    #[error("the group does not exist")]
    GroupNotFound,
    /// The member is unknown; it must join again as a new one.
    #[error("the member is not in the group")]
    UnknownMember,
    /// The member must join again under the id in the answer.
    #[error("the member must join under the id that it was given")]
    MemberIdRequired,
    /// Another client joined under the same instance id.
    #[error("another client joined under the same instance id")]
    FencedInstance,
    /// The generation is not current.
    #[error("the generation is not the group's current one")]
    IllegalGeneration,
    /// The member must join again.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// No protocol is supported by all members.
    #[error("the group's members share no protocol with this one")]
    InconsistentProtocol,
    /// The group is full.
    #[error("the group has reached its limit of members")]
    Full,
    /// The group is not empty.
    #[error("the group has members")]
    NotEmpty,
    /// Too many bytes of metadata or assignments.
    #[error("the group's metadata or assignments are too large")]
    TooLarge,
    /// The client must look up the coordinator again.
    #[error("this node does not coordinate the group")]
    NotCoordinator,
    /// The groups have reached their limit of memory.
    #[error("the groups of this broker have reached groups.bytes.max")]
    OutOfBytes,
    /// The result is unknown: the client must retry.
    #[error("the coordinator is not available")]
    Unavailable,
}

/// A request to join the next generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinRequest {
    /// Group name.
    pub group: Arc<str>,
    /// Member id; empty for a member that has none yet.
    pub member_id: Arc<str>,
    /// Instance id of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Client id.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Rebalance timeout.
    pub rebalance_timeout_ms: i32,
    /// Protocol type.
    pub protocol_type: String,
    /// Protocols with the member's metadata, the preferred one first.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// Suffix of the new member's id, globally unique.
    pub fresh_id: Arc<str>,
    /// Whether a new member first gets its id and then joins.
    pub two_steps: bool,
    /// Whether the client understands a leader that need not assign.
    pub can_skip_assignment: bool,
}

/// A member has joined a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Member id.
    pub member_id: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// Protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Arc<str>,
    /// Whether the leader must keep the current assignment.
    pub skip_assignment: bool,
    /// All members, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
}

/// A member in the leader's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Member id.
    pub id: Arc<str>,
    /// Its instance id.
    pub instance_id: Option<Arc<str>>,
    /// Its metadata of the chosen protocol.
    pub metadata: Bytes,
}

/// A join was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefusal {
    /// The reason.
    pub error: GroupError,
    /// The member id in the answer: with [`GroupError::MemberIdRequired`] the one to join under.
    pub member_id: Arc<str>,
}

/// A member's request for its assignment; the leader sends all assignments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncRequest {
    /// Group name.
    pub group: Arc<str>,
    /// The member.
    pub member: MemberRef,
    /// The protocol type that the member expects.
    pub protocol_type: Option<String>,
    /// The protocol that the member expects.
    pub protocol: Option<String>,
    /// From the leader: members and assignments.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// The identity that a request claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRef {
    /// Member id; may be empty for a simple consumer or a tool.
    pub id: Arc<str>,
    /// Its instance id.
    pub instance_id: Option<Arc<str>>,
    /// Its generation.
    pub generation: i32,
}

/// A member's assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// Its assignment by the leader.
    pub assignment: Bytes,
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEffect {
    /// Answer a join.
    Joined(Ticket, Result<Joined, JoinRefusal>),
    /// Answer a sync.
    Synced(Ticket, Result<Synced, GroupError>),
    /// Replicate, then report the result to the coordinator.
    Write(WriteId, GroupOp),
}

/// Kafka's group states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No members.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has an assignment.
    Stable,
}

impl Phase {
    /// Kafka's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::PreparingRebalance => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

/// The description of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its state.
    pub phase: Phase,
    /// Protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol, while the group is stable.
    pub protocol: Option<String>,
    /// Its members, sorted by id.
    pub members: Vec<MemberView>,
}

/// The description of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Member id.
    pub id: Arc<str>,
    /// Its instance id.
    pub instance_id: Option<Arc<str>>,
    /// Client id.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// Its metadata of the chosen protocol, while the group is stable.
    pub metadata: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}
