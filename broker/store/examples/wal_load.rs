//! A load generator for the write-ahead log alone, with its cost.
//!
//! ```text
//! cargo run --release -p millstream-store --example wal_load -- DIR open
//! cargo run --release -p millstream-store --example wal_load -- DIR stream [ENTRY_BYTES] [SECONDS] [MIB_PER_SECOND]
//! cargo run --release -p millstream-store --example wal_load -- DIR lone [ENTRY_BYTES] [SECONDS]
//! ```
//! `stream` appends without waiting, at most 16 MiB ahead of the disk, or at a given rate; `lone` waits for
//! each entry. Both purge continuously, like a broker that flushes its memtable. DIR should be empty: the
//! cost of a first start is part of the result.

#![allow(clippy::disallowed_methods)] // A load generator measures time.

use std::{
    collections::VecDeque,
    env, fs,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_model::{LogId, RaftGroupId};
use millstream_store::{
    disk::OsDisk,
    wal::{Draft, GroupLog, RecoveryBase, Wal, WalConfig},
};

const GROUP: RaftGroupId = RaftGroupId(1);
const AHEAD_BYTES_MAX: usize = 16 << 20;
/// Entries are purged once this many bytes follow them: the size of a memtable.
const KEPT_BYTES: u64 = 64 << 20;

fn open(dir: &str) -> Wal {
    let started = Instant::now();
    let disk = Arc::new(OsDisk::new(dir).expect("a directory"));
    let (wal, report) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("opens");
    println!("open: {:.1} ms, {} frames read", started.elapsed().as_secs_f64() * 1e3, report.frames);
    wal
}

/// CPU time of each live thread in nanoseconds, with its name.
fn cpu_ns() -> Vec<(String, u64)> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let one = |path: &Path| {
        let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_string();
        let ns = fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()?;
        Some((name, ns))
    };
    tasks.filter_map(|task| one(&task.path())).collect()
}

fn resident_mib() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 256
}

struct Latencies(Vec<u32>);

