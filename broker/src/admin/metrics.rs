//! The page of metrics. Names and meanings are in `telemetry/families.rs`, which also generates
//! `docs/metrics.md`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_protocol::ApiKey;
use millstream_store::{tables::Tables, wal::Wal};

use super::{Sources, process};
use crate::{
    clock,
    service::{ListedGroup, RecordTimes, Service, TopicLag, TopicView},
    telemetry::{
        HistogramReading, Meter, MetricsText, TopicMeter, dropped_log_lines, families as of, label, seconds,
    },
};

/// Pairs of group and topic with series of their own, the first ones by name.
const GROUP_TOPICS_MAX: usize = 500;
/// Batches that are read for one page, for the age of records.
pub(super) const READS_MAX: usize = 5_000;
/// Not a valid topic name, and an unlikely group name.
const OTHER: &str = "(other)";

/// The page for Prometheus. May block on the disk.
pub(super) fn page(sources: &Sources, ready: bool, uptime: Duration, times: &mut RecordTimes) -> String {
    let mut text = MetricsText::default();
    about_process(&mut text, sources, uptime);
    about_health(&mut text, &sources.service, ready);
    about_requests(&mut text, sources);
    about_topics(&mut text, &sources.service.topics(), &sources.service.other_topics_meter());
    about_groups(&mut text, &sources.service, times);
    about_log(&mut text, &sources.wal);
    about_tables(&mut text, &sources.tables);
    about_raft(&mut text, &sources.service);
    text.into_page()
}

fn about_process(text: &mut MetricsText, sources: &Sources, uptime: Duration) {
    text.each(&of::BUILD_INFO, [(label("version", env!("CARGO_PKG_VERSION")), 1)]);
    text.one(&of::UPTIME, uptime.as_secs());
    let process = process::look();
    if let Some(bytes) = process.resident_bytes {
        text.one(&of::RESIDENT, bytes);
    }
    if let Some(micros) = process.cpu_micros {
        text.one(&of::CPU, seconds(micros));
    }
    if let Some(files) = process.open_files {
        text.one(&of::OPEN_FDS, files);
    }
    text.one(&of::LOG_DROPPED, dropped_log_lines());
    text.one(&of::CONNECTIONS, (sources.connections)());
    if let Some(space) = sources.service.disk_space() {
        text.one(&of::DISK_TOTAL, space.total_bytes);
        text.one(&of::DISK_FREE, space.free_bytes);
    }
}

fn about_health(text: &mut MetricsText, service: &Service, ready: bool) {
    text.one(&of::READY, u8::from(ready));
    text.one(&of::WRITES_REFUSED, u8::from(service.write_stop().is_some()));
    text.one(&of::FLUSH_FAILING, u8::from(service.flush_trouble().is_some()));
}

fn about_requests(text: &mut MetricsText, sources: &Sources) {
    let meter: &Meter = sources.service.meter();
    let used: Vec<_> = meter.apis().map(|(key, api)| (api_label(key), api.duration.read())).collect();
    let used: Vec<_> = used.into_iter().filter(|(_, reading)| reading.count > 0).collect();
    text.each(&of::REQUESTS, used.iter().map(|(api, reading)| (api.clone(), reading.count)));
    text.histograms(&of::REQUEST_DURATION, used);
    text.one(&of::PRODUCE_BYTES, read(&meter.total.produced_bytes));
    text.one(&of::PRODUCE_RECORDS, read(&meter.total.produced_records));
    text.one(&of::PRODUCE_REFUSED, read(&meter.produce_refused));
    let stage = |name| label("stage", name);
    let (queue, log) = commits(&sources.service);
    let check = meter.stages.produce_check.read();
    text.histograms(
        &of::PRODUCE_STAGE,
        [(stage("check"), check), (stage("queue"), queue), (stage("log"), log)],
    );
    text.one(&of::FETCH_BYTES, read(&meter.total.fetched_bytes));
    let (wait, look) = (meter.stages.fetch_wait.read(), meter.stages.fetch_read.read());
    text.histograms(&of::FETCH_STAGE, [(stage("wait"), wait), (stage("read"), look)]);
}

