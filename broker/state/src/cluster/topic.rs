//! The nouns of the metadata group.

use std::collections::BTreeMap;

use millstream_model::{PartitionId, RaftGroupId, TopicId};

/// The offsets of a partition that one shard holds: from `start` to the next extent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First offset.
    pub start: i64,
    /// The shard.
    pub shard: RaftGroupId,
    /// Added to a term of the shard it gives the leader epoch that clients see.
    pub epoch: i32,
}

/// A partition's extents in the order of their offsets; there is always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    first: Extent,
    // Almost no partition has more; those that have pay for them.
    more: Box<[Extent]>,
}

impl Extents {
    /// One extent.
    pub fn new(first: Extent) -> Extents {
        Extents { first, more: Box::default() }
    }

    /// Extents from a list, unless that is empty.
    pub(super) fn from_list(list: Vec<Extent>) -> Option<Extents> {
        let (first, more) = list.split_first()?;
        Some(Extents { first: *first, more: more.into() })
    }

    /// The extent that takes new records.
    pub fn last(&self) -> Extent {
        self.more.last().copied().unwrap_or(self.first)
    }

    /// All, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> + Clone {
        std::iter::once(&self.first).chain(&*self.more)
    }

    /// Number of extents.
    pub fn count(&self) -> usize {
        1 + self.more.len()
    }
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The internal id, never given twice.
    pub id: PartitionId,
    /// Where its records are.
    pub extents: Extents,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; a topic made again under the same name has another.
    pub id: TopicId,
    /// Its partitions; the index is Kafka's partition number.
    pub partitions: Vec<Partition>,
    /// The configuration keys that were set on it.
    pub configs: BTreeMap<String, String>,
    /// Whether it belongs to the broker.
    pub internal: bool,
    /// When it was made, in milliseconds.
    pub created_ms: i64,
}

/// A broker of the cluster, as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Rack, if it has one.
    pub rack: Option<String>,
}
