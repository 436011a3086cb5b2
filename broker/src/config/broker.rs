//! The broker's configuration keys: `--set key=value`, or lines of the configuration file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use millstream_model::limits;
use millstream_state::group::GroupConfig;
use millstream_store::wal;

use super::{
    key::{self, ConfigError, ConfigKind, Key, Range, Values},
    memory::{MemoryBudget, Shares},
};

const MIB: i64 = 1 << 20;
/// The volume must have space for at least this many log files.
const LOG_FILES_PER_VOLUME_MIN: u64 = 8;
/// Smallest length of a log's first file, and so of all files.
const LOG_FILE_BYTES_MIN: u64 = 4 << 20;
/// Two requests of the largest size must fit into the memory for requests: otherwise each could wait for the
/// other.
const REQUESTS_MIN: usize = 2;

/// Every broker key, sorted by name.
pub const BROKER_KEYS: &[Key] = &[
    Key {
        name: "auto.create.topics.enable",
        kind: ConfigKind::Boolean,
        default: "true",
        range: Range::Bool,
        documentation: "Whether a client's request for the metadata of an unknown topic creates it.",
    },
    Key {
        name: "connections.max",
        kind: ConfigKind::Int,
        default: "12000",
        range: Range::Number(1, 1_000_000),
        documentation: "Most open connections, fewer if the limit on open files (ulimit -Hn) is low. When all are in use, a new connection replaces the one that has been idle longest, for at least 5 seconds, or is closed.",
    },
    Key {
        name: "connections.max.per.ip",
        kind: ConfigKind::Int,
        default: "12000",
        range: Range::Number(1, 1_000_000),
        documentation: "Most connections from one address.",
    },
    Key {
        name: "default.replication.factor",
        kind: ConfigKind::Int,
        default: "1",
        range: Range::Number(1, 1),
        documentation: "Default number of replicas of a topic; a single node has one.",
    },
    Key {
        name: "disk.low.bytes",
        kind: ConfigKind::Long,
        default: "67108864",
        range: Range::Number(0, i64::MAX),
        documentation: "Free space below which produce is refused with a retriable error; reads and deletes continue.",
    },
    Key {
        name: "follower.replication.throttled.rate",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        range: Range::Number(0, i64::MAX),
        documentation: "No effect: replication is limited only by the nodes' capacity. Accepted because Kafka's reassignment tool sets and clears it.",
    },
    Key {
        name: "group.initial.rebalance.delay.ms",
        kind: ConfigKind::Int,
        default: "0",
        range: Range::Number(0, 600_000),
        documentation: "How long an empty group waits for more members after its first.",
    },
    Key {
        name: "group.max.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "1800000",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "Longest session timeout that a group member may request.",
    },
    Key {
        name: "group.max.size",
        kind: ConfigKind::Int,
        default: "10000",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "Most members of one group.",
    },
    Key {
        name: "group.min.session.timeout.ms",
        kind: ConfigKind::Int,
        default: "6000",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "Shortest session timeout that a group member may request.",
    },
    Key {
        name: "groups.bytes.max",
        kind: ConfigKind::Long,
        default: "1073741824",
        range: Range::Number(MIB, 65536 * MIB),
        documentation: "Most memory for members, offsets and metadata of all consumer groups. Beyond it new members and offsets are refused; existing offsets can be committed again. Default: half of memory.bytes, at least 64 MiB.",
    },
    Key {
        name: "http.admin.token.file",
        kind: ConfigKind::String,
        default: "",
        range: Range::Any,
        documentation: "A file with a one-line token, which every request to /v1 must then have (Authorization: Bearer TOKEN). It is read for each request. Without it /v1 refuses changes if the HTTP port is bound to an address that is not loopback.",
    },
    Key {
        name: "http.allowed.hosts",
        kind: ConfigKind::List,
        default: "",
        range: Range::Any,
        documentation: "Host names that /v1 accepts, separated by commas, in addition to localhost, the bound address and the name in --http-addr. Others are refused, which stops web pages that use DNS rebinding.",
    },
    Key {
        name: "leader.replication.throttled.rate",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        range: Range::Number(0, i64::MAX),
        documentation: "No effect: replication is limited only by the nodes' capacity. Accepted because Kafka's reassignment tool sets and clears it.",
    },
    Key {
        name: "log.retention.check.interval.ms",
        kind: ConfigKind::Long,
        default: "300000",
        range: Range::Number(1, i64::MAX),
        documentation: "Interval of retention checks. While the disk is low they run continuously.",
    },
    Key {
        name: "memory.bytes",
        kind: ConfigKind::Long,
        default: "-1",
        range: Range::Number(-1, 1 << 50),
        documentation: "Memory budget from which the broker's limits are derived, at least 64 MiB; -1 is a quarter of the memory that the process may use, at most 2 GiB: of the machine's memory, or of the smallest limit of its control group and the ancestors. Sockets are not read while it is exhausted.",
    },
    Key {
        name: "memtable.bytes",
        kind: ConfigKind::Long,
        default: "67108864",
        range: Range::Number(MIB, 4096 * MIB),
        documentation: "Log memory held by committed batches at which they are flushed to a run. Default: a 32nd of memory.bytes.",
    },
    Key {
        name: "num.partitions",
        kind: ConfigKind::Int,
        default: "1",
        range: Range::Number(1, 100_000),
        documentation: "Default number of partitions of a topic.",
    },
    Key {
        name: "offset.metadata.max.bytes",
        kind: ConfigKind::Int,
        default: "4096",
        range: Range::Number(0, 1_048_576),
        documentation: "Longest metadata that a client may commit with an offset.",
    },
    Key {
        name: "offsets.retention.minutes",
        kind: ConfigKind::Int,
        default: "10080",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "How long the offsets of an empty group are kept.",
    },
    Key {
        name: "producer.id.expiration.check.interval.ms",
        kind: ConfigKind::Int,
        default: "60000",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "Interval of checks for idempotent producers whose state has expired.",
    },
    Key {
        name: "producer.id.expiration.ms",
        kind: ConfigKind::Int,
        default: "86400000",
        range: Range::Number(1, i32::MAX as i64),
        documentation: "How long the state of an idle idempotent producer is kept.",
    },
    Key {
        name: "read.cache.bytes",
        kind: ConfigKind::Long,
        default: "67108864",
        range: Range::Number(MIB, 65536 * MIB),
        documentation: "Most memory for cached blocks of runs. Default: a 32nd of memory.bytes.",
    },
    Key {
        name: "replica.alter.log.dirs.io.max.bytes.per.second",
        kind: ConfigKind::Long,
        default: "9223372036854775807",
        range: Range::Number(0, i64::MAX),
        documentation: "No effect: there is one data directory. Accepted because Kafka's reassignment tool sets and clears it.",
    },
    Key {
        name: "socket.request.max.bytes",
        kind: ConfigKind::Int,
        default: "104857600",
        range: Range::Number(1024, i32::MAX as i64),
        documentation: "Largest request; never more than a 16th of memory.bytes.",
    },
    Key {
        name: "socket.send.buffer.bytes",
        kind: ConfigKind::Int,
        default: "262144",
        range: Range::NumberOr(-1, 4096, 64 * MIB),
        documentation: "Send buffer of a client's connection: large fetches are faster in pieces that fit into the processor's cache. It limits a connection to this many bytes per round trip, which matters on links with a long one; -1 lets the system choose and grow it.",
    },
    Key {
        name: "wal.checkpoint.bytes",
        kind: ConfigKind::Long,
        default: "268435456",
        range: Range::Number(16 * MIB, 65536 * MIB),
        documentation: "Log size at which state is checkpointed so that log files can be recycled.",
    },
    Key {
        name: "wal.file.bytes",
        kind: ConfigKind::Long,
        default: "67108864",
        range: Range::Number(64 * MIB, wal::FILE_BYTES_MAX as i64),
        documentation: "Size of one log file; less on a volume smaller than eight of them.",
    },
    Key {
        name: "wal.gather.max.us",
        kind: ConfigKind::Int,
        default: "300",
        range: Range::Number(0, 10_000),
        documentation: "Longest wait of a log write for more requests, in microseconds, when many independent requests arrive; three times as long after a write of 64 KiB or more. It saves up to half of the processor time. 0 never waits.",
    },
    Key {
        name: "wal.writer.priority",
        kind: ConfigKind::Int,
        default: "10",
        range: Range::Number(0, 99),
        documentation: "Real-time priority (SCHED_FIFO) of the log's writer thread while records arrive one by one, so that none of them waits for a processor behind other threads. It needs CAP_SYS_NICE or a limit that permits it (LimitRTPRIO=10, ulimit -r); otherwise a log line says so at the start and the thread has ordinary priority. 0 disables it.",
    },
];

