//! Millstream's black-box tests: house rules, faults, real clients.
//!
//! `tests/tidy.rs` checks the house rules with the code here; `run`, `kafka/` and `faults/` beside this crate
//! test the release build, in Python.

pub mod generated;
pub mod source;
pub mod tree;
