//! Which shard a new partition goes to: weighted rendezvous hashing with a load bound.
//!
//! Every replica computes the same result, so the code uses no floating point. The result is recorded as an
//! extent and never computed again, so the rule may change with the version of the command that uses it.

use millstream_model::{RaftGroupId, TopicId};

/// A candidate for new partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The shard.
    pub shard: RaftGroupId,
    /// Its weight relative to the other candidates; at least 1.
    pub weight: u32,
    /// Number of its partitions.
    pub load: u64,
    /// Number of its partitions of this topic.
    pub topic_load: u64,
}

/// A shard may exceed its fair share by one eighth, rounded up.
const SLACK: u64 = 8;

/// Chooses a shard for each partition number of `numbers`, and updates the candidates' loads.
///
/// No shard gets more of a topic than its share, rounded up; and none exceeds its share of all partitions
/// plus the slack, unless the topic cannot be spread otherwise. `candidates` must not be empty.
pub fn place(
    topic: TopicId,
    numbers: std::ops::Range<u32>,
    candidates: &mut [Candidate],
) -> Vec<RaftGroupId> {
    let weights: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    let topic_total = candidates.iter().map(|c| c.topic_load).sum::<u64>() + numbers.len() as u64;
    let total = candidates.iter().map(|c| c.load).sum::<u64>() + numbers.len() as u64;
    let room_in_topic = |c: &Candidate| c.topic_load < (topic_total * u64::from(c.weight)).div_ceil(weights);
    let room = |c: &Candidate| {
        let share = total * u64::from(c.weight);
        c.load < (share + share / SLACK).div_ceil(weights)
    };
    let seed = seed(topic);
    let even = candidates.iter().all(|c| c.weight == candidates[0].weight);
    numbers
        .map(|number| {
            let key =
                |c: &&mut Candidate| (!room_in_topic(c), !room(c), time(seed, number, c, even), c.shard);
            let best = candidates.iter_mut().min_by_key(key).expect("a cluster has at least one shard");
            best.load += 1;
            best.topic_load += 1;
            best.shard
        })
        .collect()
}

/// Chooses between one and `shards_max` shards to spread a topic over, and moves them to the front.
///
/// A topic on fewer shards needs fewer proposals for the batches of one request. Shards that have part of it
/// stay chosen; then those below their bound come before those at it. `candidates` must not be empty.
pub fn narrow(topic: TopicId, candidates: &mut [Candidate], shards_max: usize) -> &mut [Candidate] {
    let weights: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    let total = candidates.iter().map(|c| c.load).sum::<u64>();
    let seed = seed(topic);
    let even = candidates.iter().all(|c| c.weight == candidates[0].weight);
    let is_over_share = |c: &Candidate| c.load * weights > total * u64::from(c.weight);
    candidates
        .sort_by_key(|c| (c.topic_load == 0, is_over_share(c), time(seed, WHOLE_TOPIC, c, even), c.shard));
    let having = candidates.iter().filter(|c| c.topic_load > 0).count();
    let count = shards_max.max(having).clamp(1, candidates.len());
    &mut candidates[..count]
}

/// The partition number used to draw shards for all partitions of a topic together.
const WHOLE_TOPIC: u32 = u32::MAX;

fn seed(topic: TopicId) -> u64 {
    hash(u64_of(&topic.0[..8]) ^ hash(u64_of(&topic.0[8..])))
}

/// Rendezvous order: each shard draws an exponentially distributed time with its weight as the rate, and the
/// earliest wins. With equal weights the logarithm does not change the order and is left out.
fn time(seed: u64, number: u32, candidate: &Candidate, even: bool) -> u128 {
    let drawn = hash(seed ^ hash(u64::from(number) << 32 | u64::from(candidate.shard.0)));
    if even {
        u128::from(!drawn)
    } else {
        (u128::from(negative_log2(drawn)) << 64) / u128::from(candidate.weight)
    }
}

