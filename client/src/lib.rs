//! Millstream's client: producer, consumer and admin for any Kafka-compatible broker.
