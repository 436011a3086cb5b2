//! The memory limit of this process: the machine's memory, or the smallest limit of its control groups.

use std::{
    fmt, fs,
    path::{Component, Path, PathBuf},
};

/// Assumed if the system does not report its memory.
const MACHINE_BYTES_UNKNOWN: u64 = 1 << 30;
const MEMINFO: &str = "/proc/meminfo";
const OWN_GROUPS: &str = "/proc/self/cgroup";
const MOUNTS: &str = "/proc/self/mountinfo";
/// Most levels of nested control groups that are read. The kernel's own default limit is lower in practice.
const LEVELS_MAX: usize = 64;

/// Files with limits in a version 2 group. Above `memory.high` a process is throttled until it is useless.
const FILES_V2: &[&str] = &["memory.max", "memory.high"];
/// The same of version 1.
const FILES_V1: &[&str] = &["memory.limit_in_bytes"];
/// Has, in version 1, a line with the smallest limit of a group and its ancestors, including those outside of
/// this process's namespace.
const STAT_V1: &str = "memory.stat";
const STAT_LIMIT_V1: &str = "hierarchical_memory_limit ";

/// The most memory that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// In bytes.
    pub bytes: u64,
    /// The source of the limit.
    pub source: LimitSource,
}

/// The source of the memory limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// The system does not report it.
    Unknown,
    /// The machine's memory.
    Machine,
    /// This file of a control group.
    ControlGroup(PathBuf),
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitSource::Unknown => f.write_str("unknown"),
            LimitSource::Machine => f.write_str("machine"),
            LimitSource::ControlGroup(file) => file.display().fmt(f),
        }
    }
}

impl MemoryLimit {
    /// The current limit of this process.
    pub(super) fn of_this_process() -> MemoryLimit {
        MemoryLimit::read(|path| fs::read_to_string(path).ok())
    }