/// `-log2((x + 1) / 2⁶⁴)` with 32 fractional bits.
fn negative_log2(x: u64) -> u64 {
    let x = u128::from(x) + 1;
    let whole = 127 - u64::from(x.leading_zeros());
    // The mantissa in [1, 2) with 63 fractional bits; each squaring gives one bit of the logarithm.
    let mut mantissa = x << (63 - whole.min(63)) >> u64::from(whole == 64);
    let mut fraction = 0;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        fraction = fraction << 1 | bit as u64;
    }
    (64 << 32) - (whole << 32 | fraction)
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Mixes all bits of `x`.
fn hash(x: u64) -> u64 {
    let x = (x ^ x >> 32).wrapping_mul(0x9fb2_1c65_1e98_df25);
    let x = (x ^ x >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(weights: &[u32]) -> Vec<Candidate> {
        let shard = |(index, &weight)| Candidate {
            shard: RaftGroupId(index as u32 + 1),
            weight,
            load: 0,
            topic_load: 0,
        };
        weights.iter().enumerate().map(shard).collect()
    }

    fn topic(n: u32) -> TopicId {
        let mut id = [7; 16];
        id[3..7].copy_from_slice(&n.to_be_bytes());
        TopicId(id)
    }

    /// Places a new topic.
    fn place_topic(n: u32, partitions: u32, candidates: &mut [Candidate]) -> Vec<RaftGroupId> {
        candidates.iter_mut().for_each(|c| c.topic_load = 0);
        place(topic(n), 0..partitions, candidates)
    }

    #[test]
    fn the_partitions_of_a_small_topic_go_to_different_shards() {
        let mut candidates = shards(&[1; 16]);
        for n in 0..500 {
            let mut placed = place_topic(n, 6, &mut candidates);
            placed.sort();
            placed.dedup();
            assert_eq!(placed.len(), 6, "topic {n}");
        }
        let loads: Vec<u64> = candidates.iter().map(|c| c.load).collect();
        let fair = 500 * 6 / 16;
        assert!(loads.iter().all(|load| (fair - fair / 4..=fair + fair / 8 + 1).contains(load)), "{loads:?}");
    }

    #[test]
    fn a_topic_that_is_kept_together_goes_to_so_many_shards_and_topics_are_spread_over_all() {
        let mut candidates = shards(&[1; 16]);
        for n in 0..1000 {
            candidates.iter_mut().for_each(|c| c.topic_load = 0);
            let chosen = narrow(topic(n), &mut candidates, 2);
            assert_eq!(chosen.len(), 2);
            let mut placed = place(topic(n), 0..6, chosen);
            placed.sort();
            placed.dedup();
            assert_eq!(placed.len(), 2, "topic {n}");
        }
        let fair = 1000 * 6 / 16;
        assert!(candidates.iter().all(|c| c.load.abs_diff(fair) <= 6), "{candidates:?}");
    }

    #[test]
    fn a_topic_that_grows_keeps_its_shards() {
        let mut candidates = shards(&[1; 16]);
        let before = place(topic(5), 0..4, narrow(topic(5), &mut candidates, 2));
        candidates.sort_by_key(|c| c.shard);
        let after = place(topic(5), 4..8, narrow(topic(5), &mut candidates, 1));
        assert!(after.iter().all(|shard| before.contains(shard)), "{before:?} {after:?}");
        candidates.iter_mut().for_each(|c| c.topic_load = 0);
        assert_eq!(narrow(topic(6), &mut candidates, 0).len(), 1, "at least one");
        assert_eq!(narrow(topic(6), &mut candidates, 99).len(), 16, "at most all");
    }

    #[test]
    fn topics_of_one_partition_are_spread_too() {
        let mut candidates = shards(&[1; 16]);
        for n in 0..1000 {
            place_topic(n, 1, &mut candidates);
            let (most, all) = (candidates.iter().map(|c| c.load).max(), u64::from(n) + 1);
            assert!(most <= Some((all + all / 8).div_ceil(16)), "{most:?} of {all}");
        }
    }

    #[test]
    fn a_large_topic_is_spread_as_evenly_as_can_be() {
        let mut candidates = shards(&[1; 16]);
        place_topic(1, 10_001, &mut candidates);
        assert!(
            candidates.iter().all(|c| (610..=626).contains(&c.load)),
            "none above its share: {candidates:?}"
        );
    }

    #[test]
    fn a_heavier_shard_gets_its_share() {
        let mut candidates = shards(&[1, 2, 5]);
        place_topic(1, 800, &mut candidates);
        assert_eq!(candidates.iter().map(|c| c.load).collect::<Vec<_>>(), [100, 200, 500]);
        let mut candidates = shards(&[1, 2, 5]);
        (0..800).for_each(|n| drop(place_topic(n, 1, &mut candidates)));
        let loads: Vec<u64> = candidates.iter().map(|c| c.load).collect();
        assert!(loads[0] <= 113 && loads[1] <= 226 && loads[2] <= 563, "{loads:?}");
        assert!(loads[0] >= 60 && loads[1] >= 150 && loads[2] >= 450, "{loads:?}");
    }

    #[test]
    fn growing_a_topic_goes_on_where_it_is_not() {
        let mut candidates = shards(&[1; 4]);
        let first = place_topic(1, 2, &mut candidates);
        let second = place(topic(1), 2..4, &mut candidates);
        let mut all = [first, second].concat();
        all.sort();
        assert_eq!(all, [1, 2, 3, 4].map(RaftGroupId));
    }

    #[test]
    fn without_bounds_in_the_way_most_placements_stay_when_a_shard_is_added() {
        let winner = |n: u32, shards: &[Candidate]| {
            shards.iter().min_by_key(|c| time(u64::from(n), 0, c, n.is_multiple_of(2))).map(|c| c.shard)
        };
        let (before, after) = (shards(&[1; 9]), shards(&[1; 10]));
        let moved = (0..1000).filter(|n| winner(*n, &before) != winner(*n, &after)).count();
        assert!((60..=140).contains(&moved), "{moved} of 1000 moved; a tenth should");
    }

    #[test]
    fn the_logarithm_is_one() {
        for x in [0, 1, 2, 3, 1000, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let exact = 64.0 - (x as f64 + 1.0).log2();
            let ours = negative_log2(x) as f64 / (1u64 << 32) as f64;
            assert!((exact - ours).abs() < 1e-8, "{x}: {ours} is not {exact}");
        }
    }
}
