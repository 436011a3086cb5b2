//! The Millstream broker.
#![allow(missing_docs)] // Not a published crate: docs only where they add to the name.

pub mod admin;
pub mod clock;
pub mod config;
pub mod console;
mod housekeeping;
mod kafka;
mod memory_pressure;
mod net;
pub mod node;
pub mod partition;
mod reload;
pub mod service;
pub mod signals;
pub mod suggest;
pub mod telemetry;
