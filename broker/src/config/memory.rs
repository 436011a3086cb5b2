//! How much memory the broker takes, and for what.

use std::{fs, sync::OnceLock};

const MIB: u64 = 1 << 20;
/// Smallest budget that a broker works with.
pub(super) const BUDGET_BYTES_MIN: u64 = 64 * MIB;
/// Most that is taken when nobody says.
const BUDGET_BYTES_MAX_DEFAULT: u64 = 2048 * MIB;
/// Taken for the machine's memory when the system does not tell.
const MACHINE_BYTES_UNKNOWN: u64 = 1024 * MIB;
/// Where the system tells: all memory, and what a container may take of it, by version 2 of control groups and by version 1.
const MEMINFO: &str = "/proc/meminfo";
const CGROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// What the budget is for. What is left of it is for everything that has no bound of its own: the state of
/// partitions and groups, the indexes of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Committed batches that are not in a run yet.
    pub(super) memtable: u64,
    /// Blocks of runs.
    pub(super) read_cache: u64,
    /// Requests in flight.
    pub(super) requests: u64,
    /// Records on their way to consumers.
    pub(super) replies: u64,
    /// One batch whose records are looked at; a few are open at the same time.
    pub(super) opened: u64,
    /// Log memory that somebody holds, the memtable included.
    pub(super) log: u64,
}

impl Shares {
    pub(super) fn of(budget: u64) -> Shares {
        Shares {
            memtable: budget / 32,
            read_cache: budget / 32,
            requests: budget / 8,
            replies: budget / 8,
            opened: budget / 16,
            log: budget / 8,
        }
    }
}

/// The budget when nobody sets one: a quarter of the machine, at most 2 GiB.
pub(super) fn budget_default() -> u64 {
    static BUDGET: OnceLock<u64> = OnceLock::new();
    *BUDGET.get_or_init(|| {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        budget_of(machine_bytes(&text(MEMINFO), &CGROUP_LIMITS.map(text)))
    })
}

fn budget_of(machine: u64) -> u64 {
    (machine / 4).clamp(BUDGET_BYTES_MIN, BUDGET_BYTES_MAX_DEFAULT)
}

fn machine_bytes(meminfo: &str, cgroup_limits: &[String]) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let total = total.map_or(MACHINE_BYTES_UNKNOWN, |kib| kib * 1024);
    // Without a limit there is a word, a number beyond any machine, or no file.
    cgroup_limits.iter().filter_map(|limit| limit.trim().parse().ok()).fold(total, u64::min)
}

/// A size as people write it: bytes, or with KiB, MiB or GiB behind.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let with_unit = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = with_unit.unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_machine_gives_two_gib_and_a_small_one_a_quarter() {
        let budget = |kib: u64, limit: &str| {
            let meminfo = format!("MemFree: 1 kB\nMemTotal: {kib:>9} kB\nX: 1 kB\n");
            let both = [[limit.to_string(), String::new()], ["max\n".to_string(), limit.to_string()]];
            let [new, old] = both.map(|limits| budget_of(machine_bytes(&meminfo, &limits)));
            assert_eq!(new, old, "either version says it");
            new
        };
        assert_eq!(budget(64 << 20, "max\n"), 2048 * MIB);
        assert_eq!(budget(2 << 20, "max"), 512 * MIB);
        assert_eq!(budget(2 << 20, "9223372036854771712\n"), 512 * MIB, "none, as version 1 says it");
        assert_eq!(budget(64 << 20, "536870912\n"), 128 * MIB, "a container's limit counts");
        assert_eq!(budget(100 << 10, ""), BUDGET_BYTES_MIN);
        assert_eq!(budget_of(machine_bytes("", &[])), 256 * MIB);
        assert!(budget_default() >= BUDGET_BYTES_MIN);
    }

    #[test]
    fn the_largest_default_gives_round_shares() {
        let shares = Shares::of(BUDGET_BYTES_MAX_DEFAULT);
        let expected = Shares {
            memtable: 64 * MIB,
            read_cache: 64 * MIB,
            requests: 256 * MIB,
            replies: 256 * MIB,
            opened: 128 * MIB,
            log: 256 * MIB,
        };
        assert_eq!(shares, expected);
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        let sizes = [("512MiB", 512 << 20), ("2 GiB", 2 << 30), ("64KiB", 64 << 10), ("1000", 1000)];
        sizes.iter().for_each(|(text, bytes)| assert_eq!(parse_size(text), Some(*bytes), "{text}"));
        ["", "MiB", "1.5GiB", "-1", "2GB", "99999999999GiB"]
            .iter()
            .for_each(|text| assert_eq!(parse_size(text), None, "{text}"));
    }
}
