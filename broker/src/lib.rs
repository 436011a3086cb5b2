//! The Millstream broker.
