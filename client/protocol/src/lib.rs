//! The Kafka wire format, shared by client and broker.
