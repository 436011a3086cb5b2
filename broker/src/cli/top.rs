//! `millstream top`: what a broker does now, from its page of metrics.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    connect::{Output, runtime},
    error::CliError,
    output::Out,
};
use crate::clock;

/// How long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest page that is read.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Topics that are shown, the busiest first.
const TOPICS_SHOWN: usize = 10;
/// Clears a terminal and begins at its top.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";
const MIB: f64 = 1_048_576.0;

/// Rates are those of the time between two looks.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Where the broker answers HTTP.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", env = "MILLSTREAM_HTTP_ADDR")]
    http_addr: String,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// End after so many looks [default: when it is interrupted].
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The shape of results.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Shows until it is told to end.
pub(super) fn run(args: TopArgs) -> Result<(), CliError> {
    runtime()?.block_on(async move {
        let every = Duration::from_secs(args.every);
        let clear = args.output == Output::Table && io::stdout().is_terminal();
        let mut before = look(&args.http_addr).await?;
        let mut left = args.count.unwrap_or(u64::MAX);
        while left > 0 {
            left -= 1;
            tokio::time::sleep_until((before.at + every).into()).await;
            let now = look(&args.http_addr).await?;
            // For a terminal the writer is opened anew each time: what is shown is shown as a whole.
            let mut out = Out::new();
            if clear {
                out.bytes(CLEAR)?;
            }
            show(&Change { before: &before, now: &now }, args.output, &mut out)?;
            out.flush()?;
            before = now;
        }
        Ok(())
    })
}

/// Samples of one page by their name with labels, and when it was read.
struct Look {
    at: Instant,
    samples: BTreeMap<String, f64>,
}

async fn look(address: &str) -> Result<Look, CliError> {
    let failed = || {
        CliError::io(format!(
            "cannot read http://{address}/metrics (--http-addr names the broker's HTTP port)"
        ))
    };
    let page = match tokio::time::timeout(PAGE_TIMEOUT, get(address)).await {
        Ok(page) => page.map_err(failed())?,
        Err(_) => return Err(failed()(io::ErrorKind::TimedOut.into())),
    };
    Ok(Look { at: clock::monotonic(), samples: parse(&page) })
}

async fn get(address: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    socket.take(PAGE_BYTES_MAX).read_to_string(&mut page).await?;
    match page.split_once("\r\n\r\n") {
        Some((head, body)) if head.split_whitespace().nth(1) == Some("200") => Ok(body.to_string()),
        _ => Err(io::Error::other("the answer is not a page of metrics")),
    }
}

fn parse(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_string(), value.parse().ok()?))
    };
    lines.filter_map(sample).collect()
}

/// Two looks, one after the other.
struct Change<'a> {
    before: &'a Look,
    now: &'a Look,
}

impl Change<'_> {
    fn value(&self, name: &str) -> f64 {
        self.now.samples.get(name).copied().unwrap_or_default()
    }

    /// How much a counter has grown. One that is smaller than before began anew with its broker.
    fn growth(&self, name: &str) -> f64 {
        let (now, before) = (self.value(name), self.before.samples.get(name).copied().unwrap_or_default());
        if now >= before { now - before } else { now }
    }

    fn rate(&self, name: &str) -> f64 {
        self.growth(name) / self.now.at.saturating_duration_since(self.before.at).as_secs_f64().max(1e-3)
    }

    /// The values of a label that a family has, with its rate for each, the largest first; zeros are left out.
    fn rates_by(&self, family: &str, label: &str) -> Vec<(String, f64)> {
        let prefix = format!("{family}{{{label}=\"");
        let names = self
            .now
            .samples
            .keys()
            .filter_map(|name| Some((name, name.strip_prefix(&prefix)?.strip_suffix("\"}")?)));
        let mut rates: Vec<_> = names.map(|(name, value)| (value.to_string(), self.rate(name))).collect();
        rates.retain(|(_, rate)| *rate > 0.0);
        rates.sort_by(|a, b| b.1.total_cmp(&a.1));
        rates
    }
}

fn show(change: &Change<'_>, output: Output, out: &mut Out) -> Result<(), CliError> {
    match output {
        Output::Json => out.json(&summary_json(change)),
        Output::Table => show_table(change, out),
    }
}

fn summary_json(change: &Change<'_>) -> serde_json::Value {
    let by_name = |rates: Vec<(String, f64)>| rates.into_iter().collect::<BTreeMap<_, _>>();
    json!({
        "produce_bytes_per_second": change.rate("millstream_produce_bytes_total"),
        "produce_records_per_second": change.rate("millstream_produce_records_total"),
        "produce_refused_per_second": change.rate("millstream_produce_refused_total"),
        "fetch_bytes_per_second": change.rate("millstream_fetch_bytes_total"),
        "wal_syncs_per_second": change.rate("millstream_wal_syncs_total"),
        "wal_busy": change.rate("millstream_wal_sync_seconds_total"),
        "cpus": change.rate("process_cpu_seconds_total"),
        "connections": change.value("millstream_connections"),
        "resident_bytes": change.value("process_resident_memory_bytes"),
        "requests_per_second": by_name(change.rates_by("millstream_requests_total", "api")),
    })
}

