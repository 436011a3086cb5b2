//! What the broker tells about itself: log lines on standard error, and counters that `/metrics` reads.
//!
//! Counters are plain atomics that belong to whoever counts; nothing is looked up by name where it is counted, and nothing
//! runs behind them.

pub mod families;
mod log;
mod meter;
mod text;

pub use families::{Family, Kind};
pub use millstream_model::{Histogram, HistogramReading};

pub use log::{FilterError, LogFormat, LogSwitch, start_log};
pub use meter::{ApiMeter, CommitMeter, Meter, StageMeter, TopicMeter};
pub use text::MetricsText;
pub(crate) use text::{label, seconds};
