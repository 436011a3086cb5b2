//! Shell completion of topic names.

use std::{ffi::OsStr, time::Duration};

use clap_complete::{ArgValueCompleter, CompletionCandidate};
use millstream_client::{ClientConfig, Cluster};

use super::connect::runtime;

/// A slower broker yields no candidates: the user is waiting for a key press.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(500);

/// Completes names of topics.
pub(super) fn topics() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let typed = typed.to_string_lossy();
        let names = names(&bootstrap(std::env::args(), std::env::var("MILLSTREAM_BOOTSTRAP").ok()));
        names.into_iter().filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
    })
}

/// The broker that the partial command line names.
fn bootstrap(words: impl Iterator<Item = String>, variable: Option<String>) -> String {
    let words: Vec<String> = words.collect();
    let flag = words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix("--bootstrap")? {
        "" => words.get(at + 1).cloned(),
        value => value.strip_prefix('=').map(String::from),
    });
    flag.or(variable).unwrap_or_else(|| "127.0.0.1:9092".to_string())
}

fn names(bootstrap: &str) -> Vec<String> {
    let Ok(runtime) = runtime() else { return Vec::new() };
    let cluster = Cluster::new(ClientConfig::new(bootstrap));
    let asked = runtime.block_on(async { tokio::time::timeout(ANSWER_WAIT_MAX, cluster.topics()).await });
    let topics = asked.ok().and_then(Result::ok).unwrap_or_default();
    topics.iter().filter(|topic| !topic.internal).map(|topic| topic.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_that_is_asked_is_that_of_the_command() {
        let from = |line: &str, variable: Option<&str>| {
            bootstrap(line.split(' ').map(String::from), variable.map(String::from))
        };
        assert_eq!(from("millstream -- millstream consume --bootstrap a:1 o", Some("b:2")), "a:1");
        assert_eq!(from("millstream -- millstream consume --bootstrap=a:1 o", None), "a:1");
        assert_eq!(from("millstream -- millstream consume o", Some("b:2")), "b:2");
        assert_eq!(from("millstream -- millstream consume o", None), "127.0.0.1:9092");
    }
}
