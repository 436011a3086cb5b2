//! The table of topic keys: what each one does here, and which are accepted without effect because clients
//! set them.

use std::{collections::HashMap, sync::LazyLock};

use super::key::{self, ConfigError, ConfigKind, Key, Range};

const MAX: i64 = i64::MAX;
const INT_MAX: i64 = i32::MAX as i64;

const fn number(
    name: &'static str,
    default: &'static str,
    range: (i64, i64),
    documentation: &'static str,
) -> Key {
    Key { name, kind: ConfigKind::Long, default, range: Range::Number(range.0, range.1), documentation }
}

const fn int(
    name: &'static str,
    default: &'static str,
    range: (i64, i64),
    documentation: &'static str,
) -> Key {
    Key { name, kind: ConfigKind::Int, default, range: Range::Number(range.0, range.1), documentation }
}

const fn flag(name: &'static str, default: &'static str, documentation: &'static str) -> Key {
    Key { name, kind: ConfigKind::Boolean, default, range: Range::Bool, documentation }
}

const fn never(name: &'static str, documentation: &'static str) -> Key {
    Key { name, kind: ConfigKind::Boolean, default: "false", range: Range::OneOf(&["false"]), documentation }
}

/// Every topic key, sorted by name.
pub const TOPIC_KEYS: &[Key] = &[
    Key {
        name: "cleanup.policy",
        kind: ConfigKind::List,
        default: "delete",
        range: Range::SomeOf(&["delete", "compact"]),
        documentation: "delete drops what is older or more than the retention allows; compact keeps the newest \
                        record of each key; both may be given, and an empty list keeps everything.",
    },
    Key {
        name: "compression.gzip.level",
        kind: ConfigKind::Int,
        default: "-1",
        range: Range::NumberOr(-1, 1, 9),
        documentation: "Level of batches that the broker compresses because compression.type is gzip; -1 is the \
                        codec's default.",
    },
    int(
        "compression.lz4.level",
        "9",
        (1, 17),
        "No effect: batches that the broker compresses because compression.type is lz4 have the codec's fast level.",
    ),
    Key::one_of(
        "compression.type",
        "producer",
        &["uncompressed", "gzip", "snappy", "lz4", "zstd", "producer"],
        "producer keeps batches as they were sent, which costs the broker nothing. With any other value the broker \
         brings every batch to that codec before it stores it.",
    ),
    int(
        "compression.zstd.level",
        "3",
        (-131072, 22),
        "Level of batches that the broker compresses because compression.type is zstd.",
    ),
    number(
        "delete.retention.ms",
        "86400000",
        (0, MAX),
        "How long a tombstone of a compacted topic stays readable.",
    ),
    number(
        "file.delete.delay.ms",
        "60000",
        (0, MAX),
        "No effect: partitions have no files of their own. Space is freed when runs merge.",
    ),
    number(
        "flush.messages",
        "9223372036854775807",
        (1, MAX),
        "No effect: every record is on stable storage before it is acknowledged.",
    ),
    number(
        "flush.ms",
        "9223372036854775807",
        (0, MAX),
        "No effect: every record is on stable storage before it is acknowledged.",
    ),
    throttled("follower.replication.throttled.replicas"),
    int(
        "index.interval.bytes",
        "4096",
        (0, INT_MAX),
        "No effect: the distance of index entries is the same for all partitions of a run.",
    ),
    throttled("leader.replication.throttled.replicas"),
    number(
        "local.retention.bytes",
        "-2",
        (-2, MAX),
        "No effect while remote.storage.enable is false: all records are local.",
    ),
    number(
        "local.retention.ms",
        "-2",
        (-2, MAX),
        "No effect while remote.storage.enable is false: all records are local.",
    ),
    number(
        "max.compaction.lag.ms",
        "9223372036854775807",
        (1, MAX),
        "Longest time for which a record of a compacted topic may stay uncompacted.",
    ),
    int(
        "max.message.bytes",
        "1048588",
        (0, INT_MAX),
        "Largest accepted record batch, after compression. At most 64 KiB less than the \
         largest request (socket.request.max.bytes, a 16th of memory.bytes) and than three quarters of a log file \
         (wal.file.bytes).",
    ),
    flag(
        "message.downconversion.enable",
        "false",
        "No effect: only message format 2 is stored, and every client that can connect reads it.",
    ),
    number(
        "message.timestamp.after.max.ms",
        "3600000",
        (0, MAX),
        "How far a record's timestamp may lie ahead of the broker's clock.",
    ),
    number(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        (0, MAX),
        "How far a record's timestamp may lie behind the broker's clock.",
    ),
    Key::one_of(
        "message.timestamp.type",
        "CreateTime",
        &["CreateTime", "LogAppendTime"],
        "Whether a record's timestamp is the producer's or the broker's.",
    ),
    Key {
        name: "min.cleanable.dirty.ratio",
        kind: ConfigKind::Double,
        default: "0.5",
        range: Range::Fraction(0.0, 1.0),
        documentation: "Share of uncompacted bytes from which a compacted partition is compacted.",
    },
    number(
        "min.compaction.lag.ms",
        "0",
        (0, MAX),
        "Shortest time for which a record of a compacted topic stays uncompacted.",
    ),
    int(
        "min.insync.replicas",
        "1",
        (1, INT_MAX),
        "Replicas that must hold a record before it is acknowledged: never fewer than a majority, and never more than \
         the topic has.",
    ),
    flag("preallocate", "false", "No effect: the log's files are always allocated ahead."),
    never("remote.copy.disable", "There is no remote storage to copy to; only false is accepted."),
    never(
        "remote.log.delete.on.disable",
        "There is no remote storage to delete from; only false is accepted.",
    ),
    never("remote.storage.enable", "Remote storage is not available; only false is accepted."),
    number("retention.bytes", "-1", (-1, MAX), "Most bytes kept per partition; -1 is unlimited."),
    number("retention.ms", "604800000", (-1, MAX), "How long records are kept; -1 is unlimited."),
    int(
        "segment.bytes",
        "1073741824",
        (14, INT_MAX),
        "No effect: partitions have no segments. Retention drops pieces of runs, each about a 64th of what a run has of \
         the partition.",
    ),
    int(
        "segment.index.bytes",
        "10485760",
        (4, INT_MAX),
        "No effect: an index takes the space that it needs, at the end of its run.",
    ),
    number("segment.jitter.ms", "0", (0, MAX), "No effect: partitions do not roll files at the same time."),
    number("segment.ms", "604800000", (1, MAX), "No effect: partitions have no segments; see segment.bytes."),
    flag(
        "unclean.leader.election.enable",
        "false",
        "No effect: a leader is only ever elected by a majority, so it has every acknowledged record.",
    ),
];

