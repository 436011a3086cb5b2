//! Observability of the broker: log lines on standard error, and counters for `/metrics`.
//!
//! Counters are plain atomics owned by the code that counts; counting needs no lookup by name and no
//! background work.

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
