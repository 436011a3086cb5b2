//! Which partition a record goes to: by its key, as Kafka's Java client hashes it, or in runs for records without one.

/// Kafka's hash of a key: 32-bit MurmurHash2 (Austin Appleby) with the seed of Kafka's Java client.
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        word = word.wrapping_mul(M);
        word ^= word >> 24;
        word = word.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition of a key.
pub fn partition_of_key(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// Where records without a key go: to one partition until a batch is full, then to another, so that batches are large
/// and partitions get equal shares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sticky {
    current: Option<usize>,
}

impl Sticky {
    /// The partition for the next record. `start` says where a new producer begins; it is drawn once.
    pub(crate) fn partition(&mut self, partitions: usize, start: impl FnOnce() -> u64) -> usize {
        let partitions = partitions.max(1);
        let current = *self.current.get_or_insert_with(|| (start() % partitions as u64) as usize);
        // The topic may have fewer partitions than when the choice was made, if it was made anew.
        current % partitions
    }

    /// The batch of this partition is closed: the next record begins another one elsewhere.
    pub(crate) fn closed(&mut self, partition: usize, partitions: usize) {
        if self.current.is_some_and(|current| current % partitions.max(1) == partition) {
            self.current = Some((partition + 1) % partitions.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs that Kafka's own tests (`UtilsTest`) have.
    #[test]
    fn hashes_are_those_of_kafkas_java_client() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn the_same_key_goes_to_the_same_partition() {
        assert_eq!(partition_of_key(b"foobar", 10), partition_of_key(b"foobar", 10));
        assert!((0..100u32).all(|n| partition_of_key(&n.to_be_bytes(), 7) < 7));
        assert_eq!(partition_of_key(b"x", 1), 0);
    }

    #[test]
    fn records_without_a_key_change_partition_with_the_batch() {
        let mut sticky = Sticky::default();
        assert_eq!(sticky.partition(3, || 4), 1);
        assert_eq!(sticky.partition(3, || 9), 1);
        sticky.closed(0, 3);
        assert_eq!(sticky.partition(3, || 9), 1);
        sticky.closed(1, 3);
        assert_eq!(sticky.partition(3, || 9), 2);
        sticky.closed(2, 3);
        assert_eq!(sticky.partition(3, || 9), 0);
    }
}
