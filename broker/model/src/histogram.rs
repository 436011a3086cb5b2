//! Durations, counted in buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets, in microseconds; one more takes what is longer.
const BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Counts durations. Cheap enough for every request: one search in sixteen numbers and two additions.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramReading {
    /// Upper bound in microseconds, and how many durations were at most that long.
    pub at_most: Vec<(u64, u64)>,
    /// How many durations there were.
    pub count: u64,
    /// Their sum in microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// What was counted so far. Durations that are counted meanwhile may be in a bucket and not yet in the sum.
    pub fn read(&self) -> HistogramReading {
        let mut count = 0;
        let mut counts = self.buckets.iter().map(|bucket| {
            count += bucket.load(Relaxed);
            count
        });
        let at_most = BOUNDS_MICROS.iter().copied().zip(&mut counts).collect();
        counts.next();
        drop(counts);
        HistogramReading { at_most, count, sum_micros: self.sum_micros.load(Relaxed) }
    }
}

impl HistogramReading {
    /// Both together.
    pub fn plus(mut self, other: &HistogramReading) -> HistogramReading {
        self.count += other.count;
        self.sum_micros += other.sum_micros;
        for ((_, count), (_, more)) in self.at_most.iter_mut().zip(&other.at_most) {
            *count += more;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_every_bucket_that_it_fits_into() {
        let histogram = Histogram::default();
        for micros in [1, 100, 101, 20_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        assert_eq!(reading.at_most[0], (100, 2));
        assert_eq!(reading.at_most[1], (250, 3));
        assert_eq!(reading.at_most.last(), Some(&(10_000_000, 3)));
        assert_eq!((reading.count, reading.sum_micros), (4, 20_000_202));
    }

    #[test]
    fn two_histograms_are_read_as_one() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_micros(50));
        other.record(Duration::from_micros(400));
        let both = one.read().plus(&other.read());
        assert_eq!(
            (both.count, both.sum_micros, both.at_most[0], both.at_most[2]),
            (2, 450, (100, 1), (500, 2))
        );
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_MICROS.is_sorted_by(|a, b| a < b));
    }
}
