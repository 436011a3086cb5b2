//! Why an operation was refused, and with that what the caller may do.

use crate::config::ConfigError;

/// Why a topic operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("the topic does not exist")]
    Unknown,
    #[error("topic '{0}' already exists")]
    AlreadyExists(String),
    #[error("{0}")]
    InvalidName(String),
    #[error("{0}")]
    InvalidPartitions(String),
    /// More replicas than nodes.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// A key or value is refused.
    #[error("{0}")]
    InvalidConfig(String),
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    #[error("the topic '{0}' belongs to the broker and cannot be changed by clients")]
    Internal(String),
    /// A limit of the cluster is reached.
    #[error("{0}")]
    TooMany(String),
    /// Retry later.
    #[error("{0}")]
    Unavailable(String),
    /// The outcome is unknown.
    #[error("the request took too long; it may yet take effect")]
    Timeout,
}

/// Why no producer id was assigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerIdError {
    /// Retry later.
    #[error("no producer id can be given now")]
    Unavailable,
}

/// Why the broker's configuration did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerConfigError {
    /// A key or value is refused.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// The key only describes how the broker runs.
    #[error("{key} is read-only: it says how this broker runs")]
    Fact { key: String },
    /// The key is read once, at start.
    #[error(
        "{key} cannot change while the broker runs; give it at start with --set {key}=VALUE. {changeable} can"
    )]
    ReadOnly {
        key: String,
        /// Keys that can change at run time.
        changeable: String,
    },
    /// Retry later.
    #[error("{0}")]
    Unavailable(String),
}
