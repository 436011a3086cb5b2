//! Every metric: name, type, labels and meaning. `docs/metrics.md` is generated from this table, and the page
//! of metrics takes its help texts from it.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that only increases.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// Prometheus' name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, with the unit last.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Labels of its samples.
    pub labels: &'static [&'static str],
    /// Its help text.
    pub help: &'static str,
}

macro_rules! families {
    ($($section:literal { $($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)* })*) => {
        $($(
            #[doc = $help]
            pub const $constant: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*)*
        /// All metrics, in the sections of the document.
        pub const SECTIONS: &[(&str, &[Family])] = &[$(($section, &[$($constant),*])),*];
    };
}

families! {
    "Process" {
        BUILD_INFO: Gauge "millstream_build_info" ["version"] "Always 1; the label is the running version.";
        UPTIME: Gauge "millstream_uptime_seconds" [] "Seconds since the HTTP port was opened.";
        RESIDENT: Gauge "process_resident_memory_bytes" [] "Resident memory.";
        CPU: Counter "process_cpu_seconds_total" [] "Processor time of all threads.";
        LOG_DROPPED: Counter "millstream_log_dropped_lines_total" []
            "Log lines dropped because standard error was blocked or failed.";
        OPEN_FDS: Gauge "process_open_fds" [] "Open files and sockets.";
        CONNECTIONS: Gauge "millstream_connections" [] "Open Kafka connections.";
        DISK_TOTAL: Gauge "millstream_disk_total_bytes" [] "Size of the data directory's volume.";
        DISK_FREE: Gauge "millstream_disk_free_bytes" [] "Free space of the data directory's volume; below disk.low.bytes produce is refused.";
        READY: Gauge "millstream_ready" [] "1 while /health/ready answers 200, else 0.";
        WRITES_REFUSED: Gauge "millstream_writes_refused" []
            "1 while produce is refused or blocked because the disk is full; else 0.";
        FLUSH_FAILING: Gauge "millstream_flush_failing" []
            "1 while flushes or checkpoints fail, which are retried every few seconds; else 0. Nothing is lost: the log has the data, and grows.";
    }
    "Requests" {
        REQUESTS: Counter "millstream_requests_total" ["api"] "Requests completed.";
        REQUEST_DURATION: Histogram "millstream_request_duration_seconds" ["api"]
            "From a request's arrival to its reply; fetches include the wait for records.";
        PRODUCE_BYTES: Counter "millstream_produce_bytes_total" [] "Bytes of acknowledged batches.";
        PRODUCE_RECORDS: Counter "millstream_produce_records_total" [] "Records of acknowledged batches.";
        PRODUCE_REFUSED: Counter "millstream_produce_refused_total" [] "Batches refused.";
        PRODUCE_STAGE: Histogram "millstream_produce_stage_seconds" ["stage"]
            "Stages of a produce request: check (validating and ordering its batches), queue (the wait of a group commit's oldest batch), log (the group commit, until it is on stable storage and readable).";
        FETCH_BYTES: Counter "millstream_fetch_bytes_total" [] "Bytes of batches returned to consumers.";
        FETCH_STAGE: Histogram "millstream_fetch_stage_seconds" ["stage"]
            "Stages of a fetch request: wait (for new records; only of those that waited), read (finding and reading them).";
    }
    "Topics" {
        TOPICS: Gauge "millstream_topics" [] "Topics.";
        PARTITIONS: Gauge "millstream_partitions" [] "Partitions of all topics.";
        TOPIC_PRODUCE_BYTES: Counter "millstream_topic_produce_bytes_total" ["topic"] "Bytes of acknowledged batches.";
        TOPIC_PRODUCE_RECORDS: Counter "millstream_topic_produce_records_total" ["topic"] "Records of acknowledged batches.";
        TOPIC_FETCH_BYTES: Counter "millstream_topic_fetch_bytes_total" ["topic"] "Bytes of batches returned to consumers.";
    }
    "Consumer groups" {
        GROUPS: Gauge "millstream_groups" ["state"] "Groups that this node coordinates, by state.";
        GROUP_BYTES: Gauge "millstream_groups_bytes" []
            "Approximate memory of members and committed offsets of all groups; at most groups.bytes.max.";
        GROUPS_REFUSED: Counter "millstream_groups_refused_total" []
            "Joins, assignments and commits refused because groups have reached groups.bytes.max.";
        GROUP_LAG_RECORDS: Gauge "millstream_group_lag_records" ["group", "topic"]
            "Unread records of the group, in all partitions for which it has committed an offset.";
        GROUP_LAG_SECONDS: Gauge "millstream_group_lag_seconds" ["group", "topic"]
            "Age of the oldest unread record of the group: now minus that record's timestamp; 0 if there is none.";
        GROUP_LAG_UNKNOWN: Gauge "millstream_group_lag_unknown" []
            "Pairs of group and topic of unknown age, without a millstream_group_lag_seconds: no committed offset, records without a timestamp, or more partitions advanced since the last scrape than one scrape may read.";
        GROUP_UNCOUNTED_PARTITIONS: Gauge "millstream_group_lag_uncounted_partitions" ["group", "topic"]
            "Partitions with records that are not included in the lag: the group has committed no offset for them, or another node leads them.";
    }
    "Log" {
        WAL_SYNC: Histogram "millstream_wal_sync_seconds" []
            "Durable writes of the log. Records per write show how effective group commit is.";
        WAL_WRITTEN: Counter "millstream_wal_written_bytes_total" [] "Bytes written to the log, including padding.";
        WAL_LIVE: Gauge "millstream_wal_live_bytes" [] "Bytes of log files in use.";
        WAL_MEMORY: Gauge "millstream_wal_memory_bytes" [] "Log memory in use by batches, readers and replies.";
    }
    "Tables" {
        MEMTABLE: Gauge "millstream_memtable_bytes" [] "Batches in memory that are not in a run yet.";
        RUNS: Gauge "millstream_runs" [] "Live runs.";
        RUN_BYTES: Gauge "millstream_run_bytes" [] "Bytes of live runs.";
        CACHE: Gauge "millstream_cache_bytes" [] "Bytes of runs in the cache.";
        CACHE_HITS: Counter "millstream_cache_hits_total" [] "Reads of runs that hit the cache.";
        CACHE_MISSES: Counter "millstream_cache_misses_total" [] "Reads of runs that missed the cache.";
        FLUSHES: Counter "millstream_flushes_total" [] "Memtables flushed to runs.";
        FLUSHED: Counter "millstream_flushed_bytes_total" [] "Bytes written by flushes.";
        MERGES: Counter "millstream_merges_total" [] "Merges of runs.";
        MERGED: Counter "millstream_merged_bytes_total" [] "Bytes written by merges.";
    }
    "Cluster" {
        RAFT_GROUPS: Gauge "millstream_raft_groups" [] "Raft groups on this node.";
        RAFT_GROUPS_LED: Gauge "millstream_raft_groups_led" []
            "Raft groups that this node leads; fewer than millstream_raft_groups means partitions without a leader.";
    }
}

/// Every metric.
pub fn all() -> impl Iterator<Item = &'static Family> {
    SECTIONS.iter().flat_map(|(_, families)| families.iter())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt::Write, path::PathBuf};

    use super::*;
    use millstream_tests::generated;

    #[test]
    fn the_document_has_every_metric_as_it_is() {
        let mut text = String::new();
        for (section, families) in SECTIONS {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "### {section}\n\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n"
            );
            for Family { name, kind, labels, help } in *families {
                let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
                let (kind, labels) = (kind.name(), labels.join(", "));
                let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {help} |");
            }
            text.push('\n');
        }
        let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        generated::check(&document, "metrics", &text);
    }

    #[test]
    fn names_are_unique_and_say_their_unit() {
        let names: BTreeSet<&str> = all().map(|family| family.name).collect();
        assert_eq!(names.len(), all().count());
        for family in all() {
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.kind != Kind::Histogram || family.name.ends_with("_seconds"), "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains('|'), "{}", family.help);
        }
    }
}
