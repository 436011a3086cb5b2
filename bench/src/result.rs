//! What a measurement gives: the one shape in which results are printed, kept and compared. It is described in
//! `docs/benchmarks.md`; what is added to it later may be left out, so that older files stay readable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the shape. Its number grows when a reader of the old shape would misread the new one.
pub const FORMAT: &str = "millstream-bench/1";

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: String,
    /// What was measured.
    pub case: String,
    /// What was measured is called so in a report; runs with the same label repeat each other.
    pub label: String,
    /// When it began: milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Where the client ran.
    pub machine: Machine,
    /// What measured.
    pub client: Client,
    /// What was measured.
    pub broker: Broker,
    /// What was asked for, units in the names.
    pub parameters: BTreeMap<String, Value>,
    /// What came out.
    pub figures: Vec<Figure>,
    /// How long single operations took.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// How much was done over time.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// What it cost.
    #[serde(default)]
    pub cpu: Cpu,
    /// How long the client's process did not run at most, where that was so long that its times say it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_stood_still_ms: Option<u64>,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Processors that the client may use.
    pub cores: Option<usize>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// The operating system and its version.
    pub system: Option<String>,
}

/// What measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Its name and version.
    pub version: String,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    /// Where it was reached.
    pub bootstrap: String,
    /// Its cluster's id.
    pub cluster_id: Option<String>,
    /// Brokers of the cluster.
    pub nodes: Option<usize>,
    /// What it was built from, as the user gave it.
    pub commit: Option<String>,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
}

impl Figure {
    pub fn higher(name: &str, value: f64, unit: &str) -> Figure {
        Figure { name: name.to_string(), value, unit: unit.to_string(), better: Better::Higher }
    }

    pub fn lower(name: &str, value: f64, unit: &str) -> Figure {
        Figure { better: Better::Lower, ..Figure::higher(name, value, unit) }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

/// A distribution of durations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// From when to when.
    pub what: String,
    /// Microseconds.
    pub unit: LatencyUnit,
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The shortest.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// Percent, and the duration that this share did not exceed; both grow.
    pub percentiles: Vec<(f64, u64)>,
}

/// The unit of durations; one, so that files can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LatencyUnit {
    #[serde(rename = "us")]
    Micros,
}

/// A rate over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Its unit.
    pub unit: String,
    /// Seconds since the beginning, and the rate since the point before.
    pub points: Vec<(f64, f64)>,
}

/// Processor time, user and system together; none where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Of the client's process.
    pub client_seconds: Option<f64>,
    /// Of the broker's process.
    pub broker_seconds: Option<f64>,
}

/// Why a run cannot be believed.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum RunError {
    /// Not this kind of file.
    #[error("it is no result of `millstream bench`: it has no \"format\"")]
    Foreign,
    /// Written by another version.
    #[error("its format is \"{found}\", and this version reads \"{FORMAT}\"")]
    Format { found: String },
    /// Not the shape that the format says.
    #[error("it is not complete: {0}")]
    Shape(String),
    /// A figure comes twice.
    #[error("figure \"{0}\" comes twice")]
    FigureTwice(String),
    /// The label names nothing.
    #[error("its label or its case is empty")]
    Nameless,
    /// A series that runs backwards.
    #[error("the points of \"{0}\" are not in order")]
    Unordered(&'static str),
    /// A rate or a number that cannot have been measured.
    #[error("\"{0}\" has a value that cannot be: {1}")]
    Impossible(String, f64),
}

impl Run {
    /// The run in a value from an untrusted file.
    pub fn read(value: Value) -> Result<Run, RunError> {
        let format = value.get("format").and_then(Value::as_str).ok_or(RunError::Foreign)?;
        if format != FORMAT {
            return Err(RunError::Format { found: format.to_string() });
        }
        let run: Run = serde_json::from_value(value).map_err(|error| RunError::Shape(error.to_string()))?;
        run.validate()?;
        Ok(run)
    }

