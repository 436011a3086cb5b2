//! `millstream completions` and `millstream man`, generated from the commands.

use std::{fs, io, path::PathBuf};

use clap::{ArgAction, Args, Command};
use clap_complete::{Shell, env::Shells};

use super::{command, error::CliError, output::Out};

/// For bash: `millstream completions bash > ~/.local/share/bash-completion/completions/millstream`. For zsh: into a file
/// `_millstream` in a folder of $fpath. For fish: `~/.config/fish/completions/millstream.fish`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// `millstream man | man -l -` shows the page; `millstream man ~/.local/share/man/man1` installs all of them.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write one page per command to this folder, which is created if it does not exist.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Environment variable by which a shell requests completions.
pub(super) const COMPLETE_VARIABLE: &str = "MILLSTREAM_COMPLETE";

/// Prints completions.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let (mut script, shells) = (Vec::new(), Shells::builtins());
    if let Some(shell) = shells.completer(&args.shell.to_string()) {
        // The script runs the command each time, since topic names change.
        let written = shell.write_registration(
            COMPLETE_VARIABLE,
            "millstream",
            "millstream",
            "millstream",
            &mut script,
        );
        written.map_err(CliError::io("cannot make the script"))?;
    }
    let mut out = Out::new();
    out.bytes(&script)?;
    out.flush()
}

/// Prints or writes manual pages.
pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    let mut out = Out::new();
    match &args.dir {
        None => {
            out.bytes(&page(&command()).map_err(CliError::io("cannot make the page"))?)?;
        }
        Some(dir) => {
            let failed =
                |source| CliError::Io { what: format!("cannot write into {}", dir.display()), source };
            fs::create_dir_all(dir).map_err(failed)?;
            for (name, page) in pages().map_err(CliError::io("cannot make the pages"))? {
                fs::write(dir.join(&name), page).map_err(failed)?;
            }
            out.line(&format!("manual pages written to {}", dir.display()))?;
        }
    }
    out.flush()
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(with_values(&String::from_utf8_lossy(&page), command).into_bytes())
}

const SYNOPSIS: &str = ".SH SYNOPSIS\n";

/// The page with a synopsis that shows which flags take values: clap's has names alone.
fn with_values(page: &str, command: &Command) -> String {
    let parts = page.split_once(SYNOPSIS);
    let parts = parts.and_then(|(head, rest)| Some((head, &rest[rest.find("\n.SH")?..])));
    match parts {
        Some((head, behind)) => format!("{head}{SYNOPSIS}{}{behind}", synopsis(command)),
        None => page.to_string(),
    }
}

fn synopsis(command: &Command) -> String {
    let escaped = |text: &str| text.replace('-', "\\-");
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut parts = vec![format!("\\fB{}\\fR", escaped(name))];
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let names = arg.get_value_names().filter(|_| arg.get_action().takes_values()).unwrap_or_default();
        let values =
            names.iter().map(|name| format!("\\fI{}\\fR", escaped(name))).collect::<Vec<_>>().join(" ");
        let flag = arg.get_long().map(|long| format!("\\fB{}\\fR", escaped(&format!("--{long}"))));
        let part =
            flag.into_iter().chain(Some(values).filter(|v| !v.is_empty())).collect::<Vec<_>>().join(" ");
        let several = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
        parts.push(match arg.is_required_set() {
            true => format!("{part}{several}"),
            false => format!("[{part}]{several}"),
        });
    }
    if command.has_subcommands() {
        parts.push("\\fICOMMAND\\fR".to_string());
    }
    parts.join(" ")
}

/// The page of every command, as `millstream-topic-create.1`.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    let mut open = vec![(root.get_name().to_string(), root)];
    while let Some((name, command)) = open.pop() {
        let children = command.get_subcommands().filter(|child| !child.is_hide_set());
        open.extend(children.map(|child| (format!("{name}-{}", child.get_name()), child.clone())));
        // The page's title is the command's name.
        let title: &'static str = name.clone().leak();
        pages.push((format!("{name}.1"), page(&command.name(title))?));
    }
    pages.sort();
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let pages = pages().expect("pages");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in
            ["millstream.1", "millstream-serve.1", "millstream-topic-create.1", "millstream-group-reset.1"]
        {
            assert!(names.contains(&name), "{names:?}");
        }
        let page = String::from_utf8_lossy(&pages[1].1);
        assert!(page.contains(".TH millstream"), "{page}");
        let (_, create) =
            pages.iter().find(|(name, _)| name == "millstream-topic-create.1").expect("its page");
        let create = String::from_utf8_lossy(create);
        for part in
            ["[\\fB\\-\\-partitions\\fR \\fIN\\fR]", " \\fINAME\\fR", "[\\fB\\-\\-validate\\-only\\fR]"]
        {
            assert!(create.contains(part), "{part} is not in {create}");
        }
    }
}
