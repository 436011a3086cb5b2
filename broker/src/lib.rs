//! The Millstream broker.

pub mod admin;
pub mod cli;
mod clock;
pub mod config;
mod housekeeping;
mod kafka;
mod net;
pub mod node;
pub mod partition;
pub mod service;
pub mod telemetry;
