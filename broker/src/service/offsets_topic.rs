//! `__consumer_offsets`, which tools expect to find where there are consumer groups.
//!
//! It is an ordinary topic that clients can describe, read and list, and that nothing is ever written to: what groups
//! commit is kept in their own state.

use super::{Change, NewTopic, Service, TopicError};

/// Kafka's name of the topic.
const NAME: &str = "__consumer_offsets";
/// The configuration that Kafka gives it.
const CONFIGS: [(&str, &str); 2] = [("cleanup.policy", "compact"), ("segment.bytes", "104857600")];

impl Service {
    /// Whether the topic for committed offsets exists.
    pub fn has_offsets_topic(&self) -> bool {
        self.topic(NAME).is_some()
    }

    /// Refuses what would change one of the broker's own topics.
    pub(super) fn check_not_internal(&self, name: &str) -> Result<(), TopicError> {
        match self.topic(name) {
            Some(view) if view.internal => Err(TopicError::Internal(view.name.clone())),
            _ => Ok(()),
        }
    }
}

impl Change {
    /// Creates the topic for committed offsets unless it exists. As in Kafka, that is when a coordinator is first looked for.
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
