//! Every replicated decision of Millstream, as pure state machines.
//!
//! A machine is a value: commands go in, replies and effects come out. Nothing here does input or output, looks
//! at a clock or draws a random number, so that replicas which apply the same commands hold the same bytes.
//!
//! Every command begins with a version and a kind. A command that this build does not know is an error that its
//! caller must not pass over.

pub mod cluster;
pub mod group;
pub mod partition;
mod wire;

pub use wire::DecodeError;
