//! The command line: the only code that uses clap.
//!
//! Exit codes: 0 success, 1 runtime failure, 2 wrong usage or configuration, 128 plus the signal's number
//! when a signal ended it early (see [`CliError::exit_code`](error::CliError::exit_code)). An error is one
//! line on standard error with advice; results go to standard output, and a reader that closes it early is
//! not an error.

mod bench;
mod candidates;
mod cluster;
mod cluster_status;
mod connect;
mod consume;
mod doctor;
mod each;
mod error;
mod find;
mod group;
mod group_reset;
mod health;
mod http;
mod lag;
mod line_record;
mod log;
mod number;
mod output;
mod pace;
mod pages;
mod printer;
mod produce;
mod progress;
mod record_text;
#[cfg(test)]
mod reference;
mod screen;
mod serve;
mod source;
mod top;
mod topic;
mod unread_records;
mod when;

use std::{io, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use clap_complete::CompleteEnv;

use millstream::console;

/// What a newcomer does first.
const FIRST_STEPS: &str = "\
First steps:
  millstream serve                              runs a broker on 127.0.0.1:9092, with its data in ./millstream-data
  millstream topic create orders                creates a topic
  echo hello | millstream produce orders        writes a record
  millstream consume orders                     reads all records; with --follow also new ones
  millstream top                                shows what the broker does";

/// A durable message broker that speaks the Kafka protocol.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, propagate_version = true, arg_required_else_help = true, after_help = FIRST_STEPS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker.
    Serve(serve::ServeArgs),
    /// Create, show, alter and delete topics.
    Topic(topic::TopicArgs),
    /// Write records, one per line.
    Produce(produce::ProduceArgs),
    /// Read records.
    Consume(consume::ConsumeArgs),
    /// Show consumer groups and their lag; reset and delete them.
    Group(group::GroupArgs),
    /// Show the brokers and their health; show and alter their configuration.
    Cluster(cluster::ClusterArgs),
    /// Check whether a broker is ready.
    Health(health::HealthArgs),
    /// Measure throughput and latency.
    Bench(bench::BenchArgs),
    /// Show live metrics of a broker.
    Top(top::TopArgs),
    /// Inspect the log of a stopped broker.
    Log(log::LogArgs),
    /// Check and repair the data directory of a stopped broker.
    Doctor(doctor::DoctorArgs),
    /// Print a script for shell completion.
    Completions(pages::CompletionsArgs),
    /// Print the manual page, or write all of them to a folder.
    Man(pages::ManArgs),
}

/// All commands with their flags.
fn command() -> clap::Command {
    taking_negative_numbers(Cli::command())
}

/// Makes `--flag -1` equivalent to `--flag=-1`, so that the value's parser reports errors. No flag is a
/// digit.
fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    let takes_value = |arg: &clap::Arg| !arg.is_positional() && arg.get_action().takes_values();
    command
        .mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg })
        .mut_subcommands(taking_negative_numbers)
}

