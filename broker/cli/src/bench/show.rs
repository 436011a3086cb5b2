//! The output of a result.

use millstream_bench::{
    BROKER_SECONDS_MIN,
    result::{Better, Run},
};

use crate::{connect::Output, error::CliError, output::Out};

/// One round: a table for people, or the result itself as JSON.
pub(super) fn run(output: Output, run: &Run, (round, rounds): (u32, u32)) -> Result<(), CliError> {
    let mut out = Out::new();
    match output {
        Output::Json => out.json(run)?,
        Output::Table => {
            if rounds > 1 {
                out.line(&format!("round {round} of {rounds}"))?;
            }
            out.line(&format!("{} of {}: {}", run.case, run.label, parameters(run)))?;
            let rows: Vec<Vec<String>> = run
                .figures
                .iter()
                .map(|figure| {
                    let better = match figure.better {
                        Better::Higher => "higher",
                        Better::Lower => "lower",
                    };
                    vec![
                        figure.name.replace('_', " "),
                        number(figure.value),
                        figure.unit.clone(),
                        better.to_string(),
                    ]
                })
                .collect();
            out.table(&["FIGURE", "VALUE", "UNIT", "BETTER"], &rows)?;
            if let Some(latency) = &run.latency {
                out.line(&format!("latency counts {}, {} times", latency.what, latency.count))?;
            }
            if let Some(seconds) = run.cpu.broker_seconds.filter(|seconds| *seconds < BROKER_SECONDS_MIN) {
                out.line(&format!(
                    "broker cpu per record is not shown: {seconds:.2} s are too few to measure; use more records"
                ))?;
            }
        }
    }
    out.flush()
}

fn parameters(run: &Run) -> String {
    let shown = run.parameters.iter().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), String::from);
        format!("{} {value}", name.replace('_', " "))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Three significant digits, and no fractions of large numbers.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        assert_eq!(
            [123456.7, 12.34, 1.234, 0.1234, 0.0].map(number),
            ["123457", "12.3", "1.23", "0.123", "0"]
        );
    }
}
