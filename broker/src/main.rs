//! The `millstream` command.

use std::process::ExitCode;

/// Gives memory back to the system sooner than the default one, and is faster with many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    millstream::cli::run()
}
