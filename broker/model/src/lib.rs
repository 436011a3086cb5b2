//! Identifiers, log positions and limits that every broker crate shares.
