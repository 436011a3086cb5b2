//! The page of metrics. Names and meanings: `docs/metrics.md`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use millstream_protocol::ApiKey;
use millstream_store::{tables::Tables, wal::Wal};

use super::{Sources, process};
use crate::{
    service::{Service, TopicView},
    telemetry::{Meter, MetricsText, TopicMeter, label, seconds},
};

/// Topics that have series of their own, the first ones by name; what the others move is added up under `OTHER_TOPICS`.
const TOPICS_MAX: usize = 500;
/// Not a topic's name: those have no brackets.
const OTHER_TOPICS: &str = "(other)";

/// Everything, as Prometheus reads it.
pub(super) fn page(sources: &Sources, uptime: Duration) -> String {
    let mut text = MetricsText::default();
    about_process(&mut text, uptime);
    about_requests(&mut text, sources);
    about_log(&mut text, &sources.wal);
    about_tables(&mut text, &sources.tables);
    about_cluster(&mut text, &sources.service);
    about_topics(&mut text, &sources.service.topics());
    text.into_page()
}

fn about_process(text: &mut MetricsText, uptime: Duration) {
    let version = label("version", env!("CARGO_PKG_VERSION"));
    text.gauges("millstream_build_info", "The version that runs.", [(version, 1)]);
    text.gauge("millstream_uptime_seconds", "Seconds since the HTTP port was opened.", uptime.as_secs());
    let process = process::look();
    if let Some(bytes) = process.resident_bytes {
        text.gauge("process_resident_memory_bytes", "Memory that is resident.", bytes);
    }
    if let Some(micros) = process.cpu_micros {
        text.counter("process_cpu_seconds_total", "Processor time of all threads.", seconds(micros));
    }
    if let Some(files) = process.open_files {
        text.gauge("process_open_fds", "Files and sockets that are open.", files);
    }
}

fn about_requests(text: &mut MetricsText, sources: &Sources) {
    let meter: &Meter = sources.service.meter();
    text.gauge("millstream_connections", "Kafka connections that are open.", (sources.connections)());
    let total = &meter.total;
    text.counter(
        "millstream_produce_bytes_total",
        "Bytes of acknowledged batches.",
        read(&total.produced_bytes),
    );
    text.counter("millstream_produce_records_total", "Records of these.", read(&total.produced_records));
    text.counter(
        "millstream_produce_refused_total",
        "Batches that were refused.",
        read(&meter.produce_refused),
    );
    text.counter(
        "millstream_fetch_bytes_total",
        "Bytes of batches given to consumers.",
        read(&total.fetched_bytes),
    );
    let used: Vec<_> = meter.apis().map(|(key, api)| (api_label(key), api.duration.read())).collect();
    let used: Vec<_> = used.into_iter().filter(|(_, reading)| reading.count > 0).collect();
    let counts = used.iter().map(|(api, reading)| (api.clone(), reading.count));
    text.counters("millstream_requests_total", "Requests that were answered, by API.", counts);
    let help =
        "Time from a request's arrival to its reply, by API; fetches include their waiting for records.";
    text.histograms("millstream_request_duration_seconds", help, used);
}

fn api_label(key: i16) -> String {
    label("api", ApiKey::from_i16(key).map_or("other", |key| key.name()))
}

fn about_log(text: &mut MetricsText, wal: &Wal) {
    let stats = wal.stats();
    text.counter("millstream_wal_syncs_total", "Durable writes of the log.", read(&stats.syncs));
    text.counter(
        "millstream_wal_written_bytes_total",
        "Bytes of these, padding included.",
        read(&stats.bytes),
    );
    let took = seconds(read(&stats.sync_micros));
    text.counter("millstream_wal_sync_seconds_total", "Time that these took together.", took);
    text.gauge("millstream_wal_live_bytes", "Bytes of log files that are still needed.", wal.size_bytes());
    text.gauge(
        "millstream_wal_memory_bytes",
        "Log memory that batches, readers and replies hold.",
        wal.memory_bytes(),
    );
}