impl Latencies {
    fn print(mut self) {
        self.0.sort_unstable();
        let at = |part: f64| self.0[((self.0.len() - 1) as f64 * part) as usize];
        println!(
            "microseconds from append to durable: p50 {} p99 {} p99.9 {} max {}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
}

fn report(wal: &Wal, entries: u64, bytes: u64, took: Duration) {
    let stats = wal.stats();
    let (syncs, mib) = (stats.syncs.read().count, bytes as f64 / f64::from(1 << 20));
    println!(
        "{entries} entries, {mib:.0} MiB in {:.2} s: {:.0} entries/s, {:.0} MiB/s, {syncs} writes of {:.0} KiB",
        took.as_secs_f64(),
        entries as f64 / took.as_secs_f64(),
        mib / took.as_secs_f64(),
        stats.bytes.load(Relaxed) as f64 / syncs.max(1) as f64 / 1024.0
    );
    for (name, ns) in cpu_ns() {
        let us = ns as f64 / 1e3;
        println!(
            "cpu {name}: {:.1} us/write {:.1} us/entry {:.1} us/MiB",
            us / syncs as f64,
            us / entries as f64,
            us / mib
        );
    }
    println!("resident {} MiB, log memory in use {} MiB", resident_mib(), wal.memory_bytes() >> 20);
}

/// Purges and reclaims behind the writer, like a broker's maintenance thread.
fn housekeeper(wal: Arc<Wal>, log: GroupLog, durable: Arc<AtomicU64>, entry: u64, stop: Arc<AtomicBool>) {
    let mut purged = 0;
    while !stop.load(Relaxed) {
        let upto = durable.load(Relaxed);
        if (upto - purged) * entry > KEPT_BYTES {
            log.release_memory(upto - 1);
            log.purge(LogId::new(1, upto - 1)).expect("purged");
            wal.reclaim().expect("reclaimed");
            purged = upto;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn stream(dir: &str, entry: usize, seconds: u64, mib_per_second: Option<u64>) {
    let wal = Arc::new(open(dir));
    let log = wal.group(GROUP);
    let (durable, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let keeper = {
        let (wal, log, durable, stop) = (wal.clone(), log.clone(), durable.clone(), stop.clone());
        thread::Builder::new()
            .name("housekeeper".into())
            .spawn(move || housekeeper(wal, log, durable, entry as u64, stop))
    }
    .expect("a thread");
    let payload = Bytes::from(vec![0x5a; entry]);
    // Start times of pending entries, and the latencies of the completed ones.
    let shared = Arc::new((Mutex::new((VecDeque::<Instant>::new(), Vec::<u32>::new())), Condvar::new()));
    let started = Instant::now();
    let mut index = 0u64;
    while started.elapsed() < Duration::from_secs(seconds) {
        if let Some(rate) = mib_per_second {
            let due = started + Duration::from_secs_f64(index as f64 * entry as f64 / (rate << 20) as f64);
            if due > Instant::now() + Duration::from_micros(200) {
                thread::sleep(due - Instant::now());
            }
        }
        {
            let mut state = shared.0.lock().expect("no panic");
            while mib_per_second.is_none() && state.0.len() * entry >= AHEAD_BYTES_MAX {
                state = shared.1.wait(state).expect("no panic");
            }
            state.0.push_back(Instant::now());
        }
        let (for_done, durable) = (shared.clone(), durable.clone());
        let draft = Draft { id: LogId::new(1, index), kind: 1, payload: payload.clone() };
        log.append([draft], move |result| {
            result.expect("written");
            let mut state = for_done.0.lock().expect("no panic");
            let began = state.0.pop_front().expect("it was begun");
            state.1.push(began.elapsed().as_micros() as u32);
            durable.store(index + 1, Relaxed);
            for_done.1.notify_one();
        })
        .expect("appended");
        index += 1;
    }
    let mut state = shared.0.lock().expect("no panic");
    while !state.0.is_empty() {
        state = shared.1.wait(state).expect("no panic");
    }
    let took = started.elapsed();
    Latencies(std::mem::take(&mut state.1)).print();
    report(&wal, index, index * entry as u64, took);
    stop.store(true, Relaxed);
    keeper.join().expect("no panic");
    log.purge(LogId::new(1, index - 1)).expect("purged");
    log.release_memory(index);
    thread::sleep(Duration::from_secs(3));
    println!(
        "idle for 3 s: resident {} MiB, log memory in use {} KiB",
        resident_mib(),
        wal.memory_bytes() >> 10
    );
}

fn lone(dir: &str, entry: usize, seconds: u64) {
    let wal = open(dir);
    let log = wal.group(GROUP);
    let payload = Bytes::from(vec![0x5a; entry]);
    let (mut index, mut latencies) = (0u64, Vec::new());
    let (result_tx, result_rx) = mpsc::channel();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        let began = Instant::now();
        let result_tx = result_tx.clone();
        let draft = Draft { id: LogId::new(1, index), kind: 1, payload: payload.clone() };
        log.append([draft], move |result| result_tx.send(result).expect("waited for")).expect("appended");
        result_rx.recv().expect("a result").expect("written");
        latencies.push(began.elapsed().as_micros() as u32);
        index += 1;
        if index.is_multiple_of(8192) {
            log.release_memory(index - 1);
            log.purge(LogId::new(1, index - 1)).expect("purged");
            wal.reclaim().expect("reclaimed");
        }
    }
    let took = started.elapsed();
    Latencies(latencies).print();
    report(&wal, index, index * entry as u64, took);
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let (Some(dir), Some(mode)) = (args.first(), args.get(1)) else {
        eprintln!("usage: wal_load DIR open|stream|lone [ENTRY_BYTES] [SECONDS] [MIB_PER_SECOND]");
        std::process::exit(2);
    };
    let number = |at: usize| args.get(at).and_then(|n| n.parse::<u64>().ok());
    let (seconds, rate) = (number(3).unwrap_or(3), number(4));
    match mode.as_str() {
        "open" => {
            open(dir).shutdown();
            open(dir).shutdown();
        }
        "stream" => stream(dir, number(2).unwrap_or(96 << 10) as usize, seconds, rate),
        "lone" => lone(dir, number(2).unwrap_or(1024) as usize, seconds),
        other => eprintln!("{other} is not open, stream or lone"),
    }
}
