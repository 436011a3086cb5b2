//! File descriptors: the limit of this process, divided among connections and files.

use std::io;

use millstream_store::tables::OPEN_FILES_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors outside of the shares: standard streams, the runtime, listeners, the log's files and
/// directory, a run that is written by a flush and one by a merge, checkpoints, the manifest, configuration
/// and system files.
const COMMON: usize = 56;
/// The HTTP port and the files of runs each get this fraction of the rest.
const SHARE: usize = 8;
const HTTP_CONNECTIONS_MIN: usize = 8;
const HTTP_CONNECTIONS_MAX: usize = 256;
const RUN_FILES_MIN: usize = 8;
const KAFKA_CONNECTIONS_MIN: usize = 8;
/// Fewer are not enough for a broker.
const DESCRIPTORS_MIN: usize = COMMON + HTTP_CONNECTIONS_MIN + RUN_FILES_MIN + KAFKA_CONNECTIONS_MIN;

/// The descriptors of this process and their division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    pub(crate) kafka_connections: usize,
    pub(crate) http_connections: usize,
    /// Most open files of runs.
    pub(crate) run_files: usize,
}

/// The limit is too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system lets this process open {allowed} files, and a broker needs at least {DESCRIPTORS_MIN}: raise `ulimit -Hn` (LimitNOFILE=)"
)]
pub(crate) struct TooFewDescriptors {
    allowed: usize,
}

impl Descriptors {
    /// Raises the soft limit of descriptors to the hard limit, and divides them. Many systems start processes
    /// with a soft limit of 1,024, for programs that use `select`.
    pub(crate) fn take_all(connections_max: usize) -> io::Result<Descriptors> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
        let allowed =
            limit.maximum.map_or(usize::MAX, |allowed| usize::try_from(allowed).unwrap_or(usize::MAX));
        let shared = Descriptors::share(allowed, connections_max).map_err(io::Error::other)?;
        if shared.kafka_connections < connections_max {
            tracing::warn!(
                open_files_max = allowed,
                "connections.max" = connections_max,
                connections_max = shared.kafka_connections,
                http_connections_max = shared.http_connections,
                "fewer connections than connections.max: the system lets this process open too few files; raise `ulimit -Hn` (LimitNOFILE=)"
            );
        }
        Ok(shared)
    }

    fn share(allowed: usize, connections_max: usize) -> Result<Descriptors, TooFewDescriptors> {
        if allowed < DESCRIPTORS_MIN {
            return Err(TooFewDescriptors { allowed });
        }
        let rest = allowed - COMMON;
        let http_connections = (rest / SHARE).clamp(HTTP_CONNECTIONS_MIN, HTTP_CONNECTIONS_MAX);
        let run_files = (rest / SHARE).clamp(RUN_FILES_MIN, OPEN_FILES_MAX);
        let kafka_connections = connections_max.min(rest - http_connections - run_files);
        Ok(Descriptors { kafka_connections, http_connections, run_files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_store_and_the_http_port_leave() {
        let share = |allowed| {
            Descriptors::share(allowed, 12_000)
                .map(|d| (d.kafka_connections, d.http_connections, d.run_files))
        };
        assert_eq!(share(usize::MAX), Ok((12_000, 256, 256)));
        assert_eq!(share(COMMON + 512 + 12_000), Ok((12_000, 256, 256)));
        assert_eq!(share(1024), Ok((726, 121, 121)));
        assert_eq!(share(100), Ok((28, 8, 8)));
        assert_eq!(share(DESCRIPTORS_MIN), Ok((8, 8, 8)));
        assert_eq!(share(DESCRIPTORS_MIN - 1), Err(TooFewDescriptors { allowed: DESCRIPTORS_MIN - 1 }));
        for allowed in DESCRIPTORS_MIN..14_000 {
            let shared = Descriptors::share(allowed, 12_000).expect("enough");
            let all = COMMON + shared.kafka_connections + shared.http_connections + shared.run_files;
            assert!(all <= allowed, "{all} of {allowed}");
        }
    }
}