/// Group commits of all shards: time in the queue and in the log.
fn commits(service: &Service) -> (HistogramReading, HistogramReading) {
    let readings = service.shards().map(|shard| (shard.meter.queue.read(), shard.meter.log.read()));
    let none = || crate::telemetry::Histogram::default().read();
    readings.fold((none(), none()), |sum, one| (sum.0.plus(&one.0), sum.1.plus(&one.1)))
}

fn api_label(key: i16) -> String {
    label("api", ApiKey::from_i16(key).map_or("other", |key| key.name()))
}

fn about_topics(text: &mut MetricsText, topics: &[Arc<TopicView>], other: &Arc<TopicMeter>) {
    let partitions: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    text.one(&of::TOPICS, topics.len());
    text.one(&of::PARTITIONS, partitions);
    let meters = || topics.iter().map(|topic| (topic.name.as_str(), &topic.meter));
    let series = |pick: fn(&TopicMeter) -> &AtomicU64| by_topic(meters(), other, pick);
    text.each(&of::TOPIC_PRODUCE_BYTES, series(|m| &m.produced_bytes));
    text.each(&of::TOPIC_PRODUCE_RECORDS, series(|m| &m.produced_records));
    text.each(&of::TOPIC_FETCH_BYTES, series(|m| &m.fetched_bytes));
}

/// A series per topic that has one, and the shared one as soon as it is nonzero or a topic uses it.
fn by_topic<'a>(
    topics: impl Iterator<Item = (&'a str, &'a Arc<TopicMeter>)>,
    other: &Arc<TopicMeter>,
    pick: fn(&TopicMeter) -> &AtomicU64,
) -> Vec<(String, u64)> {
    let shared = read(pick(other));
    let (mut series, mut is_shared) = (Vec::new(), shared > 0);
    for (name, meter) in topics {
        match Arc::ptr_eq(meter, other) {
            true => is_shared = true,
            false => series.push((label("topic", name), read(pick(meter)))),
        }
    }
    if is_shared {
        series.push((label("topic", OTHER), shared));
    }
    series
}

fn about_groups(text: &mut MetricsText, service: &Service, times: &mut RecordTimes) {
    let groups = service.groups().list();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    groups.iter().for_each(|group| *states.entry(group.state).or_default() += 1);
    text.each(&of::GROUPS, states.into_iter().map(|(state, n)| (label("state", state), n)));
    text.one(&of::GROUP_BYTES, service.groups().bytes());
    text.one(&of::GROUPS_REFUSED, service.groups().refused_for_bytes());
    times.forget_unused(READS_MAX);
    let mut lags = Lags::default();
    let now_ms = clock::now_ms();
    for ListedGroup { name, .. } in &groups {
        // A group that has moved to another coordinator is reported there.
        for lag in service.group_lag(name, now_ms, times).unwrap_or_default() {
            lags.add(name, &lag);
        }
    }
    text.each(&of::GROUP_LAG_RECORDS, lags.series(|lag| Some(lag.records)));
    text.each(&of::GROUP_LAG_SECONDS, lags.series(|lag| lag.age_ms.map(age_text)));
    text.one(&of::GROUP_LAG_UNKNOWN, lags.unknown);
    text.each(&of::GROUP_UNCOUNTED_PARTITIONS, lags.series(|lag| Some(lag.uncounted)));
}

fn age_text(ms: i64) -> String {
    seconds(u64::try_from(ms).unwrap_or(0).saturating_mul(1_000))
}

/// Lags by group and topic, those beyond the bound combined.
#[derive(Default)]
struct Lags {
    by_name: Vec<(String, Lag)>,
    others: Option<Lag>,
    unknown: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lag {
    records: i64,
    age_ms: Option<i64>,
    uncounted: usize,
}

impl Lags {
    fn add(&mut self, group: &str, of_topic: &TopicLag) {
        let (records, age_ms) = (of_topic.records(), of_topic.age_ms());
        let lag = Lag { records, age_ms, uncounted: of_topic.uncounted };
        self.unknown += usize::from(lag.age_ms.is_none());
        if self.by_name.len() < GROUP_TOPICS_MAX {
            return self.by_name.push((labels(group, &of_topic.topic), lag));
        }
        let others = self.others.get_or_insert(Lag { records: 0, age_ms: None, uncounted: 0 });
        others.records += lag.records;
        others.uncounted += lag.uncounted;
        others.age_ms = others.age_ms.max(lag.age_ms);
    }

