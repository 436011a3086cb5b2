//! What openraft names of the published crate `base2histogram`, without its tables.
//!
//! openraft notes how large the batches are that it replicates, for its feature `runtime-stats`. It is off, so nobody can ask for what was noted;
//! whoever turns it on finds that this crate does not have all that it needs, and takes the published one. That one computes tables of every
//! precision when the first histogram is made: 26 MiB that are never looked at and never given back, two thirds of what an idle broker
//! held (docs/adr/0013-histograms-of-openraft.md).

use std::{fmt, marker::PhantomData};

/// Takes values and forgets them. `T` is what windows of the published crate carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    of: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// One without values.
    pub fn new() -> Self {
        Histogram { of: PhantomData }
    }

    /// Forgets a value.
    pub fn record(&mut self, _value: u64) {}

    /// Forgets a value that came `_count` times.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// # Panics
    /// Always: there are no values. openraft calls it with `runtime-stats` only.
    pub fn percentile_stats(&self) -> PercentileStats {
        panic!(
            "openraft's runtime-stats needs the published crate base2histogram: take its patch out of Cargo.toml"
        )
    }
}

/// How many values there were, and the value that so many percent of them do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each name says its percentile.
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

/// A drawing of histograms, which nobody can look at.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {}

impl AsciiChart {
    /// One without histograms.
    pub fn new() -> Self {
        AsciiChart {}
    }

    /// Leaves the histogram out.
    #[allow(clippy::should_implement_trait)] // It is the published crate's name.
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}
