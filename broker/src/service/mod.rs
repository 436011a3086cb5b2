//! Plain verbs: what a broker does for whoever asks, in no one's protocol.

mod bootstrap;
mod changes;
mod cluster;
mod configs;
mod data;
mod disk_headroom;
mod error;
mod facts;
mod groups;
mod inspect;
mod lag;
mod layers;
mod offsets_topic;
mod produce;
mod producers;
mod reconcile;
#[cfg(test)]
pub(crate) mod test_node;
mod topics;
mod turns;
mod types;

pub use changes::{Change, ChangeError, ConfigTurn, PendingChange};
pub use configs::BrokerScope;
pub(crate) use disk_headroom::DiskSample;
pub use disk_headroom::{FlushTrouble, WriteStop};
pub use error::{
    BrokerConfigError, ProduceError, ProducerIdError, RefusedRecord, RefusedRecords, TopicError,
};
pub use facts::BrokerFacts;
pub use groups::{
    CommittedOffset, GroupError, GroupExpiry, GroupView, Groups, JoinRefusal, JoinRequest, Joined,
    JoinedMember, ListedGroup, MemberRef, MemberView, OffsetEntry, SyncRequest, Synced, TopicOffsets,
};
pub(crate) use inspect::space_of;
pub use inspect::{ActiveProducer, DiskSpace};
pub use lag::{PartitionLag, RecordTimes, TopicLag};
pub use layers::GivenConfigs;
pub use produce::Queueing;
pub use reconcile::TopicRepair;
pub(crate) use topics::PARTITIONS_MAX;
pub use turns::Turns;
pub use types::{
    BrokerInfo, ConfigEntry, ConfigSource, Leadership, NewTopic, PartitionView, ProducePart, Produced,
    TopicView,
};

pub use crate::partition::{FetchError, FetchPart, Fetched, FoundOffset, OffsetQuery};
pub use cluster::ClusterHost;
pub use data::Service;
