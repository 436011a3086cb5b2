//! The text format of Prometheus (version 0.0.4).

use std::fmt::{Display, Write};

use super::HistogramReading;

/// A page of metrics that is being written: each family has its help and type once, in front of its samples.
#[derive(Debug, Default)]
pub struct MetricsText {
    page: String,
}

impl MetricsText {
    /// The page.
    pub fn into_page(self) -> String {
        self.page
    }

    /// A number that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.counters(name, help, [(String::new(), value)]);
    }

    /// A number that only grows, one for each set of labels.
    pub fn counters<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.family(name, help, "counter", samples);
    }

    /// A number that comes and goes.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauges(name, help, [(String::new(), value)]);
    }

    /// A number that comes and goes, one for each set of labels.
    pub fn gauges<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.family(name, help, "gauge", samples);
    }

    /// Durations in buckets, one histogram for each set of labels.
    pub fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, HistogramReading)>,
    ) {
        self.head(name, help, "histogram");
        for (labels, reading) in samples {
            for (bound, count) in &reading.at_most {
                self.bucket(name, &labels, &seconds(*bound), *count);
            }
            self.bucket(name, &labels, "+Inf", reading.count);
            self.sample(&format!("{name}_sum"), &labels, seconds(reading.sum_micros));
            self.sample(&format!("{name}_count"), &labels, reading.count);
        }
    }

    fn bucket(&mut self, name: &str, labels: &str, bound: &str, count: u64) {
        let comma = if labels.is_empty() { "" } else { "," };
        self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
    }

    fn family<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, help, kind);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    // Writing to a string does not fail.
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.page, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.page, "{name} {value}"),
            labels => writeln!(self.page, "{name}{{{labels}}} {value}"),
        };
    }
}

/// Microseconds as seconds, without trailing zeros.
pub(crate) fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// One label, its value escaped.
pub(crate) fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Histogram;
    use std::time::Duration;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(1500));
        let mut text = MetricsText::default();
        text.counter("a_total", "Things.", 3);
        text.gauges("b", "Others.", [(label("x", "1\"\\\n"), 0.5)]);
        text.histograms("c_seconds", "Times.", [(label("x", "1"), histogram.read())]);
        let page = text.into_page();
        assert!(page.starts_with("# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n"), "{page}");
        assert!(page.contains("b{x=\"1\\\"\\\\\\n\"} 0.5\n"), "{page}");
        assert!(page.contains("c_seconds_bucket{x=\"1\",le=\"0.001\"} 0\n"), "{page}");
        assert!(page.contains("c_seconds_bucket{x=\"1\",le=\"0.0025\"} 1\n"), "{page}");
        assert!(page.contains("c_seconds_bucket{x=\"1\",le=\"+Inf\"} 1\n"), "{page}");
        assert!(page.contains("c_seconds_sum{x=\"1\"} 0.0015\nc_seconds_count{x=\"1\"} 1\n"), "{page}");
    }

    #[test]
    fn seconds_have_no_trailing_zeros() {
        assert_eq!(
            [seconds(0), seconds(250), seconds(10_000_000), seconds(1_500_000)],
            ["0", "0.00025", "10", "1.5"]
        );
    }
}
