//! The memory budget of the broker and its division.

use std::{fmt, sync::OnceLock};

use super::memory_limit::{LimitSource, MemoryLimit};

const MIB: u64 = 1 << 20;
/// Smallest supported budget.
pub(super) const BUDGET_BYTES_MIN: u64 = 64 * MIB;
/// Smallest default limit for consumer groups: some thousand groups with hundreds of offsets.
const GROUPS_BYTES_MIN: u64 = 64 * MIB;
/// Largest default budget.
const BUDGET_BYTES_MAX_DEFAULT: u64 = 2048 * MIB;

/// The budget from which the broker's memory limits are derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// In bytes.
    pub bytes: u64,
    /// Whether `memory.bytes` or `--memory` sets it.
    pub is_set: bool,
    /// The most that the process may use.
    pub limit: MemoryLimit,
}

impl MemoryBudget {
    /// The configured budget, or a quarter of what the process may use, at most 2 GiB.
    pub(super) fn new(set: Option<u64>) -> MemoryBudget {
        static LIMIT: OnceLock<MemoryLimit> = OnceLock::new();
        MemoryBudget::within(set, LIMIT.get_or_init(MemoryLimit::of_this_process).clone())
    }

    fn within(set: Option<u64>, limit: MemoryLimit) -> MemoryBudget {
        let bytes = match set {
            Some(bytes) => bytes.max(BUDGET_BYTES_MIN),
            None => (limit.bytes / 4).clamp(BUDGET_BYTES_MIN, BUDGET_BYTES_MAX_DEFAULT),
        };
        MemoryBudget { bytes, is_set: set.is_some(), limit }
    }

    /// Whether the process may use too little for the budget: the program itself and unbounded state come on
    /// top.
    pub fn is_too_large(&self) -> bool {
        self.bytes > self.limit.bytes / 2
    }
}

/// The source of the budget.
impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit_mib = self.limit.bytes / MIB;
        if self.is_set {
            return write!(f, "set by memory.bytes");
        }
        let rule = match self.bytes {
            BUDGET_BYTES_MIN => "the smallest budget, with",
            BUDGET_BYTES_MAX_DEFAULT => "the largest default, with",
            _ => "a quarter of",
        };
        match &self.limit.source {
            LimitSource::Unknown => write!(f, "{rule} {limit_mib} MiB, which is assumed"),
            LimitSource::Machine => write!(f, "{rule} the machine's {limit_mib} MiB"),
            LimitSource::ControlGroup(file) => {
                write!(f, "{rule} the limit of {limit_mib} MiB in {}", file.display())
            }
        }
    }
}

/// The division of the budget. The rest is for state without a limit of its own: partitions and groups, the
/// indexes of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Committed batches that are not in a run yet.
    pub(super) memtable: u64,
    /// Blocks of runs.
    pub(super) read_cache: u64,
    /// Requests in flight.
    pub(super) requests: u64,
    /// Records in replies to consumers.
    pub(super) replies: u64,
    /// One decoded batch; a few are decoded at the same time.
    pub(super) opened: u64,
    /// Log memory in use, the memtable included.
    pub(super) log: u64,
    /// Members and offsets of consumer groups.
    pub(super) groups: u64,
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
            groups: (budget / 2).max(GROUPS_BYTES_MIN),
        }
    }
}

/// A size in human form: bytes, or with the suffix KiB, MiB or GiB.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let with_unit = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = with_unit.unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(bytes: u64) -> MemoryLimit {
        MemoryLimit { bytes, source: LimitSource::Machine }
    }

    #[test]
    fn the_default_is_a_quarter_of_what_the_process_may_use() {
        let budget = |bytes| {
            let budget = MemoryBudget::within(None, machine(bytes));
            (budget.bytes, budget.to_string())
        };
        assert_eq!(
            budget(64 << 30),
            (2048 * MIB, "the largest default, with the machine's 65536 MiB".into())
        );
        assert_eq!(budget(2 << 30), (512 * MIB, "a quarter of the machine's 2048 MiB".into()));
        assert_eq!(
            budget(100 * MIB),
            (BUDGET_BYTES_MIN, "the smallest budget, with the machine's 100 MiB".into())
        );
        let file = "/sys/fs/cgroup/a/memory.max";
        let limit = MemoryLimit { bytes: 512 * MIB, source: LimitSource::ControlGroup(file.into()) };
        let limited = MemoryBudget::within(None, limit);
        assert_eq!(
            (limited.bytes, limited.to_string()),
            (128 * MIB, format!("a quarter of the limit of 512 MiB in {file}"))
        );
        assert!(MemoryBudget::new(None).bytes >= BUDGET_BYTES_MIN);
    }

    #[test]
    fn a_budget_that_is_set_counts_as_it_is() {
        let set = MemoryBudget::within(Some(8 << 30), machine(12 << 30));
        assert_eq!((set.bytes, set.to_string()), (8 << 30, "set by memory.bytes".into()));
        assert!(set.is_too_large() && !MemoryBudget::within(Some(6 << 30), machine(12 << 30)).is_too_large());
        assert_eq!(MemoryBudget::within(Some(0), machine(12 << 30)).bytes, BUDGET_BYTES_MIN);
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
            groups: 1024 * MIB,
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