    /// The smallest limit that the system's files describe.
    fn read(read: impl Fn(&Path) -> Option<String>) -> MemoryLimit {
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        let machine = match total_memory(&text(MEMINFO)) {
            Some(bytes) => MemoryLimit { bytes, source: LimitSource::Machine },
            None => MemoryLimit { bytes: MACHINE_BYTES_UNKNOWN, source: LimitSource::Unknown },
        };
        let folders = limit_folders(&text(OWN_GROUPS), &text(MOUNTS));
        let set_here = folders.iter().flat_map(|(version, folder)| limits_in(*version, folder, &read));
        // Last, so that on a tie the file where the limit was seen is named.
        let set_above = folders.iter().filter_map(|(version, folder)| limit_above(*version, folder, &read));
        let limits = set_here.chain(set_above);
        limits.fold(machine, |smallest, limit| if limit.bytes < smallest.bytes { limit } else { smallest })
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The version of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The limits of a directory.
fn limits_in(version: Version, folder: &Path, read: impl Fn(&Path) -> Option<String>) -> Vec<MemoryLimit> {
    let files = match version {
        Version::V1 => FILES_V1,
        Version::V2 => FILES_V2,
    };
    // Without a limit there is a word, a number larger than any machine, or no file.
    let limit = |file: &&str| limit_of(folder.join(file), |path| read(path)?.trim().parse().ok());
    files.iter().filter_map(limit).collect()
}

/// The smallest limit of a version 1 group and its ancestors.
fn limit_above(
    version: Version,
    folder: &Path,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<MemoryLimit> {
    let number = |path: &Path| {
        let text = read(path)?;
        text.lines().find_map(|line| line.strip_prefix(STAT_LIMIT_V1))?.trim().parse().ok()
    };
    (version == Version::V1).then(|| limit_of(folder.join(STAT_V1), number)).flatten()
}

fn limit_of(file: PathBuf, number: impl Fn(&Path) -> Option<u64>) -> Option<MemoryLimit> {
    Some(MemoryLimit { bytes: number(&file)?, source: LimitSource::ControlGroup(file) })
}

/// The directories of this process's control groups and their ancestors that are mounted, the innermost
/// first.
fn limit_folders(own_groups: &str, mounts: &str) -> Vec<(Version, PathBuf)> {
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let mut folders = Vec::new();
    for (version, group) in own_groups.lines().filter_map(own_group) {
        let of_version: Vec<&Mount> = mounts.iter().filter(|mount| mount.version == version).collect();
        let mut inside: Vec<(&Path, PathBuf)> = of_version
            .iter()
            .filter_map(|mount| Some((mount.point.as_path(), mount.folder_of(&group)?)))
            .collect();
        if inside.is_empty() {
            // The group is not below the mount, as in a container that shares its host's namespace: the
            // mounted group is the container's own.
            inside = of_version.iter().map(|mount| (mount.point.as_path(), mount.point.clone())).collect();
        }
        for (point, folder) in inside {
            let levels = folder.ancestors().take_while(|level| level.starts_with(point)).take(LEVELS_MAX);
            folders.extend(levels.map(|level| (version, level.to_path_buf())));
        }
    }
    folders
}

/// Path of the process's group in the hierarchy of the memory controller, from a line `ID:CONTROLLERS:PATH`.
fn own_group(line: &str) -> Option<(Version, PathBuf)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let version = match (id, controllers) {
        ("0", "") => Version::V2,
        _ if controllers.split(',').any(|name| name == "memory") => Version::V1,
        _ => return None,
    };
    Some((version, PathBuf::from(path)))
}

/// A mount of a control group hierarchy, or a part of it.
struct Mount {
    version: Version,
    /// The mounted group.
    root: PathBuf,
    /// The mount point.
    point: PathBuf,
}

impl Mount {
    /// Parses a line of mountinfo: `ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS`.
    fn parse(line: &str) -> Option<Mount> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
        let version = match name {
            "cgroup2" => Version::V2,
            "cgroup" if options.split(',').any(|option| option == "memory") => Version::V1,
            _ => return None,
        };
        Some(Mount { version, root: unescaped(root), point: unescaped(point) })
    }

    /// The directory of a group, if it is below the mount.
    fn folder_of(&self, group: &Path) -> Option<PathBuf> {
        let below = group.strip_prefix(&self.root).ok()?;
        // A group outside of the process's namespace has a path with "..": its directory is unknown.
        below.components().all(|part| matches!(part, Component::Normal(_))).then(|| self.point.join(below))
    }
}

/// Decodes a path of mountinfo: spaces and the like are a backslash with three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code.into());
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const MIB: u64 = 1 << 20;
    const MOUNT_V2: &str = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const MOUNTS_V1: &str = "\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:12 master:3 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    /// The limit on a machine of 64 GiB with these files.
    fn limit(own_groups: &str, mounts: &str, files: &[(&str, &str)]) -> (u64, String) {
        let mut all: HashMap<&Path, &str> =
            files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        all.insert(Path::new(MEMINFO), "MemFree: 1 kB\nMemTotal:       67108864 kB\nX: 1 kB\n");
        all.insert(Path::new(OWN_GROUPS), own_groups);
        all.insert(Path::new(MOUNTS), mounts);
        let limit = MemoryLimit::read(|path| all.get(path).map(ToString::to_string));
        (limit.bytes / MIB, limit.source.to_string())
    }

    #[test]
    fn a_process_without_limits_has_the_whole_machine() {
        let whole = (64 << 10, "machine".to_string());
        let none = ("/sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(limit("0::/\n", MOUNT_V2, &[none]), whole);
        // The format of version 1.
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("4:memory:/\n0::/\n", MOUNTS_V1, &[none]), whole);
        assert_eq!(limit("", "", &[]), whole);
        let nothing = MemoryLimit::read(|_| None);
        assert_eq!(nothing, MemoryLimit { bytes: MACHINE_BYTES_UNKNOWN, source: LimitSource::Unknown });
    }