/// The broker's names for defaults of topic keys that do not follow the pattern `log.` plus the topic's key.
const BROKER_NAMES: &[(&str, &str)] = &[
    ("compression.gzip.level", "compression.gzip.level"),
    ("compression.lz4.level", "compression.lz4.level"),
    ("compression.type", "compression.type"),
    ("compression.zstd.level", "compression.zstd.level"),
    ("delete.retention.ms", "log.cleaner.delete.retention.ms"),
    ("file.delete.delay.ms", "log.segment.delete.delay.ms"),
    ("flush.messages", "log.flush.interval.messages"),
    ("flush.ms", "log.flush.interval.ms"),
    ("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"),
    ("max.message.bytes", "message.max.bytes"),
    ("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio"),
    ("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms"),
    ("min.insync.replicas", "min.insync.replicas"),
    ("segment.index.bytes", "log.index.size.max.bytes"),
    ("segment.jitter.ms", "log.roll.jitter.ms"),
    ("segment.ms", "log.roll.ms"),
    ("unclean.leader.election.enable", "unclean.leader.election.enable"),
];

/// The broker's name for the default of a topic key.
pub fn broker_name(topic_key: &str) -> String {
    let named = BROKER_NAMES.iter().find(|(key, _)| *key == topic_key);
    named.map_or_else(|| format!("log.{topic_key}"), |(_, name)| name.to_string())
}

/// The topic key whose default this broker key sets.
pub fn topic_key_of(broker_key: &str) -> Option<&'static str> {
    static TOPIC_KEY_OF: LazyLock<HashMap<String, &'static str>> =
        LazyLock::new(|| TOPIC_KEYS.iter().map(|key| (broker_name(key.name), key.name)).collect());
    TOPIC_KEY_OF.get(broker_key).copied()
}

/// Broker keys that set a default in a coarser unit than the topic's key, and the conversion factor. They are
/// read at start; if several are given, the finest counts, which is the last by name.
const COARSER: &[(&str, &str, i64)] = &[
    ("log.retention.hours", "retention.ms", 3_600_000),
    ("log.retention.minutes", "retention.ms", 60_000),
    ("log.roll.hours", "segment.ms", 3_600_000),
    ("log.roll.jitter.hours", "segment.jitter.ms", 3_600_000),
];

/// The topic key and its value for a broker key in a coarser unit; `None` for other keys.
pub(super) fn in_topic_units(
    broker_key: &str,
    value: &str,
) -> Option<Result<(&'static str, String), ConfigError>> {
    let (_, topic_key, unit) = COARSER.iter().find(|(name, ..)| *name == broker_key)?;
    let fine = match value.parse::<i64>() {
        // Unlimited in either unit.
        Ok(-1) => Some("-1".to_string()),
        other => other.ok().and_then(|n| n.checked_mul(*unit)).map(|n| n.to_string()),
    };
    let fine = fine.filter(|fine| key::check(TOPIC_KEYS, topic_key, fine).is_ok());
    Some(fine.map(|fine| (*topic_key, fine)).ok_or_else(|| ConfigError::Value {
        key: broker_key.to_string(),
        value: value.to_string(),
        allowed: format!("a whole number that {topic_key} can have as milliseconds"),
    }))
}

const fn throttled(name: &'static str) -> Key {
    Key {
        name,
        kind: ConfigKind::List,
        default: "",
        range: Range::Any,
        documentation: "No effect: replication is limited only by the nodes' capacity, not per replica.",
    }
}
