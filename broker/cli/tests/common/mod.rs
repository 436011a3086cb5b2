//! A broker process for black-box tests.
#![allow(dead_code)] // Each test file uses some of it.

pub(crate) mod client;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_millstream");

/// A broker process on free ports; killed when it is dropped.
pub(crate) struct Broker {
    process: Child,
    pub(crate) kafka: String,
    pub(crate) http: String,
}

impl Broker {
    pub(crate) fn start(dir: &Path) -> Broker {
        Broker::start_at(dir, "127.0.0.1:0")
    }

    pub(crate) fn start_at(dir: &Path, kafka_addr: &str) -> Broker {
        Broker::start_with(dir, kafka_addr, &[])
    }

    /// With these keys, each as `key=value`.
    pub(crate) fn start_set(dir: &Path, set: &[&str]) -> Broker {
        Broker::start_with(dir, "127.0.0.1:0", set)
    }

    /// The soft limit of open files of the process.
    pub(crate) fn start_with_few_files(dir: &Path, files: u32) -> Broker {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -Sn {files}; exec \"$0\" \"$@\""), PROGRAM]);
        Broker::start_by(shell, dir, "127.0.0.1:0", &[])
    }

    fn start_with(dir: &Path, kafka_addr: &str, set: &[&str]) -> Broker {
        Broker::start_by(Command::new(PROGRAM), dir, kafka_addr, set)
    }

    fn start_by(mut command: Command, dir: &Path, kafka_addr: &str, set: &[&str]) -> Broker {
        let mut process = command
            .args(["serve", "--kafka-addr", kafka_addr, "--http-addr", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .args(set.iter().flat_map(|pair| ["--set", pair]))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let word = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_string()
        };
        assert!(line.starts_with("millstream ready "), "{line:?}");
        Broker { kafka: word("kafka="), http: word("http="), process }
    }

    /// Stops it as an operator does, and waits until it has ended.
    pub(crate) fn stop(mut self) {
        let stopped = Command::new("kill").arg(self.pid().to_string()).status().expect("kill runs");
        assert!(stopped.success());
        assert!(self.process.wait().expect("it ends").success());
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs a command against this broker.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        self.ask_with(args, "")
    }

    pub(crate) fn ask_with(&self, args: &[&str], input: &str) -> Output {
        let mut process = Command::new(PROGRAM)
            .args(args)
            .env("MILLSTREAM_BOOTSTRAP", &self.kafka)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        process.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        process.wait_with_output().expect("it ends")
    }

    /// The output lines of a command that must succeed.
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<String> {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout).lines().map(String::from).collect()
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.lines(args).join("\n")).expect("JSON")
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(&self.http).expect("the HTTP port is open");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("written");
        let mut page = String::new();
        socket.read_to_string(&mut page).expect("a page");
        page
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Retries until the condition holds.
#[allow(
    clippy::disallowed_methods,
    reason = "what goes on in the background of another process takes its time"
)]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
