//! The Millstream broker.

pub mod admin;
pub mod cli;
mod clock;
pub mod config;
#[cfg(test)]
mod generated;
mod housekeeping;
mod kafka;
mod near;
mod net;
pub mod node;
pub mod partition;
pub mod service;
mod shortage;
mod signals;
pub mod telemetry;
