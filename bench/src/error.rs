//! Why a measurement failed.

use std::io;

use millstream_client::{
    ClientError,
    producer::{DeliveryError, SendError},
};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The brokers could not be reached, or refused a request.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The producer did not accept a record.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A record was not delivered.
    #[error("a record of {all} was not delivered: {first}")]
    Delivery {
        /// Records of the measurement.
        all: u64,
        /// Why the first one failed.
        first: DeliveryError,
    },
    /// Partitions of a new topic have no leader.
    #[error("{partitions} partitions have no leader")]
    Leaderless {
        /// Number of these partitions.
        partitions: usize,
    },
    /// The broker's process cannot be observed.
    #[error(
        "the processor time of process {pid} cannot be read: --pid names a broker's process on this machine"
    )]
    Process {
        /// Its id.
        pid: u32,
    },
    /// Records that were written were not read.
    #[error("only {read} of {written} record{} came back within {seconds} s", if *written == 1 { "" } else { "s" })]
    Records {
        /// Records that were read.
        read: u64,
        /// Records that were written.
        written: u64,
        /// Seconds without a record.
        seconds: u64,
    },
    /// A task of the measurement failed.
    #[error("measuring failed: {0}")]
    Task(io::Error),
}
