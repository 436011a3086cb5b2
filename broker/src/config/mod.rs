//! Configuration: the options at start, and the keys of topics and broker with Kafka's names.

mod address;
mod batch_limit;
mod broker;
#[cfg(test)]
mod document;
mod group_keys;
mod key;
mod memory;
mod memory_limit;
mod serve;
mod topic;
mod topic_keys;

pub use address::{Address, AddressError};
pub use batch_limit::BatchLimit;
pub use broker::{BROKER_KEYS, BrokerConfig};
pub use group_keys::GROUP_KEYS;
pub use key::{ConfigError, ConfigKind, Key, Range};
pub use memory::MemoryBudget;
pub use serve::{ServeConfig, ServeConfigError, ServeOptions};
pub use topic::TopicConfig;
pub use topic_keys::{TOPIC_KEYS, broker_name, topic_key_of};
