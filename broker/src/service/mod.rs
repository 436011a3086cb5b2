//! Plain verbs: what a broker does for whoever asks, in no one's protocol.

mod cluster;
mod configs;
mod data;
mod error;
mod producers;
mod topics;
mod types;

pub use error::{ProduceError, ProducerIdError, TopicError};
pub use types::{
    BrokerInfo, ConfigEntry, ConfigSource, Leadership, NewTopic, PartitionView, ProducePart, Produced, TopicView,
};

pub use crate::partition::{FetchError, FetchPart, Fetched, FoundOffset, OffsetQuery};
pub use cluster::ClusterHost;
pub use data::Service;
