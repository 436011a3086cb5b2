//! Bounds that hold across crates. Each name ends in its unit.

/// Most bytes of one Raft entry's payload, unless a single larger batch is in it.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Largest record batch that a topic can be configured to take (`max.message.bytes`).
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Largest payload of one Raft entry: the largest batch and room for its headers.
pub const ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX + (1 << 16);
/// Largest Kafka request frame after login.
pub const FRAME_BYTES_MAX: usize = 100 << 20;
/// Most bytes that a compressed batch may expand to where the broker must look inside.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;
/// Shards of a new cluster.
pub const SHARDS_DEFAULT: u32 = 16;
