//! Why the client could not do what it was asked to.

use std::time::Duration;

use millstream_batch::BatchError;
use millstream_protocol::{AddressError, DecodeError, EncodeError, ErrorCode};

/// Why a request has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// An address that nothing can be reached at.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No broker answers.
    #[error("no broker can be reached at {addresses}: {reason}; is one running there?")]
    Unreachable {
        /// What was tried.
        addresses: String,
        /// Why the last one failed.
        reason: String,
    },
    /// Something answers there, but no broker.
    #[error("{address} answers HTTP, not the Kafka protocol")]
    NotKafka {
        /// Where.
        address: String,
    },
    /// The connection ended before the answer came: what was asked may have been done.
    #[error("the connection to {address} ended: {reason}")]
    Disconnected {
        /// The broker.
        address: String,
        /// Why.
        reason: String,
    },
    /// The answer did not come in time: what was asked may have been done.
    #[error("{address} did not answer {api} within {} ms", after.as_millis())]
    TimedOut {
        /// The broker.
        address: String,
        /// What was asked.
        api: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Broker and client have no version in common.
    #[error("{address} does not serve {api} in a version from {min} to {max}")]
    Unsupported {
        /// The broker.
        address: String,
        /// What was asked.
        api: &'static str,
        /// First version that the client speaks.
        min: i16,
        /// Last one.
        max: i16,
    },
    /// The bytes are no answer.
    #[error("the answer to {api} cannot be read: {source}")]
    Malformed {
        /// What was asked.
        api: &'static str,
        /// What is wrong.
        source: DecodeError,
    },
    /// A value that the version has no room for.
    #[error("{api} cannot be written: {source}")]
    Unwritable {
        /// What was to be asked.
        api: &'static str,
        /// What is wrong.
        source: EncodeError,
    },
    /// The broker said no.
    #[error("{what}: {code}{}", said(reason))]
    Refused {
        /// What was asked.
        what: String,
        /// Kafka's code.
        code: ErrorCode,
        /// The broker's words, if it had any.
        reason: Option<String>,
    },
    /// Records that cannot be read.
    #[error("records of {topic}-{partition} at offset {offset} cannot be read: {source}")]
    Records {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where.
        offset: i64,
        /// What is wrong.
        source: BatchError,
    },
    /// A setting that cannot be.
    #[error("{key} is {value}: {allowed}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

fn said(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

impl ClientError {
    /// A setting that cannot be.
    pub(crate) fn setting(
        key: &'static str,
        value: impl std::fmt::Debug,
        allowed: &'static str,
    ) -> ClientError {
        ClientError::Setting { key, value: format!("{value:?}"), allowed }
    }

    /// A refusal, unless the code says that nothing went wrong.
    pub(crate) fn check(
        code: i16,
        what: impl FnOnce() -> String,
        reason: Option<String>,
    ) -> Result<(), ClientError> {
        match ErrorCode(code) {
            ErrorCode::NONE => Ok(()),
            code => Err(ClientError::Refused { what: what(), code, reason }),
        }
    }

    /// The broker's code, if it said no.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether asking again may help.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::Disconnected { .. }
            | ClientError::TimedOut { .. } => true,
            ClientError::Refused { code, .. } => code.is_retriable(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_code_and_the_brokers_words() {
        assert!(ClientError::check(0, || "x".into(), None).is_ok());
        let refused =
            ClientError::check(36, || "create 'a'".into(), Some("it is there".into())).expect_err("refused");
        assert_eq!(refused.to_string(), "create 'a': TOPIC_ALREADY_EXISTS (36): it is there");
        assert!(!refused.is_retriable());
        let moved = ClientError::check(6, || "x".into(), None).expect_err("refused");
        assert!(moved.is_retriable());
    }
}
