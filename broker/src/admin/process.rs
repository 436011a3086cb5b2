//! Process statistics from the system. A value that is unavailable is omitted rather than 0.

use std::fs;

/// Statistics of this process, from `/proc/self`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Resident memory in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// CPU time of all threads in microseconds.
    pub(super) cpu_micros: Option<u64>,
    /// Number of open files and sockets.
    pub(super) open_files: Option<u64>,
}

/// Reads the statistics.
pub(super) fn look() -> Process {
    let page_bytes = rustix::param::page_size() as u64;
    let tick_micros = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Process {
        resident_bytes: fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| resident_pages(&text))
            .map(|pages| pages * page_bytes),
        cpu_micros: fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|text| cpu_ticks(&text))
            .map(|ticks| ticks * tick_micros),
        // The directory being read is open too.
        open_files: fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1)),
    }
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// User and system time. The program name, which may contain spaces, ends with the last closing parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found_behind_a_name_with_spaces() {
        let stat = "1 (a ) b) S 1 1 1 0 -1 0 1 2 3 4 70 30 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(resident_pages("10 7 3 1 0 5 0"), Some(7));
        assert_eq!((cpu_ticks("nonsense"), resident_pages("")), (None, None));
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = look();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{process:?}");
        assert!(process.open_files.is_some_and(|files| files >= 3), "{process:?}");
    }
}
