//! Addresses, parsed by the parser that brokers and clients share.

pub use millstream_protocol::{Address, AddressError};
