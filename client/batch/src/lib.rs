//! Kafka's record batch (magic 2): header view, stamping, records, compression.
