//! Addresses, read by the one parser that broker and clients share.

pub use millstream_protocol::{Address, AddressError};
