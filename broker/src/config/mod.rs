//! Configuration: what the operator gives at start, and the keys of topics and broker as Kafka names them.

mod broker;
mod key;
mod serve;
mod topic;

pub use broker::{BROKER_KEYS, BrokerConfig};
pub use key::{ConfigError, ConfigKind, Key, Range};
pub use serve::{ServeConfig, ServeOptions};
pub use topic::{TOPIC_KEYS, TopicConfig};