    fn validate(&self) -> Result<(), RunError> {
        if self.label.trim().is_empty() || self.case.trim().is_empty() {
            return Err(RunError::Nameless);
        }
        for (at, figure) in self.figures.iter().enumerate() {
            if self.figures[..at].iter().any(|before| before.name == figure.name) {
                return Err(RunError::FigureTwice(figure.name.clone()));
            }
            possible(&figure.name, figure.value)?;
        }
        for seconds in [self.cpu.client_seconds, self.cpu.broker_seconds].into_iter().flatten() {
            possible("cpu", seconds)?;
        }
        if let Some(latency) = &self.latency {
            let grows = |pair: &[(f64, u64)]| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1;
            if !latency.percentiles.windows(2).all(grows) {
                return Err(RunError::Unordered("latency"));
            }
            let percents = latency.percentiles.iter().map(|(percent, _)| *percent);
            if let Some(wrong) = percents.into_iter().find(|percent| !(0.0..=100.0).contains(percent)) {
                return Err(RunError::Impossible("latency".to_string(), wrong));
            }
        }
        let points = self.rate.iter().flat_map(|rate| &rate.points);
        points.clone().try_for_each(|(at, rate)| possible("rate", at.min(*rate)))?;
        match points.clone().zip(points.skip(1)).all(|(before, after)| before.0 < after.0) {
            true => Ok(()),
            false => Err(RunError::Unordered("rate")),
        }
    }
}

fn possible(name: &str, value: f64) -> Result<(), RunError> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(RunError::Impossible(name.to_string(), value)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn run(label: &str) -> Run {
        Run {
            format: FORMAT.to_string(),
            case: "latency".to_string(),
            label: label.to_string(),
            started_ms: 1,
            machine: Machine::default(),
            client: Client::default(),
            broker: Broker::default(),
            parameters: BTreeMap::from([("size_bytes".to_string(), json!(100))]),
            figures: vec![Figure::higher("records_per_second", 5.0, "records/s")],
            latency: Some(Latency {
                what: "x".to_string(),
                unit: LatencyUnit::Micros,
                count: 2,
                mean: 1.5,
                min: 1,
                max: 2,
                percentiles: vec![(50.0, 1), (100.0, 2)],
            }),
            rate: Some(Rate { unit: "records/s".to_string(), points: vec![(1.0, 5.0), (2.0, 6.0)] }),
            cpu: Cpu { client_seconds: Some(0.5), broker_seconds: None },
            client_stood_still_ms: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let value = serde_json::to_value(run("a")).expect("JSON");
        assert_eq!(Run::read(value), Ok(run("a")));
    }

    #[test]
    fn what_may_be_unknown_may_be_left_out() {
        let mut value = serde_json::to_value(run("a")).expect("JSON");
        for name in ["latency", "rate", "cpu"] {
            value.as_object_mut().expect("an object").remove(name);
        }
        value["invented_later"] = json!(1);
        let read = Run::read(value).expect("complete");
        assert!(read.latency.is_none() && read.cpu == Cpu::default());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        let with = |pointer: &str, wrong: Value| {
            let mut value = serde_json::to_value(run("a")).expect("JSON");
            *value.pointer_mut(pointer).expect("a place") = wrong;
            Run::read(value).expect_err("refused").to_string()
        };
        for (pointer, wrong, said) in [
            ("/format", json!(7), "no \"format\""),
            ("/format", json!("millstream-bench/2"), "reads \"millstream-bench/1\""),
            ("/label", json!(" "), "label"),
            ("/figures/0/value", json!(null), "not complete"),
            ("/figures/0/value", json!(-1), "records_per_second"),
            ("/latency/unit", json!("ms"), "unknown variant `ms`"),
            ("/latency/percentiles", json!([[50.0, 2], [99.0, 1]]), "not in order"),
            ("/latency/percentiles", json!([[101.0, 2]]), "101"),
            ("/rate/points", json!([[2.0, 1.0], [1.0, 1.0]]), "not in order"),
            ("/rate/points", json!([[2.0, -1.0]]), "cannot be"),
        ] {
            let error = with(pointer, wrong.clone());
            assert!(error.contains(said), "{pointer} {wrong}: {error}");
        }
        let twice = Run { figures: [run("a").figures, run("a").figures].concat(), ..run("a") };
        assert_eq!(twice.validate(), Err(RunError::FigureTwice("records_per_second".to_string())));
    }
}
