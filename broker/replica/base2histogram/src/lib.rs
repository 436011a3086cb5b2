//! The part of the published crate `base2histogram` that openraft uses, without its tables.
//!
//! openraft records the sizes of the batches that it replicates, for its feature `runtime-stats`. The feature
//! is off here, so the values cannot be read; with the feature on, this crate does not compile, and the
//! published one must be used. The published crate computes tables of every precision when the first
//! histogram is created: 26 MiB that are never read and never freed, two thirds of the memory of an idle
//! broker (docs/adr/0013-histograms-of-openraft.md).

use std::{fmt, marker::PhantomData};

/// A histogram that discards its values. `T` is the data of windows in the published crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    of: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty histogram.
    pub fn new() -> Self {
        Histogram { of: PhantomData }
    }

    /// Discards a value.
    pub fn record(&mut self, _value: u64) {}

    /// Discards a value that occurred `_count` times.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// # Panics
    /// Always: there are no values. openraft calls it only with `runtime-stats`.
    pub fn percentile_stats(&self) -> PercentileStats {
        panic!(
            "openraft's runtime-stats needs the published crate base2histogram: take its patch out of Cargo.toml"
        )
    }
}

/// The number of values, and percentiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the percentiles.
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A chart of histograms that cannot be read.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {}

impl AsciiChart {
    /// An empty chart.
    pub fn new() -> Self {
        AsciiChart {}
    }

    /// Discards the histogram.
    #[allow(clippy::should_implement_trait)] // The name in the published crate.
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}
