//! Bounds that hold across crates. Each name ends in its unit.

/// Most bytes of one Raft entry's payload, unless a single larger batch is in it.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Most bytes that a compressed batch may expand to while the broker checks it.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;
/// Shards of a new cluster.
pub const SHARDS_DEFAULT: u32 = 16;
