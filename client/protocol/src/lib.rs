//! The Kafka wire format, shared by client and broker.

mod error_code;

pub use error_code::ErrorCode;
