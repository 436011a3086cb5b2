//! The views of two scrapes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::{
    super::{
        output::{counted, table_lines},
        when::lasting,
    },
    scrape::Change,
};

/// Most topics shown, the busiest first.
const TOPICS_SHOWN: usize = 8;
/// Most pairs of group and topic shown, the largest lag first.
const GROUPS_SHOWN: usize = 8;
/// Most APIs shown, the busiest first.
const APIS_SHOWN: usize = 6;
const KIB: f64 = 1024.0;
const MIB: f64 = 1_048_576.0;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters of the disk's bar.
const DISK_WIDTH: usize = 20;

const REQUESTS: &str = "millstream_request_duration_seconds";
const PRODUCE: &str = "millstream_produce_stage_seconds";
const FETCH: &str = "millstream_fetch_stage_seconds";
/// Latencies: name for people, name for programs, histogram, labels.
const TIMES: [(&str, &str, &str, &str); 7] = [
    ("produce", "produce", REQUESTS, "api=\"Produce\""),
    ("  check", "produce_check", PRODUCE, "stage=\"check\""),
    ("  queue", "produce_queue", PRODUCE, "stage=\"queue\""),
    ("  log", "produce_log", PRODUCE, "stage=\"log\""),
    ("  sync", "wal_sync", "millstream_wal_sync_seconds", ""),
    ("fetch read", "fetch_read", FETCH, "stage=\"read\""),
    ("fetch wait", "fetch_wait", FETCH, "stage=\"wait\""),
];
const PARTS: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

/// Rates of the last scrapes, the newest last.
#[derive(Default)]
pub(super) struct History {
    pub(super) produce: VecDeque<f64>,
    pub(super) fetch: VecDeque<f64>,
}

impl History {
    /// Adds the newest, drops the oldest.
    pub(super) fn add(&mut self, change: &Change<'_>, most: usize) {
        for (rates, name) in [
            (&mut self.produce, "millstream_produce_bytes_total"),
            (&mut self.fetch, "millstream_fetch_bytes_total"),
        ] {
            rates.push_back(change.rate(name));
            if rates.len() > most {
                rates.pop_front();
            }
        }
    }
}

/// A small chart, scaled to its highest value.
fn chart(rates: &VecDeque<f64>) -> String {
    let top = rates.iter().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| match (rate / top * 7.0).round() {
        height if height.is_finite() => BARS[height as usize],
        _ => BARS[0],
    };
    rates.iter().map(bar).collect()
}

/// A summary of the broker.
pub(super) fn headline(change: &Change<'_>) -> String {
    let up_ms = (change.value("millstream_uptime_seconds") * 1_000.0) as i64;
    format!("up {}", lasting(up_ms))
}

/// Everything as JSON.
pub(super) fn summary(change: &Change<'_>) -> Value {
    // The metrics page has all numbers in one form; counts are shown as integers.
    let count = |family: &str| change.value(family) as u64;
    let by_name = |rates: Vec<(String, f64)>| rates.into_iter().collect::<BTreeMap<_, _>>();
    let mut latency = serde_json::Map::new();
    for (_, name, family, labels) in TIMES {
        let parts = PARTS.iter().map(|(part, of)| {
            (part.to_string(), json!(change.quantile(family, labels, *of).map(|seconds| seconds * 1_000.0)))
        });
        latency.insert(name.to_string(), parts.collect());
    }
    let lags = lags(change).into_iter().map(|lag| {
        json!({
            "group": lag.group,
            "topic": lag.topic,
            "lag_records": lag.records as u64,
            "lag_seconds": lag.seconds,
            "uncounted_partitions": lag.uncounted as u64,
        })
    });
    json!({
        "produce_bytes_per_second": change.rate("millstream_produce_bytes_total"),
        "produce_records_per_second": change.rate("millstream_produce_records_total"),
        "produce_refused_per_second": change.rate("millstream_produce_refused_total"),
        "fetch_bytes_per_second": change.rate("millstream_fetch_bytes_total"),
        "latency_ms": latency,
        "lag": lags.collect::<Vec<_>>(),
        "wal_syncs_per_second": change.rate("millstream_wal_sync_seconds_count"),
        "wal_busy": change.rate("millstream_wal_sync_seconds_sum"),
        "cpus": change.rate("process_cpu_seconds_total"),
        "connections": count("millstream_connections"),
        "resident_bytes": count("process_resident_memory_bytes"),
        "disk_free_bytes": count("millstream_disk_free_bytes"),
        "disk_total_bytes": count("millstream_disk_total_bytes"),
        "requests_per_second": by_name(change.rates_by("millstream_requests_total", "api")),
    })
}

/// Everything for people, the most important first: what does not fit on the screen is cut off at the end.
pub(super) fn lines(change: &Change<'_>, history: &History) -> Vec<String> {
    let mut lines = rates(change, history);
    lines.push(String::new());
    lines.extend(latencies(change));
    for table in [groups(change), topics(change)] {
        if !table.is_empty() {
            lines.push(String::new());
            lines.extend(table);
        }
    }
    lines
}

