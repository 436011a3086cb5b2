//! The types of the metadata group.

use std::collections::BTreeMap;

use millstream_model::{PartitionId, RaftGroupId, TopicId};

/// An extent: the offsets of a partition that one shard holds, from `start` to the start of the next extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First offset.
    pub start: i64,
    /// The shard.
    pub shard: RaftGroupId,
    /// Added to the shard's term it gives the leader epoch that clients see.
    pub epoch: i32,
}

/// A partition's extents, sorted by offset; there is always at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    first: Extent,
    // Nearly all partitions have only one, so the others are boxed.
    more: Box<[Extent]>,
}

impl Extents {
    /// A single extent.
    pub fn new(first: Extent) -> Extents {
        Extents { first, more: Box::default() }
    }

    /// Extents from a list; `None` if it is empty.
    pub(super) fn from_list(list: Vec<Extent>) -> Option<Extents> {
        let (first, more) = list.split_first()?;
        Some(Extents { first: *first, more: more.into() })
    }

    /// The extent that takes new records.
    pub fn last(&self) -> Extent {
        self.more.last().copied().unwrap_or(self.first)
    }

    /// All extents, the oldest first.
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
    /// The internal id; never reused.
    pub id: PartitionId,
    /// Where its records are.
    pub extents: Extents,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Topic name.
    pub name: String,
    /// Its id; a topic that is recreated under the same name gets another one.
    pub id: TopicId,
    /// Its partitions; the index is Kafka's partition number.
    pub partitions: Vec<Partition>,
    /// Its configuration overrides.
    pub configs: BTreeMap<String, String>,
    /// Whether it is internal.
    pub internal: bool,
    /// Creation time, in milliseconds.
    pub created_ms: i64,
}

/// A broker's address for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Rack, if it has one.
    pub rack: Option<String>,
}
