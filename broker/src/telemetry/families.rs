//! Every metric that there is: its name, type, labels and meaning. `docs/metrics.md` is written from this table, and the
//! page takes its help texts from it.

/// What a metric's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that comes and goes.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// Prometheus' name of it.
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
    /// What its numbers mean.
    pub kind: Kind,
    /// Labels of its samples.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

macro_rules! families {
    ($($section:literal { $($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)* })*) => {
        $($(
            #[doc = $help]
            pub const $constant: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*)*
        /// All of them, as the document has them in sections.
        pub const SECTIONS: &[(&str, &[Family])] = &[$(($section, &[$($constant),*])),*];
    };
}

families! {
    "Process" {
        BUILD_INFO: Gauge "millstream_build_info" ["version"] "Always 1; the label is the version that runs.";
        UPTIME: Gauge "millstream_uptime_seconds" [] "Seconds since the HTTP port was opened.";
        RESIDENT: Gauge "process_resident_memory_bytes" [] "Memory that is resident.";
        CPU: Counter "process_cpu_seconds_total" [] "Processor time of all threads.";
        LOG_DROPPED: Counter "millstream_log_dropped_lines_total" []
            "Log lines that were dropped because standard error did not take them.";
        OPEN_FDS: Gauge "process_open_fds" [] "Files and sockets that are open.";
        CONNECTIONS: Gauge "millstream_connections" [] "Kafka connections that are open.";
        DISK_TOTAL: Gauge "millstream_disk_total_bytes" [] "Size of the data directory's volume.";
        DISK_FREE: Gauge "millstream_disk_free_bytes" [] "What of it is free; below disk.low.bytes produce is refused.";
        READY: Gauge "millstream_ready" [] "1 while /health/ready answers 200, else 0.";
        WRITES_REFUSED: Gauge "millstream_writes_refused" []
            "1 while what is produced is refused, or waits, because the disk is full; else 0.";
        FLUSH_FAILING: Gauge "millstream_flush_failing" []
            "1 while what is in memory cannot be written to runs and checkpoints, which is tried again every few seconds; else 0. Nothing is lost: the log has it, and grows.";
    }
    "Requests" {
        REQUESTS: Counter "millstream_requests_total" ["api"] "Requests that were answered.";
        REQUEST_DURATION: Histogram "millstream_request_duration_seconds" ["api"]
            "From a request's arrival to its reply; fetches include their waiting for records.";
        PRODUCE_BYTES: Counter "millstream_produce_bytes_total" [] "Bytes of acknowledged batches.";
        PRODUCE_RECORDS: Counter "millstream_produce_records_total" [] "Records of acknowledged batches.";
        PRODUCE_REFUSED: Counter "millstream_produce_refused_total" [] "Batches that were refused.";
        PRODUCE_STAGE: Histogram "millstream_produce_stage_seconds" ["stage"]
            "Parts of a produce request's time: check (checking and ordering its batches), queue (the oldest batch of a group commit waiting for it), log (the group commit, until it is on stable storage and readable).";
        FETCH_BYTES: Counter "millstream_fetch_bytes_total" [] "Bytes of batches given to consumers.";
        FETCH_STAGE: Histogram "millstream_fetch_stage_seconds" ["stage"]
            "Parts of a fetch request's time: wait (for records that were not there yet; only of those that waited), read (finding and reading them).";
    }
    "Topics" {
        TOPICS: Gauge "millstream_topics" [] "Topics.";
        PARTITIONS: Gauge "millstream_partitions" [] "Partitions of all topics.";
        TOPIC_PRODUCE_BYTES: Counter "millstream_topic_produce_bytes_total" ["topic"] "Bytes of acknowledged batches.";
        TOPIC_PRODUCE_RECORDS: Counter "millstream_topic_produce_records_total" ["topic"] "Records of acknowledged batches.";
        TOPIC_FETCH_BYTES: Counter "millstream_topic_fetch_bytes_total" ["topic"] "Bytes of batches given to consumers.";
    }
    "Consumer groups" {
        GROUPS: Gauge "millstream_groups" ["state"] "Groups that this node coordinates, by their state.";
        GROUP_BYTES: Gauge "millstream_groups_bytes" []
            "Memory that members and committed offsets of all groups hold, about; at most groups.bytes.max.";
        GROUPS_REFUSED: Counter "millstream_groups_refused_total" []
            "Joins, assignments and commits that were refused because groups hold as much as groups.bytes.max allows.";
        GROUP_LAG_RECORDS: Gauge "millstream_group_lag_records" ["group", "topic"]
            "Records that the group has not read, in all partitions of which it has committed an offset.";
        GROUP_LAG_SECONDS: Gauge "millstream_group_lag_seconds" ["group", "topic"]
            "Age of the oldest record that the group has not read: now, less that record's timestamp; 0 when nothing is left.";
        GROUP_LAG_UNKNOWN: Gauge "millstream_group_lag_unknown" []
            "Pairs of group and topic whose age is not known now, so that they have no millstream_group_lag_seconds: no committed offset, records without a timestamp, or more partitions moved since the last look than one look may read.";
        GROUP_UNCOUNTED_PARTITIONS: Gauge "millstream_group_lag_uncounted_partitions" ["group", "topic"]
            "Partitions with records that are not in the lag: the group has committed no offset of them, or another node leads them.";
    }
    "Log" {
        WAL_SYNC: Histogram "millstream_wal_sync_seconds" []
            "Durable writes of the log. Records for each of them say how well group commit works.";
        WAL_WRITTEN: Counter "millstream_wal_written_bytes_total" [] "Bytes of these, padding included.";
        WAL_LIVE: Gauge "millstream_wal_live_bytes" [] "Bytes of log files that are still needed.";
        WAL_MEMORY: Gauge "millstream_wal_memory_bytes" [] "Log memory that batches, readers and replies hold.";
    }
    "Tables" {
        MEMTABLE: Gauge "millstream_memtable_bytes" [] "Batches in memory that are not in a run yet.";
        RUNS: Gauge "millstream_runs" [] "Live runs.";
        RUN_BYTES: Gauge "millstream_run_bytes" [] "Bytes of live runs.";
        CACHE: Gauge "millstream_cache_bytes" [] "Bytes of runs that are cached.";
        CACHE_HITS: Counter "millstream_cache_hits_total" [] "Reads of runs that the cache answered.";
        CACHE_MISSES: Counter "millstream_cache_misses_total" [] "Reads of runs that went to the disk.";
        FLUSHES: Counter "millstream_flushes_total" [] "Memtables that were written to runs.";
        FLUSHED: Counter "millstream_flushed_bytes_total" [] "Bytes of these.";
        MERGES: Counter "millstream_merges_total" [] "Merges of runs.";
        MERGED: Counter "millstream_merged_bytes_total" [] "Bytes that these wrote.";
    }
    "Cluster" {
        RAFT_GROUPS: Gauge "millstream_raft_groups" [] "Raft groups on this node.";
        RAFT_GROUPS_LED: Gauge "millstream_raft_groups_led" []
            "Raft groups that this node leads; fewer than there are means partitions without a leader.";
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
            // Writing to a string does not fail.
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
