//! Groups on a simulated disk that loses power, and openraft's own suite on a real one.

mod conformance;
mod crashes;
mod groups;
mod node;
mod replicas;
