//! Connections: frames out, frames in, versions; and what several requests carry alike.

mod connection;
mod offsets;
mod versions;

pub(crate) use connection::{Connection, Pending};
pub(crate) use offsets::topics_to_commit;
pub(crate) use versions::Versions;
