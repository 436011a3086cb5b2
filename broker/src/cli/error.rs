//! Why a command did not do what it was told to.

use std::io;

use crate::{config::ServeConfigError, node::NodeError};

/// Each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A configuration that cannot be served with.
    #[error(transparent)]
    Config(#[from] ServeConfigError),
    /// The broker could not start or had to stop.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl CliError {
    /// 1: failed at run time. 2: wrong usage or configuration.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Config(_) => 2,
            CliError::Node(_) | CliError::Io { .. } => 1,
        }
    }

    /// Whether the reader of standard output has gone, which is its right.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
