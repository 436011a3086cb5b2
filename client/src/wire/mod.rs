//! Connections: frames out, frames in, versions.

mod connection;
mod versions;

pub(crate) use connection::{Connection, Pending};
pub(crate) use versions::Versions;