    #[test]
    fn the_smallest_limit_of_the_own_group_and_those_above_counts() {
        // systemd's MemoryMax of a service, and of its slice.
        let group = "0::/system.slice/millstream.service\n";
        let own = "/sys/fs/cgroup/system.slice/millstream.service/memory.max";
        let slice = "/sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(limit(group, MOUNT_V2, &[(own, "536870912\n"), (slice, "max\n")]), (512, own.to_string()));
        assert_eq!(
            limit(group, MOUNT_V2, &[(own, "536870912\n"), (slice, "268435456\n")]),
            (256, slice.to_string())
        );
        // MemoryHigh.
        let high = "/sys/fs/cgroup/system.slice/millstream.service/memory.high";
        assert_eq!(
            limit(group, MOUNT_V2, &[(own, "536870912\n"), (high, "402653184\n")]),
            (384, high.to_string())
        );
        // A neighbour's limit does not count.
        let other = "/sys/fs/cgroup/system.slice/other.service/memory.max";
        assert_eq!(limit(group, MOUNT_V2, &[(other, "1048576\n")]).0, 64 << 10);
    }

    #[test]
    fn version_one_is_read_where_its_memory_controller_is_mounted() {
        let group = "9:name=systemd:/x\n4:cpu,memory:/a/b\n1:cpu:/c\n0::/d\n";
        let mounts = MOUNTS_V1.replace("rw,memory", "rw,cpu,memory");
        let (own, above) = (
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
        );
        assert_eq!(limit(group, &mounts, &[(own, "201326592\n")]), (192, own.to_string()));
        assert_eq!(
            limit(group, &mounts, &[(own, "9223372036854771712\n"), (above, "134217728\n")]),
            (128, above.to_string())
        );
        // Both versions at once, as systemd's hybrid mode has them.
        let unified = "/sys/fs/cgroup/unified/d/memory.max";
        assert_eq!(
            limit(group, &mounts, &[(own, "201326592\n"), (unified, "67108864")]),
            (64, unified.to_string())
        );
        // Limits above the process's namespace are in no visible directory, but in its own group's
        // statistics.
        let stat = "/sys/fs/cgroup/memory/memory.stat";
        let text = "cache 0\nhierarchical_memory_limit 104857600\nhierarchical_memsw_limit 1\n";
        assert_eq!(limit("4:memory:/\n", MOUNTS_V1, &[(stat, text)]), (100, stat.to_string()));
    }

    #[test]
    fn a_container_sees_its_own_group_wherever_it_is_mounted() {
        let max = "/sys/fs/cgroup/memory.max";
        let wanted = (512, max.to_string());
        let files = [(max, "536870912\n")];
        // In a namespace of its own.
        assert_eq!(limit("0::/\n", MOUNT_V2, &files), wanted);
        // In its host's, with its own group mounted.
        let own = MOUNT_V2.replace(" / /sys", " /docker/1234 /sys");
        assert_eq!(limit("0::/docker/1234\n", &own, &files), wanted);
        let inner = "/sys/fs/cgroup/inner/memory.max";
        assert_eq!(limit("0::/docker/1234/inner\n", &own, &[(inner, "1048576")]), (1, inner.to_string()));
        // Nested containers, whose paths begin elsewhere.
        assert_eq!(limit("0::/docker/99/docker/1234\n", &own, &files), wanted);
        // A process that was moved into a namespace from outside.
        assert_eq!(limit("0::/../init.scope\n", MOUNT_V2, &files), wanted);
        // Another group that is mounted too is not the process's.
        let both = format!("{own}36 24 0:30 /docker/5678 /mnt/other rw - cgroup2 cgroup2 rw\n");
        assert_eq!(
            limit("0::/docker/1234\n", &both, &[files[0], ("/mnt/other/memory.max", "1048576")]),
            wanted
        );
    }

    #[test]
    fn mount_points_may_have_spaces_and_lines_may_be_odd() {
        let mounts = "35 24 0:30 / /my\\040groups\\x rw - cgroup2 none rw\nnonsense\n1 2 3 - cgroup2\n";
        let file = "/my groups\\x/a:b/memory.max";
        assert_eq!(limit("0::/a:b\nnonsense\n", mounts, &[(file, "1048576")]), (1, file.to_string()));
    }

    #[test]
    fn the_limit_of_this_process_can_be_read() {
        let limit = MemoryLimit::of_this_process();
        assert!(limit.bytes > 0 && limit.source != LimitSource::Unknown, "{limit:?}");
    }
}
