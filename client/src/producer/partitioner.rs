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

/// Where records without a key go: to one partition until its batch is closed, then to the next one. A batch is closed
/// when it is full, when its time to wait for more is over, and by a flush; however slowly a partition's broker takes them,
/// it is given no more than the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sticky {
    current: Option<usize>,
}

impl Sticky {
    /// The partition for the next record. `start` says where a new producer begins; it is drawn once.
    pub(crate) fn partition(&mut self, partitions: usize, start: impl FnOnce() -> u64) -> usize {
        let partitions = partitions.max(1);
        let begin = || (start() % partitions as u64) as usize;
        // Behind the last one, or the topic has fewer than when the choice was made, if it was made anew.
        let current = self.current.map_or_else(begin, |current| current % partitions);
        self.current = Some(current);
        current
    }

    /// The batch of this partition is closed: the next record begins another one elsewhere.
    pub(crate) fn closed(&mut self, partition: usize) {
        if self.current == Some(partition) {
            self.current = Some(partition + 1);
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
        sticky.closed(0);
        assert_eq!(sticky.partition(3, || 9), 1);
        sticky.closed(1);
        sticky.closed(1);
        assert_eq!(sticky.partition(3, || 9), 2);
        sticky.closed(2);
        assert_eq!(sticky.partition(3, || 9), 0);
    }
}
