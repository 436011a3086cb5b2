//! The text format of Prometheus (version 0.0.4).

use std::fmt::{Display, Write};

use super::{Family, HistogramReading, Kind};

/// A page of metrics under construction: each family has its help and type once, before its samples.
#[derive(Debug, Default)]
pub struct MetricsText {
    page: String,
}

impl MetricsText {
    /// The text of the page.
    pub fn into_page(self) -> String {
        self.page
    }

    /// A metric without labels.
    pub fn one(&mut self, family: &Family, value: impl Display) {
        self.each(family, [(String::new(), value)]);
    }

    /// A metric with one sample per set of labels.
    pub fn each<V: Display>(&mut self, family: &Family, samples: impl IntoIterator<Item = (String, V)>) {
        debug_assert_ne!(family.kind, Kind::Histogram, "{} has buckets", family.name);
        self.head(family);
        for (labels, value) in samples {
            self.sample(family.name, &labels, value);
        }
    }

    /// Durations in buckets, one histogram per set of labels.
    pub fn histograms(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (String, HistogramReading)>,
    ) {
        debug_assert_eq!(family.kind, Kind::Histogram, "{} has no buckets", family.name);
        self.head(family);
        let name = family.name;
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

    // Writing to a string cannot fail.
    fn head(&mut self, family: &Family) {
        let Family { name, help, kind, .. } = family;
        let _ = writeln!(self.page, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
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

/// One label with its value escaped.
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
    fn a_page_has_the_prometheus_format() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(1500));
        let mut text = MetricsText::default();
        let family = |name, kind, help| Family { name, kind, labels: &[], help };
        text.one(&family("a_total", Kind::Counter, "Things."), 3);
        text.each(&family("b", Kind::Gauge, "Others."), [(label("x", "1\"\\\n"), 0.5)]);
        let times = family("c_seconds", Kind::Histogram, "Times.");
        text.histograms(&times, [(label("x", "1"), histogram.read())]);
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
