//! Measures the proposal rate of single-voter groups and its cost: first idle, then with writers that each
//! wait for a reply before the next proposal.
//!
//! `group_load DIR GROUPS WRITERS BYTES SECONDS [EVERY_US]`; EVERY_US is the shortest interval between two
//! proposals of a writer.
#![allow(clippy::disallowed_methods)] // A load generator measures time.

use std::{
    fs,
    io::Read,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_model::{LogId, NodeId, RaftGroupId};
use millstream_replica::{Command, Group, LogStore, Machine, NoPeers, Reply, RestoreError, Snapshot, Timing};
use millstream_store::{
    disk::{Disk, OsDisk},
    tables::{Tables, TablesConfig},
    wal::{RecoveryBase, Wal, WalConfig},
};

/// A machine that does nothing.
struct Idle;

impl Machine for Idle {
    fn apply(&self, _: LogId, _: Bytes) -> Reply {
        Reply::None
    }
    fn applied(&self, _: LogId) {}
    fn snapshot(&self) -> Snapshot {
        Box::new(|_| Ok(()))
    }
    fn restore(&self, _: &mut dyn Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// CPU time of this process so far, and its context switches.
fn used() -> (Duration, u64) {
    let mut switches = 0;
    let mut cpu = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task").expect("Linux").flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanos = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        cpu += Duration::from_nanos(nanos);
        let count = |line: &str| line.split_whitespace().last().and_then(|n| n.parse::<u64>().ok());
        switches +=
            read("status").lines().filter(|l| l.contains("ctxt_switches")).filter_map(count).sum::<u64>();
    }
    (cpu, switches)
}

async fn start(dir: &Path, groups: u32) -> (Wal, Vec<Arc<Group>>) {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(dir).expect("a directory"));
    let (tables, _) = Tables::open(disk.clone(), TablesConfig::default()).expect("tables");
    let (wal, _) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("a log");
    let tables = Arc::new(tables);
    let mut started = Vec::new();
    for id in (1..=groups).map(RaftGroupId) {
        let log = LogStore::new(wal.group(id));
        let group = Group::start(
            id,
            NodeId(1),
            Timing::default(),
            NoPeers::shared(),
            log,
            Arc::new(Idle),
            tables.clone(),
        );
        let group = group.await.expect("a group");
        group.lead_alone().await.expect("it leads");
        started.push(Arc::new(group));
    }
    (wal, started)
}

async fn write(group: Arc<Group>, payload: Bytes, until: Instant, every: Duration) -> Vec<u32> {
    let mut micros = Vec::new();
    let mut ticks = tokio::time::interval(every.max(Duration::from_nanos(1)));
    while Instant::now() < until {
        if !every.is_zero() {
            ticks.tick().await;
        }
        let started = Instant::now();
        let term = group.led_term().expect("it leads");
        group.write(term, Command::encoded(payload.clone())).await.expect("it is applied");
        micros.push(started.elapsed().as_micros() as u32);
    }
    micros
}

async fn run(args: Vec<String>) {
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok());
    let usage = "group_load DIR GROUPS WRITERS BYTES SECONDS [EVERY_US]";
    let (groups, writers) = (number(2).expect(usage), number(3).expect(usage));
    let (bytes, seconds) = (number(4).expect(usage), number(5).expect(usage));
    let every = Duration::from_micros(number(6).unwrap_or(0));
    let (wal, groups) = start(Path::new(&args[1]), groups as u32).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = used();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = used();
    let per_second = |value: f64| value / seconds as f64;
    println!(
        "idle: {:.3} % of a core, {:.0} context switches a second",
        per_second((after.0 - before.0).as_secs_f64()) * 100.0,
        per_second((after.1 - before.1) as f64)
    );
    let payload = Bytes::from(vec![7; bytes as usize]);
    let syncs = || wal.stats().syncs.read().count;
    let (before, synced, until) = (used(), syncs(), Instant::now() + Duration::from_secs(seconds));
    let tasks: Vec<_> = (0..writers as usize)
        .map(|n| tokio::spawn(write(groups[n % groups.len()].clone(), payload.clone(), until, every)))
        .collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await.expect("a writer"));
    }
    let (after, synced) = (used(), syncs() - synced);
    micros.sort_unstable();
    let (count, quantile) = (micros.len(), |q: f64| micros[((micros.len() - 1) as f64 * q) as usize]);
    println!(
        "{:.0} proposals a second, {:.0} syncs a second; p50 {} p99 {} p99.9 {} max {} us; {:.1} us of CPU and {:.2} \
         context switches each",
        per_second(count as f64),
        per_second(synced as f64),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0),
        (after.0 - before.0).as_secs_f64() * 1e6 / count as f64,
        (after.1 - before.1) as f64 / count as f64
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(std::env::args().collect()));
}
