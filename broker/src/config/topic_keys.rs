//! The table of topic keys: what each one does here, and what is taken only because clients set it.

use millstream_model::limits;

use super::key::{ConfigKind, Key, Range};

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

const fn one_of(
    name: &'static str,
    default: &'static str,
    all: &'static [&'static str],
    documentation: &'static str,
) -> Key {
    Key { name, kind: ConfigKind::String, default, range: Range::OneOf(all), documentation }
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
    int(
        "compression.gzip.level",
        "-1",
        (-1, 9),
        "Level of batches that the broker compresses. It stores batches as they were sent, so this has no effect.",
    ),
    int(
        "compression.lz4.level",
        "9",
        (1, 17),
        "Level of batches that the broker compresses. It stores batches as they were sent, so this has no effect.",
    ),
    one_of(
        "compression.type",
        "producer",
        &["producer"],
        "producer keeps batches as they were sent. The broker does not compress anew; set compression.type on the \
         producer instead.",
    ),
    int(
        "compression.zstd.level",
        "3",
        (-131072, 22),
        "Level of batches that the broker compresses. It stores batches as they were sent, so this has no effect.",
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
        "No effect: partitions have no files of their own. Space is free again when runs merge.",
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
        (0, limits::BATCH_BYTES_MAX as i64),
        "Largest record batch that is taken, after compression.",
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
    one_of(
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
        "Replicas that must hold a record before it is acknowledged; never less than a majority.",
    ),
    flag("preallocate", "false", "No effect: the log's files are always allocated ahead."),
    never("remote.copy.disable", "There is no remote storage to copy to; only false is taken."),
    never("remote.log.delete.on.disable", "There is no remote storage to delete from; only false is taken."),
    never("remote.storage.enable", "Remote storage is not available; only false is taken."),
    number("retention.bytes", "-1", (-1, MAX), "Most bytes of a partition that are kept; -1 is no bound."),
    number("retention.ms", "604800000", (-1, MAX), "How long records are kept; -1 is for ever."),
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
        "No effect: an index takes the room that it needs, at the end of its run.",
    ),
    number("segment.jitter.ms", "0", (0, MAX), "No effect: partitions do not roll files at the same time."),
    number("segment.ms", "604800000", (1, MAX), "No effect: partitions have no segments; see segment.bytes."),
    flag(
        "unclean.leader.election.enable",
        "false",
        "No effect: a leader is only ever elected by a majority, so it has every acknowledged record.",
    ),
];

const fn throttled(name: &'static str) -> Key {
    Key {
        name,
        kind: ConfigKind::List,
        default: "",
        range: Range::Any,
        documentation: "No effect: replication is paced by what the nodes can take, not per replica.",
    }
}
