//! The table of group keys. Kafka has them for the groups of KIP-848 and for share groups, which are not
//! supported: they have Kafka's defaults, for tools that read them, and cannot be set.

use super::key::{ConfigKind, Key, Range};

const INT_MAX: i64 = i32::MAX as i64;
const OF_CONSUMER: &str = "No effect: only classic groups are served, whose members choose it.";
const OF_SHARE: &str = "No effect: share groups are not served.";

const fn int(name: &'static str, default: &'static str, documentation: &'static str) -> Key {
    Key { name, kind: ConfigKind::Int, default, range: Range::Number(1, INT_MAX), documentation }
}

/// Every group key, sorted by name.
pub const GROUP_KEYS: &[Key] = &[
    int("consumer.heartbeat.interval.ms", "5000", OF_CONSUMER),
    int("consumer.session.timeout.ms", "45000", OF_CONSUMER),
    Key::one_of("share.auto.offset.reset", "latest", &["latest", "earliest"], OF_SHARE),
    int("share.heartbeat.interval.ms", "5000", OF_SHARE),
    Key::one_of(
        "share.isolation.level",
        "read_uncommitted",
        &["read_uncommitted", "read_committed"],
        OF_SHARE,
    ),
    int("share.record.lock.duration.ms", "30000", OF_SHARE),
    int("share.session.timeout.ms", "45000", OF_SHARE),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_the_keys_are_sorted() {
        for key in GROUP_KEYS {
            assert_eq!(key.check(key.default), Ok(()), "{}", key.name);
        }
        assert!(GROUP_KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
