//! Results on standard output: tables for people, JSON for programs.

use std::{
    fmt::Display,
    io::{self, BufWriter, StdoutLock, Write},
};

use serde::Serialize;

use super::error::CliError;

/// Standard output. A reader that goes away is an error here and ends the command, but is not a failure.
pub(super) struct Out {
    writer: BufWriter<StdoutLock<'static>>,
}

impl Out {
    pub(super) fn new() -> Out {
        Out { writer: BufWriter::new(io::stdout().lock()) }
    }

    /// Writes bytes unchanged.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.writer.write_all(bytes).map_err(CliError::io("cannot write the result"))
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: &str) -> Result<(), CliError> {
        self.bytes(line.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes a value as JSON in one line.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value)
            .map_err(|error| CliError::io("cannot write the result")(error.into()))?;
        self.line(&text)
    }

    /// Writes a table with aligned columns.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        for line in table_lines(head, rows) {
            self.line(&line)?;
        }
        Ok(())
    }

    /// Writes names and values, one pair per line.
    pub(super) fn pairs(&mut self, rows: &[Vec<String>]) -> Result<(), CliError> {
        // This table has no header, so its first line takes that place.
        table_lines(&["", ""], rows).iter().skip(1).try_for_each(|line| self.line(line))
    }

    /// Flushes the buffer.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(CliError::io("cannot write the result"))
    }
}

/// The lines of a table with aligned columns.
pub(super) fn table_lines(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[&str]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_string()
    };
    let mut lines = vec![line(head)];
    lines.extend(rows.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>())));
    lines
}

/// A number and what it counts: `1 record`, `2 records`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    let s = if n == N::from(1) { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// `was` or `were`, by the number.
pub(super) fn were<N: PartialEq + From<u8>>(n: N) -> &'static str {
    if n == N::from(1) { "was" } else { "were" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|n: u64| counted(n, "record")), ["0 records", "1 record", "2 records"]);
        assert_eq!(counted(1.0, "topic"), "1 topic");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_string(), "1".to_string()], vec!["long name".to_string(), "23".to_string()]];
        let lines = table_lines(&["NAME", "PARTITIONS"], &rows);
        assert_eq!(lines, ["NAME       PARTITIONS", "a          1", "long name  23"]);
    }
}