    fn series<V>(&self, pick: impl Fn(Lag) -> Option<V>) -> Vec<(String, V)> {
        let other = self.others.map(|lag| (labels(OTHER, OTHER), lag));
        let all = self.by_name.iter().cloned().chain(other);
        all.filter_map(|(labels, lag)| Some((labels, pick(lag)?))).collect()
    }
}

fn labels(group: &str, topic: &str) -> String {
    format!("{},{}", label("group", group), label("topic", topic))
}

fn about_log(text: &mut MetricsText, wal: &Wal) {
    let stats = wal.stats();
    text.histograms(&of::WAL_SYNC, [(String::new(), stats.syncs.read())]);
    text.one(&of::WAL_WRITTEN, read(&stats.bytes));
    text.one(&of::WAL_LIVE, wal.size_bytes());
    text.one(&of::WAL_MEMORY, wal.memory_bytes());
}

fn about_tables(text: &mut MetricsText, tables: &Tables) {
    let stats = tables.stats();
    text.one(&of::MEMTABLE, stats.memtable_bytes);
    text.one(&of::RUNS, stats.runs);
    text.one(&of::RUN_BYTES, stats.run_bytes);
    text.one(&of::CACHE, stats.cache_bytes);
    text.one(&of::CACHE_HITS, stats.cache_hits);
    text.one(&of::CACHE_MISSES, stats.cache_misses);
    text.one(&of::FLUSHES, stats.flushes);
    text.one(&of::FLUSHED, stats.flushed_bytes);
    text.one(&of::MERGES, stats.merges);
    text.one(&of::MERGED, stats.merged_bytes);
}

fn about_raft(text: &mut MetricsText, service: &Service) {
    let groups = service.shards().map(|shard| shard.group()).chain([service.metadata()]);
    let led: Vec<bool> = groups.map(|group| group.led_term().is_some()).collect();
    text.one(&of::RAFT_GROUPS, led.len());
    text.one(&of::RAFT_GROUPS_LED, led.iter().filter(|led| **led).count());
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::PartitionLag;

    #[test]
    fn topics_without_a_series_share_one_that_stays_when_they_go() {
        let (own, other) = (Arc::<TopicMeter>::default(), Arc::<TopicMeter>::default());
        let of = |topics: &[(&str, &Arc<TopicMeter>)]| {
            by_topic(topics.iter().copied(), &other, |m| &m.produced_bytes)
        };
        let named = |name: &str, bytes| (label("topic", name), bytes);
        own.produced(5, 1);
        assert_eq!(of(&[("a", &own)]), [named("a", 5)]);
        assert_eq!(of(&[("a", &own), ("b", &other)]), [named("a", 5), named(OTHER, 0)]);
        other.produced(10, 1);
        let both = [named("a", 5), named(OTHER, 10)];
        assert_eq!(of(&[("a", &own), ("b", &other), ("c", &other)]), both);
        assert_eq!(of(&[("a", &own)]), both, "its topics were deleted");
    }

    #[test]
    fn groups_beyond_the_bound_are_one_that_is_as_late_as_the_latest() {
        let lag = |records, age_ms| TopicLag {
            topic: "t".into(),
            partitions: vec![PartitionLag::of(records, age_ms)],
            uncounted: 2,
        };
        let mut lags = Lags::default();
        (0..GROUP_TOPICS_MAX).for_each(|at| lags.add(&format!("g{at}"), &lag(1, Some(5))));
        for (records, age_ms) in [(10, Some(70)), (20, None), (30, Some(60))] {
            lags.add("late", &lag(records, age_ms));
        }
        let records = lags.series(|lag| Some(lag.records));
        assert_eq!(records.len(), GROUP_TOPICS_MAX + 1);
        let other = "group=\"(other)\",topic=\"(other)\"".to_string();
        assert_eq!(records.last(), Some(&(other.clone(), 60)));
        assert_eq!(lags.series(|lag| lag.age_ms.map(age_text)).last(), Some(&(other, "0.07".to_string())));
        assert_eq!(lags.unknown, 1);
        assert_eq!(lags.series(|lag| Some(lag.uncounted)).last().map(|(_, n)| *n), Some(6));
    }
}