fn about_tables(text: &mut MetricsText, tables: &Tables) {
    let stats = tables.stats();
    text.gauge(
        "millstream_memtable_bytes",
        "Batches in memory that are not in a run yet.",
        stats.memtable_bytes,
    );
    text.gauge("millstream_runs", "Live runs.", stats.runs);
    text.gauge("millstream_run_bytes", "Bytes of these.", stats.run_bytes);
    text.gauge("millstream_cache_bytes", "Bytes of runs that are cached.", stats.cache_bytes);
    text.counter("millstream_cache_hits_total", "Reads of runs that the cache answered.", stats.cache_hits);
    text.counter("millstream_cache_misses_total", "Reads of runs that went to the disk.", stats.cache_misses);
    text.counter("millstream_flushes_total", "Memtables that were written to runs.", stats.flushes);
    text.counter("millstream_flushed_bytes_total", "Bytes of these.", stats.flushed_bytes);
    text.counter("millstream_merges_total", "Merges of runs.", stats.merges);
    text.counter("millstream_merged_bytes_total", "Bytes that these wrote.", stats.merged_bytes);
}

fn about_cluster(text: &mut MetricsText, service: &Service) {
    let groups = service.shards().map(|shard| shard.group()).chain([service.metadata()]);
    let led: Vec<bool> = groups.map(|group| group.led_term().is_some()).collect();
    text.gauge("millstream_raft_groups", "Raft groups on this node.", led.len());
    text.gauge(
        "millstream_raft_groups_led",
        "Raft groups that this node leads.",
        led.iter().filter(|led| **led).count(),
    );
    if let Some(space) = service.disk_space() {
        text.gauge("millstream_disk_total_bytes", "Size of the data directory's volume.", space.total_bytes);
        text.gauge("millstream_disk_free_bytes", "What of it is free.", space.free_bytes);
    }
}

fn about_topics(text: &mut MetricsText, topics: &[std::sync::Arc<TopicView>]) {
    let partitions: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    text.gauge("millstream_topics", "Topics.", topics.len());
    text.gauge("millstream_partitions", "Partitions of all topics.", partitions);
    let meters = || topics.iter().map(|topic| (topic.name.as_str(), &*topic.meter));
    let series = |pick: fn(&TopicMeter) -> &AtomicU64| by_topic(meters(), pick);
    let (bytes, records) = (series(|m| &m.produced_bytes), series(|m| &m.produced_records));
    text.counters("millstream_topic_produce_bytes_total", "Bytes of acknowledged batches, by topic.", bytes);
    text.counters("millstream_topic_produce_records_total", "Records of these.", records);
    let bytes = series(|m| &m.fetched_bytes);
    text.counters(
        "millstream_topic_fetch_bytes_total",
        "Bytes of batches given to consumers, by topic.",
        bytes,
    );
}

fn by_topic<'a>(
    topics: impl Iterator<Item = (&'a str, &'a TopicMeter)>,
    pick: fn(&TopicMeter) -> &AtomicU64,
) -> Vec<(String, u64)> {
    let (mut series, mut others, mut other) = (Vec::new(), 0, 0);
    for (at, (name, meter)) in topics.enumerate() {
        let value = read(pick(meter));
        if at < TOPICS_MAX {
            series.push((label("topic", name), value));
        } else {
            others += 1;
            other += value;
        }
    }
    if others > 0 {
        series.push((label("topic", OTHER_TOPICS), other));
    }
    series
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_are_added_up() {
        let meters: Vec<(String, TopicMeter)> =
            (0..TOPICS_MAX + 3).map(|at| (format!("t{at:04}"), TopicMeter::default())).collect();
        meters.iter().for_each(|(_, meter)| meter.produced(10, 1));
        let of = |n: usize| {
            by_topic(meters.iter().take(n).map(|(name, m)| (name.as_str(), m)), |m| &m.produced_bytes)
        };
        assert_eq!(of(TOPICS_MAX).len(), TOPICS_MAX);
        let all = of(TOPICS_MAX + 3);
        assert_eq!((all.len(), all.last()), (TOPICS_MAX + 1, Some(&("topic=\"(other)\"".to_string(), 30))));
        assert_eq!(all.iter().map(|(_, bytes)| bytes).sum::<u64>(), 10 * (TOPICS_MAX as u64 + 3));
    }
}
