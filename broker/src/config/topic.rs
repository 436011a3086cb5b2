//! The configuration of topics.

use std::collections::BTreeMap;

use millstream_model::batch::{Codec, TimestampType};

use super::{
    key::{self, ConfigError, Values},
    topic_keys::TOPIC_KEYS,
};

/// The compression of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// Its level; `None` is the codec's default.
    pub level: Option<i32>,
}

/// The parsed configuration of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// Largest batch in bytes.
    pub max_message_bytes: usize,
    /// Whose clock sets the timestamps of records.
    pub timestamp_type: TimestampType,
    /// How far a timestamp may lie in the past, in milliseconds.
    pub timestamp_before_max_ms: i64,
    /// How far a timestamp may lie in the future, in milliseconds.
    pub timestamp_after_max_ms: i64,
    /// Whether old records are deleted.
    pub delete: bool,
    /// Whether only the newest record of a key is kept.
    pub compact: bool,
    /// Milliseconds for which records are kept; `None` for unlimited.
    pub retention_ms: Option<i64>,
    /// Bytes that are kept per partition; `None` for unlimited.
    pub retention_bytes: Option<u64>,
    /// Milliseconds for which tombstones stay.
    pub delete_retention_ms: i64,
    /// Shortest time for which a record stays uncompacted, in milliseconds.
    pub min_compaction_lag_ms: i64,
    /// Longest time for which a record stays uncompacted, in milliseconds.
    pub max_compaction_lag_ms: i64,
    /// Dirty share that starts a compaction.
    pub min_cleanable_dirty_ratio: f64,
    /// Replicas that must have a record before it is acknowledged, if there are that many.
    pub min_insync_replicas: usize,
    /// The compression of stored batches; `None` keeps the producer's.
    pub compression: Option<Compression>,
}

impl TopicConfig {
    /// Validates one key and its value.
    pub fn check(name: &str, value: &str) -> Result<(), ConfigError> {
        key::check(TOPIC_KEYS, name, value).map(|_| ())
    }

    /// The default of a key, if the key exists.
    pub fn default_of(name: &str) -> Option<&'static str> {
        key::find(TOPIC_KEYS, name).ok().map(|key| key.default)
    }

    /// Parses values that [`check`](TopicConfig::check) accepted; keys that are not set have their defaults.
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
            max_compaction_lag_ms: values.number("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: values.fraction("min.cleanable.dirty.ratio"),
            min_insync_replicas: values.number("min.insync.replicas") as usize,
            compression: compression(&values),
        }
    }
}

impl TopicConfig {
    /// Why values that are valid on their own conflict.
    pub fn check_together(&self) -> Result<(), String> {
        let (min, max) = (self.min_compaction_lag_ms, self.max_compaction_lag_ms);
        if min > max {
            return Err(format!(
                "min.compaction.lag.ms ({min}) is more than max.compaction.lag.ms ({max}): a record cannot have to be \
                 compacted before it may be"
            ));
        }
        Ok(())
    }
}

fn compression(values: &Values<'_>) -> Option<Compression> {
    let level = |name: &str| i32::try_from(values.number(name)).ok();
    let (codec, level) = match values.text("compression.type") {
        "uncompressed" => (Codec::None, None),
        "gzip" => (Codec::Gzip, level("compression.gzip.level").filter(|&level| level != -1)),
        "snappy" => (Codec::Snappy, None),
        "lz4" => (Codec::Lz4, None),
        "zstd" => (Codec::Zstd, level("compression.zstd.level")),
        _ => return None,
    };
    Some(Compression { codec, level })
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
        assert!(
            text.contains("max.message.bytes") && text.contains("-1") && text.contains("2147483647"),
            "{text}"
        );
        assert!(TopicConfig::check("cleanup.policy", "compact,compact").is_err());
        assert!(TopicConfig::check("no.such.key", "1").is_err());
        assert!(
            TopicConfig::check("compression.type", "none")
                .expect_err("")
                .to_string()
                .contains("uncompressed")
        );
        assert!(TopicConfig::check("compression.gzip.level", "0").is_err());
        assert!(TopicConfig::check("compression.gzip.level", "-1").is_ok());
    }

    #[test]
    fn keys_that_mean_nothing_here_are_taken_within_kafkas_ranges() {
        for (key, value) in [
            ("flush.messages", "1"),
            ("leader.replication.throttled.replicas", "*"),
            ("follower.replication.throttled.replicas", "0:1,1:2"),
            ("remote.storage.enable", "false"),
            ("local.retention.ms", "-2"),
            ("unclean.leader.election.enable", "true"),
            ("cleanup.policy", ""),
        ] {
            assert_eq!(TopicConfig::check(key, value), Ok(()), "{key}");
        }
        for (key, value) in [("flush.ms", "soon"), ("remote.storage.enable", "true"), ("preallocate", "yes")]
        {
            assert!(TopicConfig::check(key, value).is_err(), "{key}");
        }
    }

    #[test]
    fn a_key_says_what_it_does_here() {
        for key in TOPIC_KEYS {
            assert!(key.documentation.len() > 20 && key.documentation.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn a_codec_comes_with_its_own_level() {
        let compression = |pairs: &[(&str, &str)]| {
            let set = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            TopicConfig::from_values(&set.collect()).compression.map(|c| (c.codec, c.level))
        };
        assert_eq!(compression(&[]), None);
        let levels = [("compression.gzip.level", "9"), ("compression.zstd.level", "-5")];
        let with = |codec| compression(&[levels[0], levels[1], ("compression.type", codec)]);
        assert_eq!(with("producer"), None);
        assert_eq!(with("uncompressed"), Some((Codec::None, None)));
        assert_eq!(with("gzip"), Some((Codec::Gzip, Some(9))));
        assert_eq!(with("snappy"), Some((Codec::Snappy, None)));
        assert_eq!(with("lz4"), Some((Codec::Lz4, None)));
        assert_eq!(with("zstd"), Some((Codec::Zstd, Some(-5))));
        assert_eq!(compression(&[("compression.type", "gzip")]), Some((Codec::Gzip, None)));
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
