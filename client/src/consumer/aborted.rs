//! Records of transactions that were aborted, for readers that want only what was committed.
//!
//! The broker tells which producers' transactions were aborted and where each began; a mark behind its last record ends it.

use std::collections::BTreeSet;

use bytes::Bytes;
use millstream_batch::{BatchHeader, decode_records};
use millstream_protocol::messages::fetch::AbortedTransaction;

/// Most bytes of a batch of marks.
const MARKS_BYTES_MAX: usize = 1 << 20;
/// Kafka's number of the mark that ends an aborted transaction.
const ABORT: i16 = 0;

/// Takes out the batches of aborted transactions. Both lists are in the order of the log.
pub(super) fn without_aborted(batches: Vec<Bytes>, aborted: &[AbortedTransaction]) -> Vec<Bytes> {
    if aborted.is_empty() {
        return batches;
    }
    let mut begins: Vec<(i64, i64)> = aborted.iter().map(|one| (one.first_offset, one.producer_id)).collect();
    begins.sort_unstable();
    let mut begins = begins.into_iter().peekable();
    let mut open: BTreeSet<i64> = BTreeSet::new();
    let keep = |batch: &Bytes| {
        let Ok(header) = BatchHeader::parse(batch) else { return true };
        while let Some((_, producer)) = begins.next_if(|(first, _)| *first <= header.last_offset()) {
            open.insert(producer);
        }
        if header.attributes.is_control() {
            if is_abort(batch) {
                open.remove(&header.producer_id);
            }
            return true;
        }
        !(header.attributes.is_transactional() && open.contains(&header.producer_id))
    };
    batches.into_iter().filter(keep).collect()
}

/// The key of a mark: version and type, 16 bits each.
fn is_abort(batch: &[u8]) -> bool {
    let Ok(records) = decode_records(batch, MARKS_BYTES_MAX) else { return false };
    let first = records.iter().next().and_then(Result::ok);
    let kind = first
        .and_then(|record| record.key)
        .and_then(|key| key.get(2..4))
        .and_then(|kind| kind.first_chunk().copied());
    kind.is_some_and(|kind| i16::from_be_bytes(kind) == ABORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_batch::{BatchBuilder, Codec, NewRecord};

    const TRANSACTIONAL: u8 = 1 << 4;
    const CONTROL: u8 = 1 << 5;

    /// A batch of one record; the flags lie in the second byte of the attributes.
    fn batch(offset: i64, producer: i64, flags: u8, key: &[u8]) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None).base_offset(offset).producer(producer, 0, 0);
        builder.push(NewRecord { key: Some(key), ..NewRecord::default() });
        let mut bytes = builder.build().expect("a batch").to_vec();
        bytes[22] |= flags;
        bytes.into()
    }

    fn aborted(producer_id: i64, first_offset: i64) -> AbortedTransaction {
        AbortedTransaction { producer_id, first_offset }
    }

    fn offsets(batches: &[Bytes]) -> Vec<i64> {
        batches.iter().map(|batch| BatchHeader::parse(batch).expect("a header").base_offset).collect()
    }

    #[test]
    fn what_was_aborted_is_left_out_up_to_its_mark() {
        let (abort, commit) = ([0, 0, 0, 0], [0, 0, 0, 1]);
        let all = vec![
            batch(0, 1, TRANSACTIONAL, b"k"),
            batch(1, 2, TRANSACTIONAL, b"k"),
            batch(2, -1, 0, b"k"),
            batch(3, 1, TRANSACTIONAL | CONTROL, &abort),
            batch(4, 1, TRANSACTIONAL, b"k"),
            batch(5, 2, TRANSACTIONAL | CONTROL, &commit),
            batch(6, 1, TRANSACTIONAL | CONTROL, &commit),
        ];
        let left = without_aborted(all.clone(), &[aborted(1, 0)]);
        assert_eq!(offsets(&left), [1, 2, 3, 4, 5, 6]);
        assert_eq!(offsets(&without_aborted(all, &[])), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_transaction_that_begins_later_does_not_take_what_came_before() {
        let all = vec![batch(0, 1, TRANSACTIONAL, b"k"), batch(1, 1, TRANSACTIONAL, b"k")];
        assert_eq!(offsets(&without_aborted(all, &[aborted(1, 1)])), [0]);
    }
}