/// Bytes per second, in a suitable unit.
fn speed(bytes: f64) -> String {
    match bytes {
        b if b < KIB => format!("{b:.0} B/s"),
        b if b < MIB => format!("{:.1} KiB/s", b / KIB),
        b => format!("{:.1} MiB/s", b / MIB),
    }
}

fn rates(change: &Change<'_>, history: &History) -> Vec<String> {
    let mib = |name: &str| change.value(name) / MIB;
    let produce = format!(
        "{}, {:.0} records/s, {:.0} batches refused/s",
        speed(change.rate("millstream_produce_bytes_total")),
        change.rate("millstream_produce_records_total"),
        change.rate("millstream_produce_refused_total"),
    );
    let fetch = speed(change.rate("millstream_fetch_bytes_total"));
    let memory = format!(
        "{:.0} MiB resident: log {:.0}, memtable {:.0}, cache {:.0}",
        mib("process_resident_memory_bytes"),
        mib("millstream_wal_memory_bytes"),
        mib("millstream_memtable_bytes"),
        mib("millstream_cache_bytes"),
    );
    let process = format!(
        "{:.2} CPUs, {}, {}, {}",
        change.rate("process_cpu_seconds_total"),
        counted(change.value("millstream_connections"), "connection"),
        counted(change.value("millstream_topics"), "topic"),
        counted(change.value("millstream_partitions"), "partition"),
    );
    vec![
        format!("produce  {produce:<52} {}", chart(&history.produce)).trim_end().to_string(),
        format!("fetch    {fetch:<52} {}", chart(&history.fetch)).trim_end().to_string(),
        format!("requests {}", requests(change)),
        format!("log      {}", log(change)),
        format!("memory   {memory}"),
        format!("disk     {}", disk(change)),
        format!("process  {process}"),
    ]
}

fn requests(change: &Change<'_>) -> String {
    let rates = change.rates_by("millstream_requests_total", "api");
    let shown: Vec<String> =
        rates.iter().take(APIS_SHOWN).map(|(api, rate)| format!("{api} {rate:.0}/s")).collect();
    if shown.is_empty() { "none".to_string() } else { shown.join(", ") }
}

fn log(change: &Change<'_>) -> String {
    let syncs = change.growth("millstream_wal_sync_seconds_count");
    let each_ms =
        if syncs > 0.0 { change.growth("millstream_wal_sync_seconds_sum") * 1000.0 / syncs } else { 0.0 };
    format!(
        "{:.0} syncs/s of {each_ms:.2} ms, {}, busy {:.0} %",
        change.rate("millstream_wal_sync_seconds_count"),
        speed(change.rate("millstream_wal_written_bytes_total")),
        change.rate("millstream_wal_sync_seconds_sum") * 100.0,
    )
}

fn disk(change: &Change<'_>) -> String {
    let (total, free) =
        (change.value("millstream_disk_total_bytes"), change.value("millstream_disk_free_bytes"));
    let used = if total > 0.0 { (total - free) / total } else { 0.0 };
    let filled = (used * DISK_WIDTH as f64).round() as usize;
    format!(
        "[{}{}] {:.0} % of {:.0} GiB used; {:.0} MiB in {}, {:.0} MiB of log",
        "#".repeat(filled),
        ".".repeat(DISK_WIDTH.saturating_sub(filled)),
        used * 100.0,
        total / MIB / 1024.0,
        change.value("millstream_run_bytes") / MIB,
        counted(change.value("millstream_runs"), "run"),
        change.value("millstream_wal_live_bytes") / MIB,
    )
}

fn latencies(change: &Change<'_>) -> Vec<String> {
    let cell = |seconds: Option<f64>| match seconds {
        None => "-".to_string(),
        Some(seconds) if seconds < 0.01 => format!("{:.2} ms", seconds * 1_000.0),
        Some(seconds) => format!("{:.0} ms", seconds * 1_000.0),
    };
    let row = |(name, _, family, labels): (&str, &str, &str, &str)| {
        let parts = PARTS.iter().map(|(_, part)| cell(change.quantile(family, labels, *part)));
        [name.to_string()].into_iter().chain(parts).collect()
    };
    let head: Vec<&str> = ["LATENCY"].into_iter().chain(PARTS.iter().map(|(name, _)| *name)).collect();
    table_lines(&head, &TIMES.map(row))
}

struct Lag {
    group: String,
    topic: String,
    records: f64,
    seconds: Option<f64>,
    /// Partitions that are not included in these numbers.
    uncounted: f64,
}

