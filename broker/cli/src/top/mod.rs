//! `millstream top`: a live view of a broker's metrics.

mod scrape;
mod view;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    net::IpAddr,
    time::Duration,
};

use clap::Args;

use self::{
    scrape::{Change, Scrape, scrape},
    view::History,
};
use super::{
    connect::{Common, Output, destination, runtime},
    error::CliError,
    number::number,
    output::Out,
    screen::Screen,
};
use millstream::console;
use millstream_client::admin::{Admin, ConfigOf};

/// Scrapes shown in the small charts.
const HISTORY_MAX: usize = 40;
/// The key under which a broker names its HTTP address.
const HTTP_ADDR_KEY: &str = "http-addr";

/// A live view on a terminal; otherwise one report per refresh. Rates and latencies cover the time between
/// two refreshes. `q` quits.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// HTTP address of the broker [default: the broker at --bootstrap is asked for it].
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_HTTP_ADDR", value_parser = destination)]
    http_addr: Option<String>,
    #[command(flatten)]
    common: Common,
    /// Refresh interval in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = number::<u64>(1..))]
    every: u64,
    /// Stop after N refreshes [default: when interrupted].
    #[arg(long, value_name = "N", value_parser = number::<u64>(1..))]
    count: Option<u64>,
}

/// The options, with a known address.
struct Top {
    http_addr: String,
    every: u64,
    count: Option<u64>,
    output: Output,
}

/// Runs until it is interrupted.
pub(super) fn run(args: TopArgs) -> Result<(), CliError> {
    runtime()?.block_on(async move {
        let TopArgs { http_addr, common, every, count } = args;
        let http_addr = match http_addr {
            Some(http_addr) => http_addr,
            None => http_of_broker(&common).await?,
        };
        let args = Top { http_addr, every, count, output: common.output };
        let first = scrape(&args.http_addr).await?;
        let live = args.output == Output::Table && io::stdout().is_terminal() && io::stdin().is_terminal();
        match live {
            true => show_live(&args, first).await,
            false => report(&args, first).await,
        }
    })
}

/// The HTTP address that the broker at --bootstrap is configured with; of several brokers the one that leads the metadata.
async fn http_of_broker(common: &Common) -> Result<String, CliError> {
    let cluster = common.cluster();
    let (_, controller, brokers) = cluster.describe().await?;
    let leads = brokers.iter().find(|broker| Some(broker.id) == controller);
    let Some(broker) = leads.or(brokers.first()) else {
        return Err(CliError::NoHttpAddr { broker: common.bootstrap.clone() });
    };
    let configs = Admin::new(cluster).configs(&ConfigOf::Broker(broker.id)).await?;
    let entry = configs.into_iter().find(|entry| entry.name == HTTP_ADDR_KEY);
    let address = entry.and_then(|entry| reachable(&entry.value?, &broker.address));
    address.ok_or_else(|| CliError::NoHttpAddr { broker: broker.address.clone() })
}

/// Where an HTTP port is reached: one that listens on all addresses, at the host of the Kafka port.
fn reachable(http_addr: &str, kafka_addr: &str) -> Option<String> {
    let (host, port) = http_addr.rsplit_once(':')?;
    let (kafka_host, _) = kafka_addr.rsplit_once(':')?;
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let host = if ip.is_ok_and(|ip| ip.is_unspecified()) { kafka_host } else { host };
    Some(format!("{host}:{port}"))
}

/// One report after the other. With an unreachable broker it waits, unless --count is given.
async fn report(args: &Top, mut before: Scrape) -> Result<(), CliError> {
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
async fn show_live(args: &Top, mut before: Scrape) -> Result<(), CliError> {
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

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn an_http_port_on_all_addresses_is_reached_where_the_kafka_port_is() {
        let of = |http| reachable(http, "broker.example:9092").expect("an address");
        assert_eq!(of("0.0.0.0:9644"), "broker.example:9644");
        assert_eq!(of("[::]:9644"), "broker.example:9644");
        assert_eq!(of("10.0.0.7:9644"), "10.0.0.7:9644");
        assert_eq!(of("[::1]:9644"), "[::1]:9644");
        assert_eq!(reachable("", "broker.example:9092"), None);
    }
}
