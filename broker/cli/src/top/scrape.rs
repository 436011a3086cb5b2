//! A scrape of the metrics page, and the difference between two.

use std::{collections::BTreeMap, time::Instant};

use super::super::{error::CliError, http};
use millstream::clock;

/// The samples of a scrape by name with labels, and its time.
pub(super) struct Scrape {
    pub(super) at: Instant,
    pub(super) samples: BTreeMap<String, f64>,
}

/// Parses a page.
pub(super) async fn scrape(address: &str) -> Result<Scrape, CliError> {
    let answer = http::get(address, "/metrics").await?;
    match answer.status {
        200 => Ok(Scrape { at: clock::monotonic(), samples: parse(&answer.body) }),
        status => Err(CliError::Answer { status, said: answer.body.trim().to_string() }),
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

/// The value of a label in a sample's name.
fn label_of(sample: &str, label: &str) -> Option<String> {
    let (_, rest) = sample.split_once(&format!("{label}=\""))?;
    let mut value = String::new();
    let mut signs = rest.chars();
    loop {
        match signs.next()? {
            '"' => return Some(value),
            '\\' => match signs.next()? {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            sign => value.push(sign),
        }
    }
}

/// Two consecutive scrapes.
pub(super) struct Change<'a> {
    pub(super) before: &'a Scrape,
    pub(super) now: &'a Scrape,
}

impl Change<'_> {
    /// The value of a sample; 0 if it is absent.
    pub(super) fn value(&self, name: &str) -> f64 {
        self.now.samples.get(name).copied().unwrap_or_default()
    }

    /// The increase of a counter. One that has decreased was reset by a restart.
    pub(super) fn growth(&self, name: &str) -> f64 {
        let (now, before) = (self.value(name), self.before.samples.get(name).copied().unwrap_or_default());
        if now >= before { now - before } else { now }
    }

    /// Its increase per second.
    pub(super) fn rate(&self, name: &str) -> f64 {
        self.growth(name) / self.now.at.saturating_duration_since(self.before.at).as_secs_f64().max(1e-3)
    }

    fn family<'b>(&'b self, family: &str) -> impl Iterator<Item = (&'b String, f64)> + use<'b> {
        let prefix = format!("{family}{{");
        let from = self.now.samples.range(prefix.clone()..);
        from.take_while(move |(name, _)| name.starts_with(&prefix)).map(|(name, value)| (name, *value))
    }

    /// The values of a family's label with the rate of each, the largest first; zeros are omitted.
    pub(super) fn rates_by(&self, family: &str, label: &str) -> Vec<(String, f64)> {
        let named =
            self.family(family).filter_map(|(name, _)| Some((label_of(name, label)?, self.rate(name))));
        let mut rates: Vec<_> = named.filter(|(_, rate)| *rate > 0.0).collect();
        rates.sort_by(|a, b| b.1.total_cmp(&a.1));
        rates
    }

    /// A family's values by two labels.
    pub(super) fn values_by(&self, family: &str, labels: [&str; 2]) -> BTreeMap<[String; 2], f64> {
        let named = self.family(family).filter_map(|(name, value)| {
            Some(([label_of(name, labels[0])?, label_of(name, labels[1])?], value))
        });
        named.collect()
    }

    /// A quantile, in seconds, of the durations in a histogram since the previous scrape; `None` without any.
    /// Durations are assumed to be spread evenly within a bucket.
    pub(super) fn quantile(&self, family: &str, labels: &str, part: f64) -> Option<f64> {
        let comma = if labels.is_empty() { "" } else { "," };
        let prefix = format!("{family}_bucket{{{labels}{comma}le=\"");
        let bound = |name: &str| name.strip_prefix(&prefix)?.strip_suffix("\"}")?.parse::<f64>().ok();
        let buckets =
            self.now.samples.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let mut buckets: Vec<(f64, f64)> =
            buckets.filter_map(|(name, _)| Some((bound(name)?, self.growth(name)))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let wanted = all * part;
        let (mut lower, mut below) = (0.0, 0.0);
        for (upper, count) in buckets {
            if count >= wanted {
                let within = (wanted - below) / (count - below).max(1.0);
                // The last bucket has no upper bound.
                return Some(if upper.is_finite() { lower + (upper - lower) * within } else { lower });
            }
            (lower, below) = (upper, count);
        }
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    /// Scrapes of one test are apart by the given time.
    pub(in super::super) fn scrape(after: u64, page: &str) -> Scrape {
        let zero = *ZERO.get_or_init(clock::monotonic);
        Scrape { at: zero + Duration::from_secs(after), samples: parse(page) }
    }

    #[test]
    fn rates_are_growth_over_time_and_a_new_broker_begins_anew() {
        let (before, now) = (scrape(0, "a 10\nb 50\n"), scrape(2, "# TYPE a counter\na 30\nb 4\nc 1.5\n"));
        let change = Change { before: &before, now: &now };
        assert_eq!(
            (change.rate("a"), change.rate("b"), change.value("c"), change.rate("none")),
            (10.0, 2.0, 1.5, 0.0)
        );
    }

    #[test]
    fn labels_are_ranked_and_what_stands_still_is_left_out() {
        let before = scrape(0, "f{api=\"A\"} 1\nf{api=\"B\"} 1\nf{api=\"C\"} 7\n");
        let now = scrape(1, "f{api=\"A\"} 2\nf{api=\"B\"} 9\nf{api=\"C\"} 7\nfother{api=\"D\"} 5\n");
        let rates = Change { before: &before, now: &now }.rates_by("f", "api");
        assert_eq!(rates, [("B".to_string(), 8.0), ("A".to_string(), 1.0)]);
    }

    #[test]
    fn labels_are_read_as_they_were_written() {
        let sample = r#"l{group="a \"b\" \\",topic="t"}"#;
        assert_eq!(label_of(sample, "group").as_deref(), Some(r#"a "b" \"#));
        let now = scrape(0, &format!("{sample} 7\n"));
        let by = Change { before: &now, now: &now }.values_by("l", ["group", "topic"]);
        assert_eq!(by.into_iter().next(), Some(([r#"a "b" \"#.to_string(), "t".to_string()], 7.0)));
    }

    #[test]
    fn quantiles_are_those_of_the_time_between_two_looks() {
        let page = |counts: [u64; 3]| {
            let [a, b, all] = counts;
            format!(
                "h_bucket{{x=\"1\",le=\"0.001\"}} {a}\nh_bucket{{x=\"1\",le=\"0.01\"}} {b}\nh_bucket{{x=\"1\",le=\"+Inf\"}} {all}\n"
            )
        };
        let (before, now) =
            (scrape(0, &page([1_000, 1_000, 1_000])), scrape(1, &page([1_050, 1_099, 1_100])));
        let change = Change { before: &before, now: &now };
        let at = |part| change.quantile("h", "x=\"1\"", part);
        assert_eq!(at(0.5), Some(0.001));
        assert!(at(0.95).is_some_and(|s| s > 0.009 && s < 0.01), "{:?}", at(0.95));
        assert_eq!(at(1.0), Some(0.01));
        assert_eq!(Change { before: &now, now: &now }.quantile("h", "x=\"1\"", 0.5), None);
    }
}