/// Runs the command line.
pub fn run() -> ExitCode {
    // Only when a shell requests completions; then it does not return.
    CompleteEnv::with_factory(command).var(pages::COMPLETE_VARIABLE).complete();
    let parsed = command().try_get_matches().and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let serves = matches!(cli.command, Command::Serve(_));
    let done = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Group(args) => group::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Health(args) => health::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Top(args) => top::run(args),
        Command::Log(args) => log::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => pages::completions(&args),
        Command::Man(args) => pages::man(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // A broker also ends if its log has no reader.
            let print = if serves { console::last_words } else { console::note };
            print(format_args!("millstream: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and version are results; all other messages of clap are usage errors, printed as one line.
fn misused(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Err(unprinted) if unprinted.kind() != io::ErrorKind::BrokenPipe => {
                console::note(format_args!("millstream: cannot write the result: {unprinted}"));
                ExitCode::from(1)
            }
            _ => ExitCode::SUCCESS,
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            console::note(format_args!("millstream: {}", one_line(&error.to_string())));
            ExitCode::from(2)
        }
    }
}

/// clap's message before its usage, as one line.
fn one_line(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default();
    let mut parts = said.trim_start_matches("error: ").split("tip: ").map(joined);
    let problem = parts.next().unwrap_or_default();
    let parts: Vec<String> = [problem].into_iter().chain(parts).chain(["try --help".to_string()]).collect();
    parts.join("; ")
}

/// Joins the words with single spaces.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together() {
        command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_told_in_one_line_that_names_it() {
        let error = Cli::try_parse_from(["millstream", "serve", "--node-id", "x"]).expect_err("not a number");
        let line = one_line(&error.to_string());
        assert!(!line.contains('\n') && line.contains("--node-id") && line.contains("'x'"), "{line}");
        let error =
            Cli::try_parse_from(["millstream", "produce", "t", "--acks", "2"]).expect_err("no such value");
        let line = one_line(&error.to_string());
        assert!(line.contains("'2'") && line.contains("all, -1, leader, 1, none, 0"), "{line}");
        let error = Cli::try_parse_from(["millstream", "consume", "t", "--folow"]).expect_err("mistyped");
        let wanted = "unexpected argument '--folow' found; a similar argument exists: '--follow'; try --help";
        assert_eq!(one_line(&error.to_string()), wanted);
        let error = Cli::try_parse_from(["millstream", "serve", "--nonsense"]).expect_err("no such flag");
        let line = one_line(&error.to_string());
        assert!(!line.contains('\n') && line.contains("--nonsense"), "{line}");
    }

    #[test]
    fn a_number_that_is_not_taken_is_told_what_is_allowed() {
        for (command, flag, values, allowed) in [
            ("produce t", "--partition <N>", vec!["-1", "x"], "a whole number from 0 on"),
            (
                "produce t",
                "--timeout <SECONDS>",
                vec!["-1", "0", "9".repeat(20).as_str()],
                "a whole number from 1 to 86400",
            ),
            ("consume t", "--max-messages <N>", vec!["-1", "x"], "a whole number from 0 on"),
            ("consume t", "--since <TIME>", vec!["-5", "-5m"], "a time is how long ago"),
            ("group reset g --topic t", "--to-offset <OFFSET>", vec!["-3"], "a whole number from 0 on"),
            (
                "group reset g --topic t",
                "--by <N>",
                vec!["9".repeat(20).as_str()],
                "a whole number from -92233",
            ),
            ("serve", "--node-id <N>", vec!["-1", "2147483648"], "a whole number from 0 to 2147483647"),
            ("topic grow t", "--partitions <N>", vec!["-1", "0"], "a whole number from 1 on"),
            ("log dump", "--limit <N>", vec!["-1"], "a whole number from 0 on"),
            ("bench produce", "--records <N>", vec!["-1", "0"], "a whole number from 1 on"),
        ] {
            let name = flag.split(' ').next().expect("a name");
            for value in values {
                let words = ["millstream"].into_iter().chain(command.split(' ')).chain([name, value]);
                let error = super::command().try_get_matches_from(words).expect_err("not taken");
                let line = one_line(&error.to_string());
                let wanted = format!("invalid value '{value}' for '{flag}': {allowed}");
                assert!(line.starts_with(&wanted), "{command}: {line}");
            }
        }
    }

    #[test]
    fn negative_numbers_change_no_other_meaning() {
        let taken = |words: &str| {
            super::command().try_get_matches_from(["millstream"].into_iter().chain(words.split(' '))).is_ok()
        };
        assert!(taken("consume t --offset -1 --limit 3") && taken("produce t --acks -1 --create"));
        assert!(
            taken("group reset g --topic t --by -2 --dry-run") && taken("topic create t --partitions -1")
        );
        assert!(!taken("consume t -1") && !taken("produce t --create -1") && !taken("topic delete -1"));
    }
}
