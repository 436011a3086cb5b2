//! All replicated decisions of Millstream, as pure state machines.
//!
//! A machine is a value: commands go in, replies and effects come out. Nothing here does I/O, reads a clock
//! or draws a random number, so replicas that apply the same commands hold the same bytes.
//!
//! Every command begins with a version and a kind. A command that this build does not know is an error, and
//! the caller must not skip it.

pub mod cluster;
pub mod group;
pub mod partition;
mod wire;

pub use wire::DecodeError;
