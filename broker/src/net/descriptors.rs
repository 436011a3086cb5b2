//! File descriptors: each connection takes one.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the store, the runtime and what is short-lived take, at most.
const OTHERS_MAX: u64 = 1000;

/// Takes all the descriptors that the system lets this process have, and warns of it if that is less than the connections
/// need. Many systems start a process with 1,024 of many more, for the sake of programs that know no others.
pub(crate) fn take_all(connections_max: usize) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let wanted = connections_max as u64 + OTHERS_MAX;
    if let Some(descriptors) = limit.maximum.filter(|descriptors| *descriptors < wanted) {
        tracing::warn!(
            descriptors,
            connections_max,
            "the system lets this process open fewer files than connections.max needs: raise `ulimit -Hn` (LimitNOFILE=)"
        );
    }
    Ok(())
}
