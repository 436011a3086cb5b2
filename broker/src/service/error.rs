//! Why a verb was refused, and with that what the caller may do.

use crate::config::ConfigError;

/// Why a topic operation did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No such topic.
    #[error("the topic does not exist")]
    Unknown,
    /// The name is taken.
    #[error("topic '{0}' already exists")]
    AlreadyExists(String),
    /// Not a topic name.
    #[error("{0}")]
    InvalidName(String),
    /// The number of partitions is not allowed.
    #[error("{0}")]
    InvalidPartitions(String),
    /// The cluster has fewer nodes.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// A key or value is refused.
    #[error("{0}")]
    InvalidConfig(String),
    /// The given replicas are refused.
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// The topic is one of the broker's own.
    #[error("the topic '{0}' belongs to the broker and cannot be changed by clients")]
    Internal(String),
    /// A limit of the cluster is reached.
    #[error("{0}")]
    TooMany(String),
    /// Try again.
    #[error("{0}")]
    Unavailable(String),
    /// It may yet happen.
    #[error("the request took too long; it may yet take effect")]
    Timeout,
}

/// Why no producer id was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerIdError {
    /// Retry.
    #[error("no producer id can be given now")]
    Unavailable,
}

/// Why the broker's configuration did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerConfigError {
    /// A key or value is refused.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// The key only says how the broker runs.
    #[error("{key} is read-only: it says how this broker runs")]
    Fact {
        /// The key.
        key: String,
    },
    /// The key is read once, at start.
    #[error(
        "{key} cannot change while the broker runs; give it at start with --set {key}=VALUE. {changeable} can"
    )]
    ReadOnly {
        /// The key.
        key: String,
        /// Keys that can change.
        changeable: String,
    },
    /// Try again.
    #[error("{0}")]
    Unavailable(String),
}
