//! Invalid batches: each is refused with Kafka's error, and the partition is unchanged.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, one_batch},
};
use millstream_batch::HEADER_BYTES;
use millstream_protocol::ErrorCode;

const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const RECORD_COUNT: usize = 57;

/// A valid batch with some bytes changed, and a correct CRC.
fn changed(at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = one_batch(b"value").to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[ATTRIBUTES..]) as u32;
    batch[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

#[test]
fn what_may_not_be_stored_is_refused_and_not_stored() {
    let good = one_batch(b"value");
    let mut two = good.to_vec();
    two.extend_from_slice(&good);
    let mut flipped = good.to_vec();
    flipped[HEADER_BYTES + 3] ^= 1;
    let cases: [(&str, Bytes, ErrorCode); 12] = [
        ("magic 0", changed(MAGIC, &[0]), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 1", changed(MAGIC, &[1]), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("a magic of the future", changed(MAGIC, &[3]), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("a changed bit", flipped.into(), ErrorCode::CORRUPT_MESSAGE),
        ("a cut batch", good.slice(..good.len() - 1), ErrorCode::CORRUPT_MESSAGE),
        ("a cut header", good.slice(..HEADER_BYTES - 1), ErrorCode::CORRUPT_MESSAGE),
        ("two batches", two.into(), ErrorCode::INVALID_RECORD),
        ("a control batch", changed(ATTRIBUTES, &[0, 0x20]), ErrorCode::INVALID_RECORD),
        ("a codec that there is not", changed(ATTRIBUTES, &[0, 7]), ErrorCode::INVALID_RECORD),
        ("a wrong count", changed(RECORD_COUNT, &2_i32.to_be_bytes()), ErrorCode::INVALID_RECORD),
        ("no records", changed(RECORD_COUNT, &0_i32.to_be_bytes()), ErrorCode::INVALID_RECORD),
        ("a wrong last offset", changed(LAST_OFFSET_DELTA, &9_i32.to_be_bytes()), ErrorCode::INVALID_RECORD),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    client.create_topic("t", &[]);
    assert_eq!(client.append("t", good.clone()), 0);
    for (what, batch, wanted) in cases {
        assert_eq!(ErrorCode(client.produce("t", batch).error_code), wanted, "{what}");
        assert_eq!(client.batches("t", 0, 1 << 20).len(), 1, "{what} is not stored");
    }
    assert_eq!(client.append("t", good), 1, "no offset was given away");
}
