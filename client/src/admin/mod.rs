//! The admin: topics, configurations, offsets, groups, data directories.

mod configs;
mod group_offsets;
mod groups;
mod log_dirs;
mod offsets;
mod topics;

use crate::Cluster;

pub use configs::{ConfigChange, ConfigEntry, ConfigOf, ConfigOrigin};
pub use groups::{GroupDescription, GroupMember, GroupSummary};
pub use log_dirs::LogDir;
pub(crate) use offsets::find_starts;
pub use offsets::{FoundOffset, OffsetAt};
pub use topics::NewTopic;

/// Asks a cluster to change or describe what it has.
#[derive(Clone)]
pub struct Admin {
    cluster: Cluster,
}

impl Admin {
    /// An admin of a cluster.
    pub fn new(cluster: Cluster) -> Admin {
        Admin { cluster }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}
