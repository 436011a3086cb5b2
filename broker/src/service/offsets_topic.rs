//! `__consumer_offsets`, which tools expect on a cluster with consumer groups.
//!
//! Clients can list, describe and read it as any topic, but it is always empty: committed offsets are part of the groups'
//! replicated state.

use super::{Change, NewTopic, Service, TopicError};

const NAME: &str = "__consumer_offsets";
/// The topic's configuration in Kafka.
const CONFIGS: [(&str, &str); 2] = [("cleanup.policy", "compact"), ("segment.bytes", "104857600")];

impl Service {
    pub fn has_offsets_topic(&self) -> bool {
        self.topic(NAME).is_some()
    }

    /// Fails for internal topics.
    pub(super) fn check_not_internal(&self, name: &str) -> Result<(), TopicError> {
        match self.topic(name) {
            Some(view) if view.internal => Err(TopicError::Internal(view.name.clone())),
            _ => Ok(()),
        }
    }
}

impl Change {
    /// Creates the topic unless it exists. As in Kafka, called at the first coordinator lookup.
    pub async fn create_offsets_topic(&self) -> Result<(), TopicError> {
        let configs = CONFIGS.map(|(key, value)| (key.to_string(), Some(value.to_string())));
        let new = NewTopic {
            name: NAME.to_string(),
            partitions: 1,
            replication_factor: -1,
            configs: configs.to_vec(),
            ..NewTopic::default()
        };
        match self.create_topic(new, false).await {
            Ok(_) | Err(TopicError::AlreadyExists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
