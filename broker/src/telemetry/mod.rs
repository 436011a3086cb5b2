//! What the broker tells about itself: log lines on standard error, and counters that `/metrics` reads.
//!
//! Counters are plain atomics that belong to whoever counts; nothing is looked up by name where it is counted, and nothing
//! runs behind them.

pub mod families;
mod log;
mod log_queue;
mod meter;
mod text;
mod warnings;

pub use families::{Family, Kind};
pub use millstream_model::{Histogram, HistogramReading};

pub use log::{FilterError, LAST_LINES_WAIT, LogFormat, LogSwitch, start_log};
pub use log_queue::{dropped_log_lines, flush_log};
pub use meter::{ApiMeter, CommitMeter, Meter, StageMeter, TopicMeter, TopicMeters};
pub use text::MetricsText;
pub(crate) use text::{label, seconds};
pub(crate) use warnings::Warnings;
