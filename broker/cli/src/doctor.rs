//! `millstream doctor`: inspects the data directory of a stopped broker, and repairs its log on request.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use millstream_model::RaftGroupId;
use millstream_replica::REPLICAS;
use millstream_store::{
    doctor::{self, FileReport, GroupReport, Problem, ProblemKind, Repaired, Report},
    wal::OpenError,
};
use serde_json::{Value, json};

use super::{error::CliError, output::Out};

/// The shape of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LocalOutput {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Which data directory, and how results look.
#[derive(Clone, Debug, Args)]
pub(super) struct Local {
    /// The data directory.
    #[arg(long, value_name = "DIR", default_value = "./millstream-data", env = "MILLSTREAM_DATA_DIR")]
    pub(super) data_dir: PathBuf,
    /// The shape of results.
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: LocalOutput,
}

/// Read every byte that the broker has stored and report damage; changes nothing without --repair. Exits with
/// 1 if something is damaged.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Make a damaged log usable again. Each group keeps its entries up to the first lost one, and everything
    /// that is in runs; the old files are kept below `damaged/`.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    local: Local,
}

/// Runs the command.
pub(super) fn run(args: DoctorArgs) -> Result<(), CliError> {
    let dir = &args.local.data_dir;
    let repaired = args.repair.then(|| doctor::repair(dir, &REPLICAS)).transpose()?;
    let mut out = Out::new();
    if args.local.output == LocalOutput::Table {
        // Even if it can no longer be inspected.
        repaired.iter().try_for_each(|repaired| show_repaired(repaired, dir, &mut out))?;
    }
    let report = doctor::inspect(dir, &REPLICAS)?;
    match args.local.output {
        LocalOutput::Json => {
            let mut shown = report_json(&report);
            repaired.iter().for_each(|repaired| shown["repair"] = repaired_json(repaired));
            out.json(&shown)?;
        }
        LocalOutput::Table => show_report(&report, &mut out)?,
    }
    out.flush()?;
    if report.is_sound() { Ok(()) } else { Err(unsound(&report, args.local)) }
}

/// Advice for a damaged store.
pub(super) fn unsound(report: &Report, local: Local) -> CliError {
    CliError::Unsound { dir: local.data_dir, repairable: report.can_be_repaired() }
}

fn show_repaired(repaired: &Repaired, dir: &Path, out: &mut Out) -> Result<(), CliError> {
    match repaired {
        Repaired::Nothing => out.line("there was nothing to repair in the log"),
        Repaired::Finished => out.line("an earlier repair was interrupted; it is finished now"),
        Repaired::Replaced { aside, groups, recreated_groups, votes_uncertain } => {
            out.line(&format!("the log was replaced; the old one is in {}", dir.join(aside).display()))?;
            for group in groups.iter().filter(|group| group.lost() > 0) {
                out.line(&format!("{} lost {} entries", group.group, group.lost()))?;
            }
            for group in groups.iter().filter(|group| group.end_uncertain) {
                out.line(&uncertain_text(group))?;
            }
            recreated_groups.iter().try_for_each(|group| out.line(&recreated_text(*group)))?;
            if *votes_uncertain {
                out.line("a vote may be lost: in a cluster this node must join again under a new id")?;
            }
            Ok(())
        }
    }
}

fn show_report(report: &Report, out: &mut Out) -> Result<(), CliError> {
    show_log(report, out)?;
    let tables = &report.tables;
    out.line(&format!(
        "runs {}, partitions {}, batches {}, bytes {}, checkpoints {}",
        tables.runs, tables.partitions, tables.batches, tables.bytes, tables.checkpoints
    ))?;
    for finding in &tables.findings {
        out.line(&format!("  {finding}"))?;
    }
    out.line(&verdict(report))
}

fn verdict(report: &Report) -> String {
    // Groups that existed only in a missing file may have left no trace.
    let uncertain = report.log.others_uncertain
        || report.log.groups.iter().any(|group| group.end_uncertain)
        || matches!(report.log.refused, Some(OpenError::Missing { .. }));
    let lost = match (report.entries_lost(), uncertain) {
        _ if report.is_sound() => return "sound".to_string(),
        _ if !report.can_be_repaired() => return "not sound".to_string(),
        (0, false) => "a repair of the log loses nothing".to_string(),
        (0, true) => "without other nodes a repair may lose what is named here".to_string(),
        (lost, false) => format!("without other nodes a repair loses {lost} entries"),
        (lost, true) => format!("without other nodes a repair loses {lost} entries or more"),
    };
    format!("not sound: {lost}; see `millstream doctor --repair`")
}

/// What the entries of a group contain, for users who learn that some are lost.
fn what_is_lost(group: RaftGroupId) -> &'static str {
    match group {
        RaftGroupId::METADATA => {
            "topics and settings that they made; partitions whose topic is gone are given topics `recovered-…` at the next start"
        }
        _ => "records that are not in runs yet, and offsets of consumer groups",
    }
}

fn recreated_text(group: RaftGroupId) -> String {
    format!(
        "{group}: its first entry is gone, and is known: it says that this node is the group's only member"
    )
}

