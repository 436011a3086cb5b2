//! `millstream top`: a live view of a broker's metrics.

mod scrape;
mod view;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Args;

use self::{
    scrape::{Change, Scrape, scrape},
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

/// Scrapes shown in the small charts.
const HISTORY_MAX: usize = 40;

/// A live view on a terminal; otherwise one report per refresh. Rates and latencies cover the time between
/// two refreshes. `q` quits.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// HTTP address of the broker.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644", env = "MILLSTREAM_HTTP_ADDR", value_parser = destination)]
    http_addr: String,
    /// Refresh interval in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = number::<u64>(1..))]
    every: u64,
    /// Stop after N refreshes [default: when interrupted].
    #[arg(long, value_name = "N", value_parser = number::<u64>(1..))]
    count: Option<u64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs until it is interrupted.
pub(super) fn run(args: TopArgs) -> Result<(), CliError> {
    runtime()?.block_on(async move {
        let first = scrape(&args.http_addr).await?;
        let live = args.output == Output::Table && io::stdout().is_terminal() && io::stdin().is_terminal();
        match live {
            true => show_live(&args, first).await,
            false => report(&args, first).await,
        }
    })
}

/// One report after the other. With an unreachable broker it waits, unless --count is given.
async fn report(args: &TopArgs, mut before: Scrape) -> Result<(), CliError> {
    let mut away = false;
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        tokio::time::sleep_until((before.at + Duration::from_secs(args.every)).into()).await;
        let now = match scrape(&args.http_addr).await {
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
            // Counters may have been reset: the next scrape is compared with this one.
            before = now;
            continue;
        }
        let change = Change { before: &before, now: &now };
        // The writer is created for each report, which is written as a whole.
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

/// The full-screen view, until the user quits. With an unreachable broker it waits.
async fn show_live(args: &TopArgs, mut before: Scrape) -> Result<(), CliError> {
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
        match scrape(&args.http_addr).await {
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
                // Counters may have been reset.
                before.samples.clear();
            }
        }
    }
    Ok(())
}
