//! What a topic can be configured with.

use std::collections::BTreeMap;

use millstream_model::{batch::{Codec, TimestampType}, limits};

use super::key::{self, ConfigError, ConfigKind, Key, Range, Values};

const MS_MAX: i64 = i64::MAX;

/// Every topic key, sorted by name.
pub const TOPIC_KEYS: &[Key] = &[
    Key {
        name: "cleanup.policy",
        kind: ConfigKind::List,
        default: "delete",
        range: Range::SomeOf(&["delete", "compact"]),
        documentation: "delete drops what is older or more than the retention allows; compact keeps the newest \
                        record of each key; both may be given.",
    },
    Key {
        name: "compression.type",
        kind: ConfigKind::String,
        default: "producer",
        range: Range::OneOf(&["producer"]),
        documentation: "producer keeps batches as they were sent.",
    },
    Key {
        name: "delete.retention.ms",
        kind: ConfigKind::Long,
        default: "86400000",
        range: Range::Number(0, MS_MAX),
        documentation: "How long a tombstone of a compacted topic stays readable.",
    },
    Key {
        name: "max.compaction.lag.ms",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        range: Range::Number(1, MS_MAX),
        documentation: "Longest time for which a record of a compacted topic may stay uncompacted.",
    },
    Key {
        name: "max.message.bytes",
        kind: ConfigKind::Int,
        default: "1048588",
        range: Range::Number(0, limits::BATCH_BYTES_MAX as i64),
        documentation: "Largest record batch that is taken, after compression.",
    },
    Key {
        name: "message.timestamp.after.max.ms",
        kind: ConfigKind::Long,
        default: "3600000",
        range: Range::Number(0, MS_MAX),
        documentation: "How far a record's timestamp may lie ahead of the broker's clock.",
    },
    Key {
        name: "message.timestamp.before.max.ms",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        range: Range::Number(0, MS_MAX),
        documentation: "How far a record's timestamp may lie behind the broker's clock.",
    },
    Key {
        name: "message.timestamp.type",
        kind: ConfigKind::String,
        default: "CreateTime",
        range: Range::OneOf(&["CreateTime", "LogAppendTime"]),
        documentation: "Whether a record's timestamp is the producer's or the broker's.",
    },
    Key {
        name: "min.cleanable.dirty.ratio",
        kind: ConfigKind::Double,
        default: "0.5",
        range: Range::Fraction(0.0, 1.0),
        documentation: "Share of uncompacted bytes from which a compacted partition is compacted.",
    },
    Key {
        name: "min.compaction.lag.ms",
        kind: ConfigKind::Long,
        default: "0",
        range: Range::Number(0, MS_MAX),
        documentation: "Shortest time for which a record of a compacted topic stays uncompacted.",
    },
    Key {
        name: "min.insync.replicas",
        kind: ConfigKind::Int,
        default: "1",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "Replicas that must hold a record before it is acknowledged; never less than a majority.",
    },
    Key {
        name: "retention.bytes",
        kind: ConfigKind::Long,
        default: "-1",
        range: Range::Number(-1, MS_MAX),
        documentation: "Most bytes of a partition that are kept; -1 is no bound.",
    },
    Key {
        name: "retention.ms",
        kind: ConfigKind::Long,
        default: "604800000",
        range: Range::Number(-1, MS_MAX),
        documentation: "How long records are kept; -1 is for ever.",
    },
    Key {
        name: "segment.bytes",
        kind: ConfigKind::Int,
        default: "1073741824",
        range: Range::Number(14, i32::MAX as i64),
        documentation: "Granularity of retention by size: so much may be kept beyond retention.bytes.",
    },
    Key {
        name: "segment.ms",
        kind: ConfigKind::Long,
        default: "604800000",
        range: Range::Number(1, MS_MAX),
        documentation: "Granularity of retention by time.",
    },
];

/// A topic's configuration, ready for use.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// Largest batch in bytes.
    pub max_message_bytes: usize,
    /// Whose clock stamps records.
    pub timestamp_type: TimestampType,
    /// Milliseconds that a timestamp may lie in the past.
    pub timestamp_before_max_ms: i64,
    /// Milliseconds that a timestamp may lie in the future.
    pub timestamp_after_max_ms: i64,
    /// Whether old records are dropped.
    pub delete: bool,
    /// Whether only the newest record of a key is kept.
    pub compact: bool,
    /// Milliseconds for which records are kept; `None` is for ever.
    pub retention_ms: Option<i64>,
    /// Bytes of a partition that are kept; `None` is no bound.
    pub retention_bytes: Option<u64>,
    /// Milliseconds for which tombstones stay.
    pub delete_retention_ms: i64,
    /// Milliseconds for which a record stays uncompacted.
    pub min_compaction_lag_ms: i64,
    /// Dirty share that starts a compaction.
    pub min_cleanable_dirty_ratio: f64,
    /// Codec that batches are brought to; `None` keeps the producer's.
    pub compression: Option<Codec>,
}

impl TopicConfig {
    /// Checks one key and its value.
    pub fn check(name: &str, value: &str) -> Result<(), ConfigError> {
        key::check(TOPIC_KEYS, name, value).map(|_| ())
    }

    /// The default of a key, if there is such a key.
    pub fn default_of(name: &str) -> Option<&'static str> {
        key::find(TOPIC_KEYS, name).ok().map(|key| key.default)
    }

    /// Reads values that [`check`](TopicConfig::check) allowed; keys that are not set have their defaults.
    pub fn from_values(set: &BTreeMap<String, String>) -> TopicConfig {
        let values = Values { keys: TOPIC_KEYS, set };
        let policies: Vec<_> = key::list(values.text("cleanup.policy")).collect();
        TopicConfig {
            max_message_bytes: values.number("max.message.bytes") as usize,
            timestamp_type: match values.text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppend,
                _ => TimestampType::Create,
            },
            timestamp_before_max_ms: values.number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: values.number("message.timestamp.after.max.ms"),
            delete: policies.contains(&"delete"),
            compact: policies.contains(&"compact"),
            retention_ms: Some(values.number("retention.ms")).filter(|&ms| ms >= 0),
            retention_bytes: u64::try_from(values.number("retention.bytes")).ok(),
            delete_retention_ms: values.number("delete.retention.ms"),
            min_compaction_lag_ms: values.number("min.compaction.lag.ms"),
            min_cleanable_dirty_ratio: values.fraction("min.cleanable.dirty.ratio"),
            compression: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_the_keys_are_sorted() {
        for key in TOPIC_KEYS {
            assert_eq!(key.check(key.default), Ok(()), "{}", key.name);
        }
        assert!(TOPIC_KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn a_refusal_names_key_value_and_range() {
        let refused = TopicConfig::check("max.message.bytes", "-1").expect_err("out of range");
        let text = refused.to_string();
        assert!(text.contains("max.message.bytes") && text.contains("-1") && text.contains("33554432"), "{text}");
        assert!(TopicConfig::check("cleanup.policy", "compact,compact").is_err());
        assert!(TopicConfig::check("no.such.key", "1").is_err());
    }

    #[test]
    fn values_that_are_set_win_over_defaults() {
        let set = BTreeMap::from([
            ("cleanup.policy".to_string(), "compact,delete".to_string()),
            ("retention.ms".to_string(), "-1".to_string()),
        ]);
        let config = TopicConfig::from_values(&set);
        assert!(config.compact && config.delete);
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.max_message_bytes, 1_048_588);
    }
}
