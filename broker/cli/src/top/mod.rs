//! `millstream top`: what a broker does now, from its page of metrics.

mod look;
mod view;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Args;

use self::{
    look::{Change, Look, look},
    view::History,
};
use super::{
    connect::{Output, destination, runtime},
    error::CliError,
    number::number,
    output::Out,
    screen::Screen,
};
use millstream::console;

/// Looks that the small charts remember.
const HISTORY_MAX: usize = 40;

/// A live view on a terminal; otherwise one report for each look. Rates and latencies are those of the time between two
/// looks. `q` ends it.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// HTTP address of the broker.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", env = "MILLSTREAM_HTTP_ADDR", value_parser = destination)]
    http_addr: String,
    /// Refresh interval in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = number::<u64>(1..))]
    every: u64,
    /// Stop after N refreshes [default: when it is interrupted].
    #[arg(long, value_name = "N", value_parser = number::<u64>(1..))]
    count: Option<u64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Shows until it is interrupted.
pub(super) fn run(args: TopArgs) -> Result<(), CliError> {
    runtime()?.block_on(async move {
        let first = look(&args.http_addr).await?;
        let live = args.output == Output::Table && io::stdout().is_terminal() && io::stdin().is_terminal();
        match live {
            true => show_live(&args, first).await,
            false => report(&args, first).await,
        }
    })
}

/// One report behind the other. A broker that goes away is waited for, unless --count is given.
async fn report(args: &TopArgs, mut before: Look) -> Result<(), CliError> {
    let mut away = false;
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        tokio::time::sleep_until((before.at + Duration::from_secs(args.every)).into()).await;
        let now = match look(&args.http_addr).await {
            Ok(now) => now,
            Err(error) if args.count.is_some() => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    console::note(format_args!("millstream: the broker is away, and waited for: {error}"));
                }
                before.at = millstream::clock::monotonic();
                continue;
            }
        };
        if std::mem::take(&mut away) {
            console::note(format_args!("millstream: the broker is back"));
            // What it counts may have begun anew: the next look has something to be held against.
            before = now;
            continue;
        }
        let change = Change { before: &before, now: &now };
        // The writer is opened anew each time: what is shown is shown as a whole.
        let mut out = Out::new();
        match args.output {
            Output::Json => out.json(&view::summary(&change))?,
            Output::Table => {
                view::lines(&change, &History::default()).iter().try_for_each(|line| out.line(line))?;
            }
        }
        out.flush()?;
        before = now;
    }
    Ok(())
}

/// The whole terminal, until somebody ends it. A broker that goes away is waited for.
async fn show_live(args: &TopArgs, mut before: Look) -> Result<(), CliError> {
    let mut screen = Screen::open().map_err(CliError::io("cannot use the terminal"))?;
    let mut history = History { produce: VecDeque::new(), fetch: VecDeque::new() };
    let title = |state: &str| format!("millstream top {}  {state}  (q ends)", args.http_addr);
    screen.show(&[title("looking")])?;
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        let next = before.at + Duration::from_secs(args.every);
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = screen.ended() => return Ok(()),
        }
        match look(&args.http_addr).await {
            Ok(now) => {
                let change = Change { before: &before, now: &now };
                history.add(&change, HISTORY_MAX);
                let mut lines = vec![title(&view::headline(&change)), String::new()];
                lines.extend(view::lines(&change, &history));
                screen.show(&lines)?;
                before = now;
            }
            Err(error) => {
                screen.show(&[title("waiting for the broker"), String::new(), error.to_string()])?;
                before.at = millstream::clock::monotonic();
                // What it counts may begin anew.
                before.samples.clear();
            }
        }
    }
    Ok(())
}
