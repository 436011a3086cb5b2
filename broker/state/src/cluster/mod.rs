//! The replicated metadata of the cluster: brokers, topics, configurations, features, and allocated ids.

mod command;
mod error;
mod machine;
mod names;
mod placement;
mod snapshot;
mod topic;

pub use command::{
    ClusterCommand, decode, encode_adopt_partition, encode_allocate_producer_ids,
    encode_alter_broker_configs, encode_alter_topic_configs, encode_bootstrap, encode_create_partitions,
    encode_create_topic, encode_delete_topic, encode_register_broker, encode_unregister_broker,
    encode_update_features,
};
pub use error::ClusterError;
pub use machine::{ClusterMachine, ClusterReply, ClusterResult, PARTITIONS_MAX, SHARDS_MAX, TOPICS_MAX};
pub use names::{TopicNameError, cluster_id_text, is_internal, validate_topic_name};
pub use placement::{Candidate, narrow, place};
pub use snapshot::ClusterSnapshot;
pub use topic::{Broker, Extent, Extents, Partition, Topic};

#[cfg(test)]
mod tests;
