//! The `millstream` command.

use std::process::ExitCode;

/// Returns memory to the system sooner than the default allocator, and is faster with many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Freed memory returns to the system within seconds, even if the threads that freed it sleep.
// SAFETY: the allocator reads a C string under this name, and no other item has it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    millstream_cli::run()
}