/// The log's files and their problems.
pub(super) fn show_log(report: &Report, out: &mut Out) -> Result<(), CliError> {
    let log = &report.log;
    let rows: Vec<Vec<String>> = log.files.iter().map(file_row).collect();
    out.table(&["FILE", "BYTES", "USED", "FRAMES", "PROBLEMS"], &rows)?;
    for file in &log.files {
        for problem in &file.problems {
            out.line(&format!("  {}: {}", file.name, problem_text(problem)))?;
        }
    }
    for group in log.groups.iter().filter(|group| group.lost() > 0) {
        out.line(&format!("  {}", group_text(group)))?;
    }
    for group in log.groups.iter().filter(|group| group.end_uncertain) {
        out.line(&format!("  {}", uncertain_text(group)))?;
    }
    if log.others_uncertain {
        out.line(
            "  groups of which nothing else is left may have been in a damaged place, with all that they had",
        )?;
    }
    log.recreated_groups.iter().try_for_each(|group| out.line(&format!("  {}", recreated_text(*group))))?;
    for group in &log.without_members {
        out.line(&format!(
            "  {group}: nothing says who belongs to it, and no broker starts with that: restore a backup, or let the \
             node join its cluster anew under another id"
        ))?;
    }
    if let Some(refused) = &log.refused {
        out.line(&format!("the log does not open: {refused}"))?;
    }
    Ok(())
}

fn file_row(file: &FileReport) -> Vec<String> {
    let numbers = [file.bytes, file.used_bytes as u64, file.frames, file.problems.len() as u64];
    [file.name.clone()].into_iter().chain(numbers.iter().map(u64::to_string)).collect()
}

fn kind_text(kind: &ProblemKind) -> &'static str {
    match kind {
        ProblemKind::Header => "the file has no header of its own",
        ProblemKind::Short => "the file is shorter than it was made",
        ProblemKind::Torn => "a write that was not finished when the broker ended; it was never acknowledged",
        ProblemKind::Damaged => "bytes that were durable are not those that were written",
    }
}

fn problem_text(problem: &Problem) -> String {
    let Problem { kind, range, .. } = problem;
    format!("bytes {} to {}: {}", range.start, range.end, kind_text(kind))
}

fn group_text(group: &GroupReport) -> String {
    let span = |span: Option<(u64, u64)>| {
        span.map_or("none".to_string(), |(first, last)| format!("{first} to {last}"))
    };
    format!(
        "{}: entries {} are gone, and {} behind them cannot be used: {}",
        group.group,
        span(group.missing),
        span(group.behind_missing),
        what_is_lost(group.group)
    )
}

/// Index after the last entry of a repaired log.
fn end(group: &GroupReport) -> u64 {
    group.last.or(group.purged).map_or(0, |id| id.index + 1)
}

fn uncertain_text(group: &GroupReport) -> String {
    format!(
        "{}: entries from {} on may have been in a damaged place: {}",
        group.group,
        end(group),
        what_is_lost(group.group)
    )
}

/// The report as JSON.
pub(super) fn report_json(report: &Report) -> Value {
    let files = report.log.files.iter().map(|file| {
        let problems = file.problems.iter().map(|problem| {
            json!({ "from": problem.range.start, "to": problem.range.end, "what": kind_text(&problem.kind) })
        });
        json!({
            "name": file.name,
            "bytes": file.bytes,
            "used_bytes": file.used_bytes,
            "frames": file.frames,
            "problems": problems.collect::<Vec<_>>(),
        })
    });
    let findings: Vec<String> = report.tables.findings.iter().map(ToString::to_string).collect();
    json!({
        "sound": report.is_sound(),
        "entries_lost_by_repair": report.entries_lost(),
        "log": {
            "files": files.collect::<Vec<_>>(),
            "spares": report.log.spares,
            "refused": report.log.refused.as_ref().map(ToString::to_string),
            "groups": groups_json(&report.log.groups),
            "refounded": names(&report.log.recreated_groups),
            "others_uncertain": report.log.others_uncertain,
            "without_members": names(&report.log.without_members),
        },
        "tables": {
            "runs": report.tables.runs,
            "partitions": report.tables.partitions,
            "batches": report.tables.batches,
            "bytes": report.tables.bytes,
            "checkpoints": report.tables.checkpoints,
            "findings": findings,
        },
    })
}

fn groups_json(groups: &[GroupReport]) -> Vec<Value> {
    let span = |span: Option<(u64, u64)>| span.map(|(first, last)| json!({ "first": first, "last": last }));
    let group = |group: &GroupReport| {
        json!({
            "group": group.group.to_string(),
            "purged": group.purged.map(|id| id.index),
            "last": group.last.map(|id| id.index),
            "missing": span(group.missing),
            "behind_missing": span(group.behind_missing),
            "uncertain_from": group.end_uncertain.then(|| end(group)),
        })
    };
    groups.iter().map(group).collect()
}

fn names(groups: &[RaftGroupId]) -> Vec<String> {
    groups.iter().map(ToString::to_string).collect()
}

fn repaired_json(repaired: &Repaired) -> Value {
    match repaired {
        Repaired::Nothing => json!({ "repaired": "nothing" }),
        Repaired::Finished => json!({ "repaired": "finished" }),
        Repaired::Replaced { aside, groups, recreated_groups, votes_uncertain } => json!({
            "repaired": "replaced",
            "aside": aside.display().to_string(),
            "groups": groups_json(groups),
            "refounded": names(recreated_groups),
            "votes_uncertain": votes_uncertain,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_and_what() {
        let problem =
            Problem { kind: ProblemKind::Damaged, range: 10..20, frames_good: 0, frames_bad: Vec::new() };
        let text = problem_text(&problem);
        assert!(text.starts_with("bytes 10 to 20") && text.contains("durable"), "{text}");
    }
}