/// Keys that can change while the broker runs: their users read them each time.
const CHANGEABLE: &[&str] = &[
    "auto.create.topics.enable",
    "disk.low.bytes",
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "num.partitions",
    "offsets.retention.minutes",
    "producer.id.expiration.ms",
    "replica.alter.log.dirs.io.max.bytes.per.second",
    "wal.checkpoint.bytes",
];

/// The parsed configuration of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Whether metadata requests create topics.
    pub auto_create_topics: bool,
    /// Most open connections.
    pub connections_max: usize,
    /// Most open connections from one address.
    pub connections_per_ip_max: usize,
    /// Default number of replicas of a topic.
    pub default_replication_factor: i16,
    /// Free bytes below which produce is refused.
    pub disk_low_bytes: u64,
    /// Limits of consumer groups.
    pub groups: GroupConfig,
    /// File with the token for the HTTP API.
    pub http_token_file: Option<PathBuf>,
    /// Host names that the HTTP API accepts.
    pub http_allowed_hosts: Vec<String>,
    /// Log memory in use from which the memtable is flushed.
    pub log_memory_bytes: usize,
    /// The budget from which memory limits are derived.
    pub memory: MemoryBudget,
    /// Memtable size that starts a flush.
    pub memtable_bytes: usize,
    /// Default number of partitions of a topic.
    pub num_partitions: u32,
    /// Longest metadata of a committed offset.
    pub offset_metadata_bytes_max: usize,
    /// Milliseconds for which offsets of an empty group are kept.
    pub offsets_retention_ms: i64,
    /// Milliseconds between two checks for idle producers.
    pub producer_id_check_ms: u64,
    /// Milliseconds for which an idle producer's state is kept.
    pub producer_id_expiration_ms: i64,
    /// Most bytes of a decompressed batch that are in memory at a time.
    pub decompressed_bytes_max: usize,
    /// Bytes of the block cache.
    pub read_cache_bytes: usize,
    /// Largest request in bytes.
    pub request_bytes_max: usize,
    /// Most bytes of records in replies to consumers.
    pub replies_bytes_max: usize,
    /// Most bytes of all requests in flight.
    pub requests_bytes_max: usize,
    /// Milliseconds between two rounds of retention.
    pub retention_check_ms: u64,
    /// Send buffer of a client's connection; the system's default if `None`.
    pub send_buffer_bytes: Option<usize>,
    /// Log bytes that start a checkpoint.
    pub wal_checkpoint_bytes: u64,
    /// Bytes of one log file.
    pub wal_file_bytes: u64,
    /// How long a short write of the log may wait for more calls.
    pub wal_gather: Duration,
    /// Real-time priority of the log's writer thread; 0 for none.
    pub wal_writer_priority: u8,
}

