//! Generates the reference of all commands in `docs/command-line.md`.

use std::{fmt::Write, fs, path::PathBuf};

use clap::{Arg, ArgAction, Command};

use super::command;
use millstream_tests::generated;

/// All commands, each with its flags and their defaults.
fn reference() -> String {
    let mut root = command().disable_help_subcommand(true);
    root.build();
    let mut text = String::new();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(command, &format!("millstream {}", command.get_name()), &mut text);
    }
    text
}

// Writing to a string cannot fail.
fn section(command: &Command, name: &str, text: &mut String) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "### `{name}`\n\n{}.\n\n", about.trim().trim_end_matches('.'));
    let leaf = command.get_subcommands().next().is_none();
    if leaf {
        let _ = write!(text, "```text\n{}\n```\n\n", usage(command, name));
        table(command, text);
    }
    for child in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(child, &format!("{name} {}", child.get_name()), text);
    }
}

fn usage(command: &Command, name: &str) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").split_whitespace().collect::<Vec<_>>().join(" ");
    match usage.split_once(" [OPTIONS]") {
        Some((_, rest)) => format!("{name} [OPTIONS]{rest}"),
        None => usage,
    }
}

fn table(command: &Command, text: &mut String) {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let args: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    if args.is_empty() {
        return;
    }
    text.push_str("| argument | default | meaning |\n| --- | --- | --- |\n");
    for arg in args {
        let _ = writeln!(text, "| {} | {} | {} |", named(arg), default(arg), meaning(arg));
    }
    text.push('\n');
}

fn takes_value(arg: &Arg) -> bool {
    !matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count)
}

fn named(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let Some(long) = arg.get_long() else { return format!("`{value}`") };
    let flags = [long].into_iter().chain(arg.get_visible_aliases().unwrap_or_default());
    let flag = |name: &str| match takes_value(arg) {
        true => format!("`--{name} {value}`"),
        false => format!("`--{name}`"),
    };
    flags.map(flag).collect::<Vec<_>>().join(", ")
}

fn default(arg: &Arg) -> String {
    if !takes_value(arg) {
        return String::new();
    }
    let values = arg.get_default_values();
    match values {
        [] => String::new(),
        values => {
            let values: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
            format!("`{}`", values.join(","))
        }
    }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    // Help texts have no full stop at their end.
    let mut text =
        format!("{}.", help.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.'));
    let values = arg.get_possible_values();
    if takes_value(arg) && !values.is_empty() {
        let values = values.iter().filter(|value| !value.is_hide_set()).map(|value| {
            let name = format!("`{}`", value.get_name());
            match value.get_help() {
                Some(help) => format!("{name} ({})", help.to_string().trim_end_matches('.')),
                None => name,
            }
        });
        let _ = write!(text, " One of {}.", values.collect::<Vec<_>>().join(", "));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(text, " Also `{}`.", variable.to_string_lossy());
    }
    text.replace('|', "\\|")
}

fn documents() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn the_document_has_every_command_and_flag_as_they_are() {
    generated::check(&documents().join("command-line.md"), "commands", &reference());
}

#[test]
fn the_document_names_no_command_that_there_is_not() {
    let text = fs::read_to_string(documents().join("command-line.md")).expect("the document is there");
    let mut root = command();
    root.build();
    for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("millstream ")) {
        let words = line
            .split_whitespace()
            .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        let mut at = &root;
        for word in words.take_while(|word| !word.starts_with('-')) {
            match at.find_subcommand(word) {
                Some(found) => at = found,
                None => {
                    assert!(at.get_subcommands().next().is_none(), "`millstream {line}`: no command {word}")
                }
            }
        }
    }
}
