//! Millstream's tests from the outside: house rules, faults, real clients.
//!
//! `tests/tidy.rs` checks the house rules with what is here; `run`, `kafka/` and `faults/` beside this crate work on
//! the release build, in Python.

pub mod generated;
pub mod source;
pub mod tree;
