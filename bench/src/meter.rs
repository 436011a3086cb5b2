//! What counts while it is measured: durations in a histogram, a rate over time, processor time.

use std::{
    fs,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    clock,
    error::BenchError,
    result::{Cpu, Figure, Latency, LatencyUnit, Machine, Rate},
};

/// Durations above it count as it.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;
/// Digits of a duration that are kept.
const LATENCY_DIGITS: u8 = 3;
/// Points of a percentile series each time that the distance to 100 % halves.
const POINTS_PER_HALVING: u32 = 5;
/// The first width of a part of a rate's series.
const PART_FIRST: Duration = Duration::from_millis(50);
/// The processor time of another process is counted in hundredths of a second: less than ten of them say little.
pub const BROKER_SECONDS_MIN: f64 = 0.1;
/// At this many parts, pairs of them are merged.
const PARTS_MAX: usize = 240;

/// Durations.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, LATENCY_DIGITS);
        Latencies(histogram.expect("the bounds are constants that fit"))
    }

    pub(super) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    /// The distribution; none when there was nothing to measure.
    pub(super) fn latency(&self, what: &str) -> Option<Latency> {
        if self.0.is_empty() {
            return None;
        }
        let steps = self.0.iter_quantiles(POINTS_PER_HALVING);
        let steps = steps.map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to()));
        Some(Latency {
            what: what.to_string(),
            unit: LatencyUnit::Micros,
            count: self.0.len(),
            mean: self.0.mean(),
            min: self.0.min(),
            max: self.0.max(),
            percentiles: steps.collect(),
        })
    }

    /// The durations that people ask for.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let named =
            [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];
        if self.0.is_empty() {
            return Vec::new();
        }
        // A percentile that is decided by less than one value is the maximum under another name.
        let known =
            named.iter().filter(|(_, share)| *share == 1.0 || self.0.len() as f64 * (1.0 - share) >= 1.0);
        known
            .map(|(name, share)| {
                let micros = self.0.value_at_quantile(*share) as f64;
                Figure::lower(&format!("latency_{name}"), micros / 1000.0, "ms")
            })
            .collect()
    }
}

/// How much was done, part by part. However long it lasts it has at most [`PARTS_MAX`] parts.
pub(super) struct Series {
    began: Instant,
    width: Duration,
    parts: Vec<u64>,
}

impl Series {
    pub(super) fn new(began: Instant) -> Series {
        Series { began, width: PART_FIRST, parts: Vec::new() }
    }

    pub(super) fn add(&mut self, now: Instant, count: u64) {
        let at = |width: Duration| {
            (now.saturating_duration_since(self.began).as_nanos() / width.as_nanos()) as usize
        };
        let mut part = at(self.width);
        while part >= PARTS_MAX {
            self.parts = self.parts.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.width *= 2;
            part = at(self.width);
        }
        if part >= self.parts.len() {
            self.parts.resize(part + 1, 0);
        }
        self.parts[part] += count;
    }

    /// The rate until `end`. The last part is shorter; where it is very short it belongs to the one before.
    pub(super) fn rate(&self, end: Instant, unit: &str) -> Option<Rate> {
        let all = end.saturating_duration_since(self.began).as_secs_f64();
        let (width, mut points, mut from) = (self.width.as_secs_f64(), Vec::new(), 0.0);
        let mut parts = self.parts.clone();
        let rest = all - width * parts.len().saturating_sub(1) as f64;
        if parts.len() > 1 && rest < width / 2.0 {
            let last = parts.pop().unwrap_or_default();
            *parts.last_mut()? += last;
        }
        for (at, count) in parts.iter().enumerate() {
            let until = if at + 1 == parts.len() { all } else { width * (at + 1) as f64 };
            points.push((rounded(until), rounded(*count as f64 / (until - from).max(1e-6))));
            from = until;
        }
        (all > 0.0 && !points.is_empty()).then(|| Rate { unit: unit.to_string(), points })
    }
}

/// To a thousandth: what is below was not measured.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Processor time of the client and, if its process is known, of the broker, since a moment.
pub(super) struct Meter {
    pid: Option<u32>,
    client: Duration,
    broker: Option<f64>,
}

impl Meter {
    pub(super) fn begin(pid: Option<u32>) -> Result<Meter, BenchError> {
        let broker = pid.map(|pid| cpu_seconds(&pid.to_string()).ok_or(BenchError::Process { pid }));
        let broker = broker.transpose()?;
        Ok(Meter { pid, client: clock::process_cpu(), broker })
    }

    pub(super) fn end(&self) -> Cpu {
        let client = clock::process_cpu().saturating_sub(self.client);
        let broker = self.pid.and_then(|pid| Some((cpu_seconds(&pid.to_string())? - self.broker?).max(0.0)));
        Cpu { client_seconds: Some(client.as_micros() as f64 / 1e6), broker_seconds: broker.map(rounded) }
    }
}

