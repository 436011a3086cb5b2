//! The program from a user's view: a broker, and commands that use it.
#![allow(missing_docs)]

mod common;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use common::{Broker, PROGRAM, text};

fn numbers(count: u32) -> String {
    (0..count).map(|n| format!("{n}\n")).collect()
}

#[test]
fn what_was_produced_is_consumed_also_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let produce = [
        "produce",
        "--topic",
        "n",
        "--create",
        "--key-separator",
        "7",
        "--compression",
        "lz4",
        "--output",
        "json",
    ];
    let output = broker.ask_with(&produce, &numbers(2000));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), r#"{"delivered":2000,"failed":0,"topic":"n"}"#);
    let consume = ["consume", "--topic", "n", "--format", "json"];
    let before = broker.lines(&consume);
    assert_eq!(before.len(), 2000);
    let kafka = broker.kafka.clone();
    drop(broker);
    let broker = Broker::start_at(dir.path(), &kafka);
    assert_eq!(broker.lines(&consume), before);
}

#[test]
fn a_producer_outlives_a_crash_of_the_broker_and_writes_everything_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.lines(&["topic", "create", "n", "--partitions", "3"]);
    let kafka = broker.kafka.clone();
    let mut producer = Command::new(PROGRAM)
        .args(["produce", "--topic", "n", "--bootstrap", &kafka])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut input = producer.stdin.take().expect("piped");
    input.write_all(numbers(5000).as_bytes()).expect("it reads");
    input.flush().expect("it reads");
    // Once the producer has started, at an arbitrary moment.
    let has_begun = || {
        let topic = broker.json(&["topic", "describe", "n", "--output", "json"]);
        topic["partitions"].as_array().is_some_and(|all| all.iter().any(|p| p["end_offset"] != 0))
    };
    assert!((0..1000).any(|_| has_begun()), "the producer writes nothing");
    drop(broker);
    input
        .write_all((5000..10_000).map(|n| format!("{n}\n")).collect::<String>().as_bytes())
        .expect("it reads");
    let broker = Broker::start_at(dir.path(), &kafka);
    drop(input);
    assert!(producer.wait().expect("it ends").success());
    let mut found: Vec<u32> = broker
        .lines(&["consume", "--topic", "n"])
        .iter()
        .map(|line| line.parse().expect("a number"))
        .collect();
    found.sort_unstable();
    assert!(found.into_iter().eq(0..10_000), "each once");
}

#[test]
fn members_of_a_group_go_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.ask_with(&["produce", "--topic", "n", "--create"], &numbers(100));
    let member = ["consume", "--topic", "n", "--group", "g", "--max-messages"];
    let first = broker.lines(&[&member[..], &["60"]].concat());
    let rest = broker.lines(&[&member[..], &["40"]].concat());
    assert_eq!(first.into_iter().chain(rest).collect::<Vec<_>>().join("\n") + "\n", numbers(100));
    let group = broker.json(&["group", "describe", "g", "--output", "json"]);
    assert_eq!(
        (&group["state"], &group["offsets"][0]["lag_records"]),
        (&"Empty".into(), &0.into()),
        "{group}"
    );
}

#[test]
fn a_topic_is_made_changed_grown_and_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.lines(&["topic", "create", "t", "--partitions", "2", "--config", "retention.ms=1000"]);
    let again = broker.ask(&["topic", "create", "t"]);
    assert!(again.status.code() == Some(1) && text(&again.stderr).contains("TOPIC_ALREADY_EXISTS"));
    broker.lines(&["topic", "alter", "t", "--set", "cleanup.policy=compact", "--unset", "retention.ms"]);
    broker.lines(&["topic", "grow", "t", "--partitions", "5"]);
    let topic = broker.json(&["topic", "describe", "t", "--output", "json"]);
    assert_eq!(topic["config"], serde_json::json!({ "cleanup.policy": "compact" }));
    assert_eq!(topic["partitions"].as_array().map(Vec::len), Some(5));
    let refused = broker.ask(&["topic", "alter", "t", "--set", "retention.ms=soon"]);
    let line = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && line.contains("retention.ms") && line.contains("soon"),
        "{line}"
    );
    broker.lines(&["topic", "delete", "t"]);
    assert_eq!(broker.json(&["topic", "list", "--output", "json"]), serde_json::json!([]));
}

#[test]
fn brokers_are_configured_while_they_run_and_remember_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.lines(&["cluster", "alter", "--set", "num.partitions=3", "--set", "log.retention.ms=5000"]);
    drop(broker);
    let broker = Broker::start(dir.path());
    broker.lines(&["topic", "create", "t"]);
    let topic = broker.json(&["topic", "describe", "t", "--all", "--output", "json"]);
    assert_eq!(topic["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(topic["config"]["retention.ms"], "5000");
    let refused = broker.ask(&["cluster", "alter", "--set", "wal.file.bytes=67108864"]);
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("while the broker runs"));
}