/// Groups with a lag, or with an unknown one, the largest first.
fn lags(change: &Change<'_>) -> Vec<Lag> {
    let labels = ["group", "topic"];
    let seconds = change.values_by("millstream_group_lag_seconds", labels);
    let uncounted = change.values_by("millstream_group_lag_uncounted_partitions", labels);
    let records = change.values_by("millstream_group_lag_records", labels).into_iter();
    let lag = |(names, records): ([String; 2], f64)| {
        let seconds = seconds.get(&names).copied();
        let uncounted = uncounted.get(&names).copied().unwrap_or_default();
        let [group, topic] = names;
        Lag { group, topic, records, seconds, uncounted }
    };
    let mut lags: Vec<Lag> =
        records.map(lag).filter(|lag| lag.records > 0.0 || lag.uncounted > 0.0).collect();
    lags.sort_by(|a, b| b.seconds.unwrap_or(0.0).total_cmp(&a.seconds.unwrap_or(0.0)));
    lags
}

fn groups(change: &Change<'_>) -> Vec<String> {
    let row = |lag: &Lag| {
        let behind = lag.seconds.map_or("-".to_string(), |seconds| lasting((seconds * 1_000.0) as i64));
        let uncounted = match lag.uncounted {
            n if n > 0.0 => counted(n, "partition"),
            _ => String::new(),
        };
        vec![lag.group.clone(), lag.topic.clone(), format!("{:.0}", lag.records), behind, uncounted]
    };
    let rows: Vec<Vec<String>> = lags(change).iter().take(GROUPS_SHOWN).map(row).collect();
    let known = rows.iter().all(|row| row.last().is_none_or(String::is_empty));
    let head = ["GROUP", "TOPIC", "LAG", "BEHIND", if known { "" } else { "NOT COUNTED" }];
    if rows.is_empty() { Vec::new() } else { table_lines(&head, &rows) }
}

fn topics(change: &Change<'_>) -> Vec<String> {
    let by_topic = |family| change.rates_by(family, "topic").into_iter().collect::<BTreeMap<String, f64>>();
    let produced = by_topic("millstream_topic_produce_bytes_total");
    let fetched = by_topic("millstream_topic_fetch_bytes_total");
    let names: BTreeSet<&String> = fetched.keys().chain(produced.keys()).collect();
    let of = |rates: &BTreeMap<String, f64>, name: &String| rates.get(name).copied().unwrap_or_default();
    let mut topics: Vec<(&String, f64, f64)> =
        names.into_iter().map(|name| (name, of(&produced, name), of(&fetched, name))).collect();
    topics.sort_by(|a, b| (b.1 + b.2).total_cmp(&(a.1 + a.2)));
    let row = |(name, produced, fetched): &(&String, f64, f64)| {
        vec![name.to_string(), speed(*produced), speed(*fetched)]
    };
    let rows: Vec<Vec<String>> = topics.iter().take(TOPICS_SHOWN).map(row).collect();
    if rows.is_empty() { Vec::new() } else { table_lines(&["TOPIC", "IN", "OUT"], &rows) }
}

#[cfg(test)]
mod tests {
    use super::{super::scrape::tests::scrape, *};

    #[test]
    fn the_latest_group_comes_first_and_who_is_done_does_not_come() {
        let page = "millstream_group_lag_records{group=\"a\",topic=\"t\"} 5\n\
            millstream_group_lag_records{group=\"b\",topic=\"t\"} 1\n\
            millstream_group_lag_records{group=\"c\",topic=\"t\"} 0\n\
            millstream_group_lag_seconds{group=\"a\",topic=\"t\"} 3\n\
            millstream_group_lag_seconds{group=\"b\",topic=\"t\"} 130.5\n\
            millstream_group_lag_seconds{group=\"c\",topic=\"t\"} 0\n";
        let now = scrape(0, page);
        let shown = groups(&Change { before: &now, now: &now });
        assert_eq!(
            shown,
            ["GROUP  TOPIC  LAG  BEHIND", "b      t      1    2m 10s", "a      t      5    3.0s"]
        );
    }

    #[test]
    fn a_group_that_has_noted_nothing_of_some_partitions_is_not_done() {
        let page = "millstream_group_lag_records{group=\"a\",topic=\"t\"} 0\n\
            millstream_group_lag_seconds{group=\"a\",topic=\"t\"} 0\n\
            millstream_group_lag_uncounted_partitions{group=\"a\",topic=\"t\"} 2\n";
        let now = scrape(0, page);
        let change = Change { before: &now, now: &now };
        assert_eq!(
            groups(&change),
            ["GROUP  TOPIC  LAG  BEHIND  NOT COUNTED", "a      t      0    0s      2 partitions"]
        );
        let shown = json!({ "group": "a", "topic": "t", "lag_records": 0, "lag_seconds": 0.0, "uncounted_partitions": 2 });
        assert_eq!(summary(&change)["lag"][0], shown);
    }

    #[test]
    fn what_is_slow_is_not_nothing() {
        assert_eq!(
            [0.0, 12.4, 2048.0, 5_452_595.0].map(speed),
            ["0 B/s", "12 B/s", "2.0 KiB/s", "5.2 MiB/s"]
        );
    }

    #[test]
    fn a_chart_is_as_high_as_its_highest_value() {
        assert_eq!(chart(&VecDeque::from([0.0, 5.0, 10.0])), "▁▅█");
        assert_eq!(chart(&VecDeque::from([0.0, 0.0])), "▁▁");
    }
}
