//! The largest record batch that a broker with its memory and its log can take.

use millstream_store::wal;

use super::{BrokerConfig, ConfigError};

/// The topic key that this bounds.
const KEY: &str = "max.message.bytes";
/// Room for what is around a batch, in its request and in its entry of the log.
const AROUND_BYTES: usize = 64 << 10;
/// The smaller part of a small limit that is room for what is around.
const AROUND_SHARE: usize = 4;

/// Most bytes of a record batch, and what would allow more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit {
    /// Most bytes of a batch.
    pub bytes: usize,
    reason: &'static str,
}

impl BatchLimit {
    /// The limit of a broker whose log has files of this length.
    pub fn new(config: &BrokerConfig, log_file_bytes: u64) -> BatchLimit {
        let request = config.request_bytes_max;
        let of_memory = request == config.request_bytes_of_memory();
        let of_log = wal::payload_bytes_max(log_file_bytes);
        let (bytes, reason) = match of_log < request {
            true if log_file_bytes < config.wal_file_bytes => {
                (of_log, "more needs a larger volume for the log")
            }
            true if log_file_bytes == wal::FILE_BYTES_MAX => (of_log, "no log file has room for more"),
            true => (of_log, "more needs a larger wal.file.bytes"),
            false if of_memory => (request, "more needs a larger memory.bytes (--memory)"),
            false => (request, "more needs a larger socket.request.max.bytes"),
        };
        BatchLimit { bytes: bytes - AROUND_BYTES.min(bytes / AROUND_SHARE), reason }
    }

    /// Refuses a value of `max.message.bytes` that this broker cannot carry; other keys are none of its business.
    pub fn check(&self, topic_key: &str, value: &str) -> Result<(), ConfigError> {
        if topic_key != KEY || value.parse().is_ok_and(|bytes: usize| bytes <= self.bytes) {
            return Ok(());
        }
        let (key, value) = (topic_key.to_string(), value.to_string());
        let allowed = format!("at most {} on this broker; {}", self.bytes, self.reason);
        Err(ConfigError::Value { key, value, allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(set: &[(&str, &str)], log_file_bytes: u64) -> BatchLimit {
        let set = set.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        BatchLimit::new(&BrokerConfig::from_values(&set.collect()), log_file_bytes)
    }

    #[test]
    fn the_smallest_of_memory_request_and_log_file_counts_and_is_named() {
        let memory = |bytes| ("memory.bytes", bytes);
        let requests = |bytes| ("socket.request.max.bytes", bytes);
        let files = ("wal.file.bytes", "1073741824");
        let cases = [
            (limit(&[memory("67108864")], 64 << 20), (4 << 20) - AROUND_BYTES, "memory.bytes"),
            (limit(&[memory("2147483648")], 64 << 20), (48 << 20) - 4096 - AROUND_BYTES, "wal.file.bytes"),
            (limit(&[memory("2147483648")], 13 << 20), (13 << 20) / 4 * 3 - 4096 - AROUND_BYTES, "volume"),
            (limit(&[memory("2147483648"), files], 1 << 30), (100 << 20) - AROUND_BYTES, "socket.request"),
            (limit(&[requests("40000")], 64 << 20), 30_000, "socket.request"),
            (
                limit(&[memory("17179869184"), files, requests("2147483647")], 1 << 30),
                (768 << 20) - 4096 - AROUND_BYTES,
                "no log file",
            ),
        ];
        for (limit, bytes, by) in cases {
            assert_eq!(limit.bytes, bytes);
            assert!(limit.reason.contains(by), "{limit:?}");
            assert_eq!(limit.check(KEY, &bytes.to_string()), Ok(()));
            let refused = limit.check(KEY, &(bytes + 1).to_string()).expect_err("too many").to_string();
            assert!(refused.contains(&bytes.to_string()) && refused.contains(by), "{refused}");
        }
    }
}
