//! What can be measured, with its parameters.

use std::time::Duration;

use millstream_client::{
    Codec,
    producer::{Acks, ProducerConfig},
};

/// A measurement.
#[derive(Clone, Debug)]
pub enum Case {
    /// Writes records as fast as they are accepted.
    Produce(Produce),
    /// Reads a topic from its beginning to its end.
    Consume(Consume),
    /// Writes records at a fixed rate and measures the time to each acknowledgement.
    Latency(Paced),
    /// Writes records at a fixed rate, reads them at the same time, and measures the time from one to the other.
    EndToEnd(Paced),
    /// Creates many topics and partitions, then writes to all of them in turn.
    Partitions(Partitions),
    /// Many consumer groups read the same topic at the same time.
    Groups(Groups),
}

impl Case {
    /// The name in results.
    pub fn name(&self) -> &'static str {
        match self {
            Case::Produce(_) => "produce",
            Case::Consume(_) => "consume",
            Case::Latency(_) => "latency",
            Case::EndToEnd(_) => "end-to-end",
            Case::Partitions(_) => "partitions",
            Case::Groups(_) => "groups",
        }
    }

    /// The existing topic that it uses, if it does not create its own.
    pub fn topic(&self) -> Option<&str> {
        let choice = match self {
            Case::Produce(case) => &case.topic,
            Case::Consume(case) => &case.topic,
            Case::Latency(case) | Case::EndToEnd(case) => &case.topic,
            Case::Groups(case) => &case.topic,
            Case::Partitions(_) => return None,
        };
        choice.name.as_deref()
    }
}

/// The topic to write to and to read from.
#[derive(Clone, Debug)]
pub struct TopicChoice {
    /// An existing topic; none creates one, which is deleted at the end.
    pub name: Option<String>,
    /// Partitions of a new topic.
    pub partitions: i32,
}

/// The records, and how they are produced.
#[derive(Clone, Debug)]
pub struct Records {
    /// Bytes of a record's value; they do not compress.
    pub size: u32,
    /// When a record counts as delivered.
    pub acks: Acks,
    /// How batches are compressed.
    pub codec: Codec,
    /// How long a batch waits for more records; none is the default of the case.
    pub linger: Option<Duration>,
    /// How long a record is retried.
    pub delivery_timeout: Duration,
}

impl Records {
    pub(crate) fn linger(&self, default: Duration) -> Duration {
        self.linger.unwrap_or(default)
    }

    pub(crate) fn producer(&self, linger: Duration) -> ProducerConfig {
        ProducerConfig {
            acks: self.acks,
            codec: self.codec,
            linger: self.linger(linger),
            delivery_timeout: self.delivery_timeout,
            // Topics that are deleted after an interrupt must not be created again.
            create_topics: false,
            ..ProducerConfig::default()
        }
    }
}

/// Parameters of [`Case::Produce`].
#[derive(Clone, Debug)]
pub struct Produce {
    /// Where records are written to.
    pub topic: TopicChoice,
    /// Number of records.
    pub records: u64,
    /// What is written.
    pub record: Records,
}

/// Parameters of [`Case::Consume`].
#[derive(Clone, Debug)]
pub struct Consume {
    /// What is read.
    pub topic: TopicChoice,
    /// Records that a new topic is filled with before the measurement.
    pub records: u64,
    /// What a new topic is filled with.
    pub record: Records,
}

/// Parameters of [`Case::Latency`] and [`Case::EndToEnd`].
#[derive(Clone, Debug)]
pub struct Paced {
    /// Where records are written to.
    pub topic: TopicChoice,
    /// Records per second.
    pub rate: u64,
    /// Seconds that are measured.
    pub seconds: u64,
    /// Seconds before that, whose records do not count.
    pub warmup: u64,
    /// What is written; for [`Case::EndToEnd`] of at least [`MARK_BYTES`](crate::MARK_BYTES).
    pub record: Records,
}

/// Parameters of [`Case::Partitions`].
#[derive(Clone, Debug)]
pub struct Partitions {
    /// Number of topics.
    pub topics: u32,
    /// Partitions of each topic.
    pub partitions: i32,
    /// Number of records, over all partitions in turn.
    pub records: u64,
    /// What is written.
    pub record: Records,
}

/// Parameters of [`Case::Groups`].
#[derive(Clone, Debug)]
pub struct Groups {
    /// What is read.
    pub topic: TopicChoice,
    /// Number of groups; each reads everything.
    pub groups: u32,
    /// Members of each group.
    pub members: u32,
    /// Records that a new topic is filled with before the measurement.
    pub records: u64,
    /// What a new topic is filled with.
    pub record: Records,
}