fn show_table(change: &Change<'_>, out: &mut Out) -> Result<(), CliError> {
    let mib = |name: &str| change.value(name) / MIB;
    let mib_rate = |name: &str| change.rate(name) / MIB;
    let syncs = change.growth("millstream_wal_syncs_total");
    let each_ms =
        if syncs > 0.0 { change.growth("millstream_wal_sync_seconds_total") * 1000.0 / syncs } else { 0.0 };
    let rows = [
        (
            "produce",
            format!(
                "{:.1} MiB/s, {:.0} records/s, {:.0} batches refused/s",
                mib_rate("millstream_produce_bytes_total"),
                change.rate("millstream_produce_records_total"),
                change.rate("millstream_produce_refused_total"),
            ),
        ),
        ("fetch", format!("{:.1} MiB/s", mib_rate("millstream_fetch_bytes_total"))),
        (
            "log",
            format!(
                "{:.0} syncs/s of {each_ms:.2} ms, {:.1} MiB/s, busy {:.0} %",
                change.rate("millstream_wal_syncs_total"),
                mib_rate("millstream_wal_written_bytes_total"),
                change.rate("millstream_wal_sync_seconds_total") * 100.0,
            ),
        ),
        (
            "memory",
            format!(
                "{:.0} MiB resident: log {:.0}, memtable {:.0}, cache {:.0}",
                mib("process_resident_memory_bytes"),
                mib("millstream_wal_memory_bytes"),
                mib("millstream_memtable_bytes"),
                mib("millstream_cache_bytes"),
            ),
        ),
        (
            "disk",
            format!(
                "{:.0} MiB in {} runs, {:.0} MiB of log, {:.0} MiB free",
                mib("millstream_run_bytes"),
                change.value("millstream_runs"),
                mib("millstream_wal_live_bytes"),
                mib("millstream_disk_free_bytes"),
            ),
        ),
        (
            "process",
            format!(
                "{:.2} CPUs, {} connections, {} topics, {} partitions",
                change.rate("process_cpu_seconds_total"),
                change.value("millstream_connections"),
                change.value("millstream_topics"),
                change.value("millstream_partitions"),
            ),
        ),
    ];
    for (what, text) in rows {
        out.line(&format!("{what:<8} {text}"))?;
    }
    show_busiest(change, out)
}

fn show_busiest(change: &Change<'_>, out: &mut Out) -> Result<(), CliError> {
    let requests: Vec<String> = change
        .rates_by("millstream_requests_total", "api")
        .into_iter()
        .map(|(api, rate)| format!("{api} {rate:.0}"))
        .collect();
    out.line(&format!(
        "requests {}",
        if requests.is_empty() { "none".into() } else { requests.join(", ") + " per second" }
    ))?;
    let fetched: BTreeMap<String, f64> =
        change.rates_by("millstream_topic_fetch_bytes_total", "topic").into_iter().collect();
    let produced: BTreeMap<String, f64> =
        change.rates_by("millstream_topic_produce_bytes_total", "topic").into_iter().collect();
    let names: std::collections::BTreeSet<&String> = fetched.keys().chain(produced.keys()).collect();
    let of = |rates: &BTreeMap<String, f64>, name: &String| rates.get(name).copied().unwrap_or_default();
    let mut topics: Vec<(&String, f64, f64)> =
        names.into_iter().map(|name| (name, of(&produced, name), of(&fetched, name))).collect();
    topics.sort_by(|a, b| (b.1 + b.2).total_cmp(&(a.1 + a.2)));
    if topics.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let row = |(name, produced, fetched): &(&String, f64, f64)| {
        vec![name.to_string(), format!("{:.2}", produced / MIB), format!("{:.2}", fetched / MIB)]
    };
    let rows: Vec<Vec<String>> = topics.iter().take(TOPICS_SHOWN).map(row).collect();
    out.table(&["TOPIC", "IN MiB/s", "OUT MiB/s"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(after: u64, page: &str) -> Look {
        // Looks of one test are apart as far as they say.
        let zero = *ZERO.get_or_init(clock::monotonic);
        Look { at: zero + Duration::from_secs(after), samples: parse(page) }
    }

    static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    #[test]
    fn rates_are_growth_over_time_and_a_new_broker_begins_anew() {
        let (before, now) = (look(0, "a 10\nb 50\n"), look(2, "# TYPE a counter\na 30\nb 4\nc 1.5\n"));
        let change = Change { before: &before, now: &now };
        assert_eq!(
            (change.rate("a"), change.rate("b"), change.value("c"), change.rate("none")),
            (10.0, 2.0, 1.5, 0.0)
        );
    }

    #[test]
    fn labels_are_ranked_and_what_stands_still_is_left_out() {
        let before = look(0, "f{api=\"A\"} 1\nf{api=\"B\"} 1\nf{api=\"C\"} 7\n");
        let now = look(1, "f{api=\"A\"} 2\nf{api=\"B\"} 9\nf{api=\"C\"} 7\nother{api=\"D\"} 5\n");
        let rates = Change { before: &before, now: &now }.rates_by("f", "api");
        assert_eq!(rates, [("B".to_string(), 8.0), ("A".to_string(), 1.0)]);
    }
}
