//! The messages, one module per file of `messages/`. Fields keep Kafka's names in snake case, and their defaults.

#![allow(clippy::all, unused_variables)]

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