#[test]
fn wrong_usage_ends_with_2_and_one_line_that_names_it() {
    for (args, named) in [
        (&["serve", "--set", "no.such.key=1"][..], "no.such.key"),
        (&["serve", "--node-id", "x"], "--node-id"),
        (&["topic", "create", "t", "--config", "x"], "--config"),
        (&["consume"], "--topic"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let output = Command::new(PROGRAM).args(args).output().expect("it ends");
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
        assert!(line.trim_end().lines().count() == 1 && line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_told_with_what_to_do() {
    let output = Command::new(PROGRAM)
        .args(["topic", "list", "--bootstrap", "127.0.0.1:1"])
        .output()
        .expect("it ends");
    let line = text(&output.stderr);
    assert!(output.status.code() == Some(1) && line.contains("millstream serve"), "{line}");
}

#[test]
fn the_pages_tell_that_it_is_ready_and_what_it_has_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.ask_with(&["produce", "--topic", "n", "--create"], &numbers(10));
    assert!(broker.get("/health/live").starts_with("HTTP/1.1 200"));
    assert!(broker.get("/health/ready").starts_with("HTTP/1.1 200"));
    let page = broker.get("/metrics");
    for line in [
        "millstream_produce_records_total 10\n",
        "millstream_topic_produce_records_total{topic=\"n\"} 10\n",
        "millstream_raft_groups 17\n",
    ] {
        assert!(page.contains(line), "{line:?} in {page}");
    }
    assert!(broker.get("/v1/topics/n").contains("\"end_offset\":10"));
    assert!(broker.get("/v1/topics/none").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_busy_producer_is_never_refused_and_keeps_its_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.lines(&["topic", "create", "n"]);
    let size = ["--records", "40000", "--size", "200"];
    let wrote = broker.json(&[&["bench", "produce", "--topic", "n", "--output", "json"][..], &size].concat());
    assert_eq!(wrote["parameters"]["records"], 40_000);
    // A batch that overtakes another one would be refused and sent again.
    assert!(broker.get("/metrics").contains("millstream_produce_refused_total 0\n"));
    let read = broker.json(&["bench", "consume", "--topic", "n", "--output", "json"]);
    assert_eq!(read["parameters"]["records"], 40_000);
    let top = broker.json(&["top", "--http-addr", &broker.http, "--count", "1", "--output", "json"]);
    assert_eq!(top["produce_records_per_second"], 0.0);
}

#[test]
fn the_doctor_looks_only_at_what_does_not_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.ask_with(&["produce", "--topic", "n", "--create"], &numbers(10));
    let doctor = || {
        let output =
            Command::new(PROGRAM).arg("doctor").arg("--data-dir").arg(dir.path()).output().expect("it ends");
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = doctor();
    assert!(code == Some(1) && said.contains("stop it first"), "{said}");
    drop(broker);
    let (code, said) = doctor();
    assert!(code == Some(0) && said.ends_with("sound\n"), "{said}");
    let mut repair = Command::new(PROGRAM);
    repair.args(["doctor", "--repair", "--output", "json", "--data-dir"]).arg(dir.path());
    let report: serde_json::Value =
        serde_json::from_slice(&repair.output().expect("it ends").stdout).expect("one JSON value");
    assert_eq!((&report["repair"]["repaired"], &report["sound"]), (&"nothing".into(), &true.into()));
}

#[test]
fn a_log_that_was_cut_is_not_sound_and_no_repair_is_offered_that_does_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    broker.ask_with(&["produce", "--topic", "n", "--create"], &numbers(10));
    drop(broker);
    let log = std::fs::OpenOptions::new().write(true).open(dir.path().join("wal/wal-0000000000000001.log"));
    log.expect("there").set_len(5000).expect("cut");
    for command in [&["doctor"][..], &["log", "verify"]] {
        let output =
            Command::new(PROGRAM).args(command).arg("--data-dir").arg(dir.path()).output().expect("it ends");
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("restore a backup"), "{command:?}: {said}");
    }
}

#[test]
fn a_broker_that_is_stopped_as_soon_as_it_is_ready_stops_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    (0..10).for_each(|_| Broker::start(dir.path()).stop());
}

#[test]
fn a_broker_takes_as_many_files_as_the_system_lets_it_have() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_with_few_files(dir.path(), 100);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid())).expect("it runs");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let [soft, hard] = files.split_whitespace().skip(3).take(2).collect::<Vec<_>>()[..] else {
        panic!("{files:?}")
    };
    assert!(soft == hard && soft != "100", "{files:?}");
}
