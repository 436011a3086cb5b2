//! Log starts: which old and surplus records to delete.

use std::sync::Arc;

use millstream_model::PartitionId;
use millstream_store::tables::{Piece, Tables};

use crate::{config::TopicConfig, partition::Shard, service::Service};

/// The log starts of a shard's partitions that the topics' retention moves.
pub(super) fn moves(
    service: &Service,
    tables: &Tables,
    shard: &Arc<Shard>,
    now_ms: i64,
) -> Vec<(PartitionId, i64)> {
    // Most partitions of a large cluster are empty; the lock is not held while the others are examined.
    let filled: Vec<_> = shard.host.inspect(|machine| {
        let all = machine.partitions().map(|(id, p)| (id, p.log_start(), p.next_offset()));
        all.filter(|(_, log_start, next_offset)| log_start < next_offset).collect()
    });
    let start = |(id, log_start, next_offset): (PartitionId, i64, i64)| {
        let config = service.topic_config_of(id)?;
        let bounded = config.retention_ms.is_some() || config.retention_bytes.is_some();
        let pieces = if config.delete && bounded { tables.pieces(id) } else { return None };
        let start = kept_from(&config, &pieces, now_ms)?.min(next_offset);
        (start > log_start).then_some((id, start))
    };
    filled.into_iter().filter_map(start).collect()
}

/// Offset after the pieces that are too old or exceed the size limit.
fn kept_from(config: &TopicConfig, pieces: &[Piece], now_ms: i64) -> Option<i64> {
    let mut size: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let mut start = None;
    for piece in pieces {
        let too_old = config.retention_ms.is_some_and(|ms| piece.age_from_ms < now_ms.saturating_sub(ms));
        let too_much = config.retention_bytes.is_some_and(|most| size - piece.bytes >= most);
        if !too_old && !too_much {
            break;
        }
        size -= piece.bytes;
        start = Some(piece.next_offset);
    }
    start
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn kept(set: &[(&str, &str)], now_ms: i64) -> Option<i64> {
        let set: BTreeMap<_, _> =
            set.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let piece = |bytes, age_from_ms, next_offset| Piece { bytes, age_from_ms, next_offset };
        let pieces = [piece(100, 1000, 10), piece(50, 3000, 20), piece(100, 2000, 30)];
        kept_from(&TopicConfig::from_values(&set), &pieces, now_ms)
    }

    #[test]
    fn what_is_too_old_goes_up_to_the_first_that_is_not() {
        let old = |now_ms| kept(&[("retention.ms", "500")], now_ms);
        assert_eq!((old(1500), old(1501), old(3000)), (None, Some(10), Some(10)));
        assert_eq!(old(3501), Some(30));
        assert_eq!(kept(&[("retention.ms", "-1")], i64::MAX), None);
    }

    #[test]
    fn what_is_too_much_goes_as_long_as_enough_is_left() {
        let much = |most: &str| kept(&[("retention.ms", "-1"), ("retention.bytes", most)], 0);
        assert_eq!((much("250"), much("151"), much("150")), (None, None, Some(10)));
        assert_eq!((much("101"), much("100"), much("0")), (Some(10), Some(20), Some(30)));
    }
}