/// What it cost for each record; nothing of a broker whose time is too short for the steps in which the system counts it.
pub(super) fn cpu_figures(cpu: &Cpu, records: u64) -> Vec<Figure> {
    let each = |seconds: f64| seconds * 1e6 / records.max(1) as f64;
    let client = cpu.client_seconds.map(|s| Figure::lower("client_cpu_per_record", each(s), "us"));
    let broker = cpu.broker_seconds.filter(|s| *s >= BROKER_SECONDS_MIN);
    let broker = broker.map(|s| Figure::lower("broker_cpu_per_record", each(s), "us"));
    client.into_iter().chain(broker).collect()
}

/// User and system time of a process; none where the system does not tell.
fn cpu_seconds(pid: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The name in the second field may have blanks and brackets of its own.
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// This machine.
pub(super) fn machine() -> Machine {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'))?;
        Some(found.1.trim().to_string())
    };
    let kib = line("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    Machine {
        cpu: line("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().ok().map(usize::from),
        memory_bytes: kib.map(|kib| kib * 1024),
        system: Some(format!(
            "{} {} {}",
            std::env::consts::OS,
            kernel.unwrap_or_default().trim(),
            std::env::consts::ARCH
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_grow_and_end_with_the_longest() {
        let mut latencies = Latencies::new();
        assert!(latencies.latency("x").is_none() && latencies.figures().is_empty());
        for micros in 1..=1000 {
            latencies.add(Duration::from_micros(micros));
        }
        let found = latencies.latency("x").expect("a thousand");
        assert_eq!((found.count, found.min, found.max), (1000, 1, 1000));
        let half = found.percentiles.iter().find(|(percent, _)| *percent >= 50.0).expect("a middle");
        assert!((499..=501).contains(&half.1), "{half:?}");
        assert_eq!(found.percentiles.last(), Some(&(100.0, 1000)));
        assert!(found.percentiles.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        let names: Vec<String> = latencies.figures().into_iter().map(|figure| figure.name).collect();
        assert_eq!(
            names,
            ["latency_p50", "latency_p90", "latency_p99", "latency_p99.9", "latency_max"],
            "a thousand values say nothing of one in ten thousand"
        );
    }

    #[test]
    fn a_series_counts_everything_once_and_stays_bounded() {
        let began = clock::monotonic();
        let mut series = Series::new(began);
        for n in 0..10_000u64 {
            series.add(began + Duration::from_millis(n * 10), 3);
        }
        assert!(series.parts.len() <= PARTS_MAX);
        let end = began + Duration::from_millis(99_990);
        let rate = series.rate(end, "records/s").expect("points");
        let mut from = 0.0;
        let sum: f64 = rate
            .points
            .iter()
            .map(|(until, rate)| rate * (until - std::mem::replace(&mut from, *until)))
            .sum();
        assert!((sum - 30_000.0).abs() < 1.0, "{sum}");
        assert_eq!(rate.points.last().map(|point| point.0), Some(99.99));
        assert!(rate.points.iter().all(|(_, rate)| (290.0..310.0).contains(rate)), "{:?}", rate.points);
    }

    #[test]
    fn a_series_without_anything_has_no_rate() {
        let began = clock::monotonic();
        assert!(Series::new(began).rate(began + Duration::from_secs(1), "x").is_none());
    }

    #[test]
    fn processor_time_is_read_behind_a_name_with_brackets() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Meter::begin(Some(u32::MAX)).is_err());
        assert!(Meter::begin(None).expect("ourselves").end().client_seconds.is_some());
    }

    #[test]
    fn cost_is_told_for_each_record() {
        let cpu = Cpu { client_seconds: Some(2.0), broker_seconds: None };
        let figures = cpu_figures(&cpu, 1_000_000);
        assert_eq!(
            figures.iter().map(|f| (f.name.as_str(), f.value)).collect::<Vec<_>>(),
            [("client_cpu_per_record", 2.0)]
        );
        let broker = |seconds| {
            let cpu = Cpu { client_seconds: None, broker_seconds: Some(seconds) };
            cpu_figures(&cpu, 1_000).first().map(|figure| figure.value)
        };
        assert_eq!([broker(0.0), broker(0.09), broker(0.5)], [None, None, Some(500.0)]);
    }

    #[test]
    fn little_processor_time_is_measured_too() {
        let meter = Meter::begin(None).expect("ourselves");
        let worked: u64 = (0..100_000).map(std::hint::black_box).sum();
        let seconds = meter.end().client_seconds.expect("it is known");
        assert!(worked > 0 && seconds > 0.0, "{seconds}");
    }
}
