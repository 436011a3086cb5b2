//! One client writes or reads records as fast as it can; says how long it took and what CPU the process used.
//!
//! client-speed millstream|rdkafka produce|consume BOOTSTRAP TOPIC RECORDS BYTES
//!
//! Both clients make the same promise (idempotent, `acks=all`, 5 ms of linger, every result looked at) and may hold as
//! many bytes; everything else is as each comes. Prints one line of JSON.

mod millstream;
mod native;

use std::{env, fs, process::ExitCode, time::Instant};

/// What is to be done.
struct Job {
    bootstrap: String,
    topic: String,
    records: u64,
    bytes: usize,
}

/// Bytes of records that either producer may hold.
const MEMORY_BYTES: usize = 64 << 20;
/// Different values that records have in turn.
const VALUES: usize = 64;

/// Values that do not compress; the same in each run.
fn values(bytes: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..VALUES).map(|_| (0..bytes).map(|_| byte()).collect()).collect()
}

/// User and system time of this process, in milliseconds, and its largest resident size in KiB.
fn usage() -> (u64, u64, u64) {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // A tick is 10 ms; fields 14 and 15 of the file, of which the first two are cut off.
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number") * 10;
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    let peak = peak.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    (ticks(11), ticks(12), peak)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [client, work, bootstrap, topic, records, bytes] = &args[..] else {
        eprintln!("usage: client-speed millstream|rdkafka produce|consume BOOTSTRAP TOPIC RECORDS BYTES");
        return ExitCode::from(2);
    };
    let (records, bytes) = (records.parse().expect("a number"), bytes.parse().expect("a number"));
    let job = Job { bootstrap: bootstrap.clone(), topic: topic.clone(), records, bytes };
    let began = Instant::now();
    let done = match (client.as_str(), work.as_str()) {
        ("millstream", "produce") => millstream::produce(&job),
        ("millstream", "consume") => millstream::consume(&job),
        ("rdkafka", "produce") => native::produce(&job),
        ("rdkafka", "consume") => native::consume(&job),
        _ => panic!("no such client or work"),
    };
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(done, records, "records were lost");
    let (user_ms, system_ms, peak_kib) = usage();
    println!(
        "{{\"records\": {records}, \"seconds\": {seconds:.4}, \"user_ms\": {user_ms}, \"system_ms\": {system_ms}, \"peak_kib\": {peak_kib}}}"
    );
    ExitCode::SUCCESS
}
