//! Millstream's Raft groups: the only crate that names openraft.