impl BrokerConfig {
    /// Validates one key and its value.
    pub fn check(name: &str, value: &str) -> Result<(), ConfigError> {
        key::check(BROKER_KEYS, name, value).map(|_| ())
    }

    /// The default of a key, if the key exists.
    pub fn default_of(name: &str) -> Option<&'static str> {
        key::find(BROKER_KEYS, name).ok().map(|key| key.default)
    }

    /// Largest request that the memory allows.
    pub(super) fn request_bytes_of_memory(&self) -> usize {
        self.requests_bytes_max / REQUESTS_MIN
    }

    /// Length of log files on a volume of this size: `wal.file.bytes`, less on a small one. Two files are
    /// created ahead, which must not be most of it.
    pub fn log_file_bytes(&self, volume_bytes: Option<u64>) -> u64 {
        let part = volume_bytes.map_or(u64::MAX, |all| all / LOG_FILES_PER_VOLUME_MIN);
        match part {
            small if small < self.wal_file_bytes => small.next_multiple_of(1 << 20).max(LOG_FILE_BYTES_MIN),
            _ => self.wal_file_bytes,
        }
    }

    /// Smallest volume on which the broker can write its memory and its log without falling below the
    /// threshold of free space.
    pub fn volume_bytes_min(&self, log_file_bytes: u64) -> u64 {
        let memory = 2 * self.memtable_bytes as u64;
        self.disk_low_bytes.saturating_add(memory).saturating_add(4 * log_file_bytes)
    }

    /// Whether a key can change while the broker runs.
    pub fn is_changeable(name: &str) -> bool {
        CHANGEABLE.contains(&name)
    }

    /// The keys that can change while the broker runs, sorted.
    pub fn changeable() -> impl Iterator<Item = &'static str> {
        CHANGEABLE.iter().copied()
    }

    /// Parses values that [`check`](BrokerConfig::check) accepted.
    pub fn from_values(set: &BTreeMap<String, String>) -> BrokerConfig {
        let values = Values { keys: BROKER_KEYS, set };
        let memory = MemoryBudget::new(u64::try_from(values.number("memory.bytes")).ok());
        let shares = Shares::of(memory.bytes);
        let set_or = |name: &str, share: u64| {
            if set.contains_key(name) { values.number(name) as usize } else { share as usize }
        };
        let requests_bytes_max = shares.requests as usize;
        BrokerConfig {
            auto_create_topics: values.flag("auto.create.topics.enable"),
            connections_max: values.number("connections.max") as usize,
            connections_per_ip_max: values.number("connections.max.per.ip") as usize,
            default_replication_factor: values.number("default.replication.factor") as i16,
            disk_low_bytes: values.number("disk.low.bytes") as u64,
            groups: GroupConfig {
                session_timeout_min_ms: values.number("group.min.session.timeout.ms") as i32,
                session_timeout_max_ms: values.number("group.max.session.timeout.ms") as i32,
                initial_rebalance_delay_ms: values.number("group.initial.rebalance.delay.ms") as u64,
                members_max: values.number("group.max.size") as usize,
                bytes_max: set_or("groups.bytes.max", shares.groups),
                ..GroupConfig::default()
            },
            http_token_file: Some(values.text("http.admin.token.file"))
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            http_allowed_hosts: key::list(values.text("http.allowed.hosts")).map(str::to_string).collect(),
            log_memory_bytes: (shares.log as usize).max(2 * set_or("memtable.bytes", shares.memtable)),
            memory,
            memtable_bytes: set_or("memtable.bytes", shares.memtable),
            num_partitions: values.number("num.partitions") as u32,
            offset_metadata_bytes_max: values.number("offset.metadata.max.bytes") as usize,
            offsets_retention_ms: values.number("offsets.retention.minutes") * 60_000,
            decompressed_bytes_max: limits::DECOMPRESSED_BYTES_MAX.min(shares.opened as usize),
            producer_id_check_ms: values.number("producer.id.expiration.check.interval.ms") as u64,
            producer_id_expiration_ms: values.number("producer.id.expiration.ms"),
            read_cache_bytes: set_or("read.cache.bytes", shares.read_cache),
            request_bytes_max: (values.number("socket.request.max.bytes") as usize)
                .min(requests_bytes_max / REQUESTS_MIN),
            replies_bytes_max: shares.replies as usize,
            requests_bytes_max,
            retention_check_ms: values.number("log.retention.check.interval.ms") as u64,
            send_buffer_bytes: usize::try_from(values.number("socket.send.buffer.bytes")).ok(),
            wal_checkpoint_bytes: values.number("wal.checkpoint.bytes") as u64,
            wal_file_bytes: values.number("wal.file.bytes") as u64,
            wal_gather: Duration::from_micros(values.number("wal.gather.max.us") as u64),
            wal_writer_priority: values.number("wal.writer.priority") as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_files_are_as_configured_unless_the_volume_is_small() {
        let config = BrokerConfig::from_values(&Default::default());
        let of_mib = |mib: u64| config.log_file_bytes(Some(mib << 20)) >> 20;
        assert_eq!(config.log_file_bytes(None), config.wal_file_bytes);
        assert_eq!((of_mib(1 << 20), of_mib(512), of_mib(504), of_mib(100), of_mib(1)), (64, 64, 63, 13, 4));
        let needed = config.disk_low_bytes + 2 * config.memtable_bytes as u64 + 4 * (13 << 20);
        assert_eq!(config.volume_bytes_min(13 << 20), needed);
    }

    #[test]
    fn every_default_is_allowed_and_the_keys_are_sorted() {
        for key in BROKER_KEYS {
            assert_eq!(key.check(key.default), Ok(()), "{}", key.name);
        }
        assert!(BROKER_KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn bounds_follow_the_memory_unless_they_are_set() {
        let config = |pairs: &[(&str, &str)]| {
            let set = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            BrokerConfig::from_values(&set.collect())
        };
        let bounds = |c: &BrokerConfig| {
            [
                c.memtable_bytes,
                c.read_cache_bytes,
                c.requests_bytes_max,
                c.request_bytes_max,
                c.log_memory_bytes,
            ]
            .map(|bytes| bytes >> 20)
        };
        assert_eq!(bounds(&config(&[("memory.bytes", "2147483648")])), [64, 64, 256, 100, 256]);
        assert_eq!(bounds(&config(&[("memory.bytes", "268435456")])), [8, 8, 32, 16, 32]);
        assert_eq!(
            bounds(&config(&[("memory.bytes", "1")])),
            bounds(&config(&[("memory.bytes", "67108864")]))
        );
        let set =
            [("memory.bytes", "268435456"), ("memtable.bytes", "67108864"), ("read.cache.bytes", "1048576")];
        assert_eq!(bounds(&config(&set)), [64, 1, 32, 16, 128]);
        let given = bounds(&config(&[]));
        assert!(given[0] >= 2 && given[0] <= 64 && given[2] == 4 * given[0], "{given:?}");
    }

    #[test]
    fn what_can_change_exists() {
        assert!(BrokerConfig::changeable().all(|key| BrokerConfig::default_of(key).is_some()));
        assert!(CHANGEABLE.is_sorted());
    }
}
