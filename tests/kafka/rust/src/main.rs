//! Programs with the `rdkafka` crate that the tests run against the broker; what they say to their driver is described in
//! tests/README.md.

mod member;
mod produce;
mod round_trip;

use std::{error::Error, process::ExitCode};

use rdkafka::ClientConfig;

pub const PARTITIONS: i32 = 3;
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

pub fn key(number: usize) -> String {
    format!("key {number}")
}

pub fn value(number: usize) -> String {
    format!("value {number} ").repeat(1 + number % 7)
}

/// What every client of this process is configured with.
pub fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("reconnect.backoff.max.ms", "1000");
    config
}

fn run(words: &[&str]) -> Outcome<ExitCode> {
    match *words {
        ["group", bootstrap, topic, group] => {
            member::run(bootstrap, topic, group).map(|()| ExitCode::SUCCESS)
        }
        ["produce", bootstrap, topic, codec] => {
            produce::run(bootstrap, topic, codec).map(|()| ExitCode::SUCCESS)
        }
        [bootstrap, prefix, records] => round_trip::run(bootstrap, prefix, records.parse()?),
        _ => {
            eprintln!(
                "usage: rust-clients BOOTSTRAP PREFIX RECORDS | group BOOTSTRAP TOPIC GROUP | produce BOOTSTRAP TOPIC CODEC"
            );
            Ok(ExitCode::from(2))
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    run(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
