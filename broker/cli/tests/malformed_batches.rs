//! Batches with a wrong header or malformed records: nothing unreadable is stored, and wrong timestamps in a
//! header are corrected.
#![allow(missing_docs)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, keyed, one_batch},
    eventually,
};
use crc_fast::{CrcAlgorithm, checksum};
use millstream_batch::{BatchBuilder, BatchHeader, Codec, NewRecord, check_crc, compress, decode_records};
use millstream_protocol::ErrorCode;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const DAY_MS: i64 = 24 * 3_600_000;

fn with_broker(work: impl FnOnce(&mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    work(&mut Client::connect(&broker));
}

#[allow(clippy::disallowed_methods)] // The broker compares timestamps with the real time.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &batch[ATTRIBUTES..]) as u32;
    batch[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
}

/// A batch of this raw payload, whose header declares `count` records and this codec.
fn crafted(payload: &[u8], count: i32, codec: Codec) -> Bytes {
    let now = now_ms().to_be_bytes();
    let attributes = CODECS.iter().position(|&one| one == codec).expect("a codec") as i16;
    let mut batch = vec![0; 8];
    batch.extend((payload.len() as i32 + 49).to_be_bytes());
    batch.extend([0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0]);
    batch.extend(attributes.to_be_bytes());
    batch.extend((count - 1).to_be_bytes());
    batch.extend([now, now].concat());
    batch.extend([0xff; 14]);
    batch.extend(count.to_be_bytes());
    batch.extend(payload);
    put(&mut batch, MAX_TIMESTAMP, &now);
    batch.into()
}

fn varint(value: i64) -> Vec<u8> {
    let (mut rest, mut out) = (((value << 1) ^ (value >> 63)) as u64, Vec::new());
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// A record with a key and a value of one byte each; what follows the value is `headers`.
fn record(offset_delta: i64, headers: &[u8]) -> Vec<u8> {
    let body = [&[0, 0][..], &varint(offset_delta), &[2, b'k', 2, b'v'], headers].concat();
    [varint(body.len() as i64), body].concat()
}

fn good(offsets: std::ops::Range<i64>) -> Vec<u8> {
    offsets.flat_map(|offset| record(offset, &[0])).collect()
}

/// Malformed payloads, and how many records the header declares.
fn malformed() -> Vec<(&'static str, Vec<u8>, i32)> {
    let gap: Vec<u8> = [0, 2, 4].into_iter().flat_map(|offset| record(offset, &[0])).collect();
    let same: Vec<u8> = [0, 0, 0].into_iter().flat_map(|offset| record(offset, &[0])).collect();
    vec![
        ("3 records declared, 2 inside", [good(0..2), vec![0; 20]].concat(), 3),
        ("2 declared, 3 inside", good(0..3), 2),
        ("bytes behind the records", [good(0..3), vec![1]].concat(), 3),
        ("header count -597", record(0, &varint(-597)), 1),
        ("a header count beyond the record", record(0, &varint(3)), 1),
        ("a header without a key", record(0, &[2, 1, 2, b'v']), 1),
        ("a record longer than the batch", [varint(5000), good(0..3)].concat(), 1),
        ("a negative record length", [varint(-5), good(0..3)].concat(), 1),
        ("a cut record", good(0..3)[..good(0..3).len() - 1].to_vec(), 3),
        ("offset deltas with gaps", gap, 3),
        ("offset deltas that do not rise", same, 3),
        ("zeros", vec![0; 40], 3),
    ]
}

#[test]
fn records_that_a_consumer_cannot_read_are_refused_in_every_codec() {
    with_broker(|client| {
        client.create_topic("t", &[]);
        client.create_topic("zstd", &[("compression.type", "zstd")]);
        for (what, payload, count) in malformed() {
            for codec in CODECS {
                for topic in ["t", "zstd"] {
                    let packed = compress(codec, None, &payload).expect("compressed");
                    let done = client.produce(topic, crafted(&packed, count, codec));
                    let error = ErrorCode(done.error_code);
                    assert_eq!(error, ErrorCode::INVALID_RECORD, "{what}, {codec:?} to {topic}");
                    assert!(done.error_message.is_some(), "{what}, {codec:?}");
                }
            }
        }
        for codec in &CODECS[1..] {
            let done = client.produce("t", crafted(b"this is not compressed at all", 3, *codec));
            assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_RECORD, "{codec:?} over plain text");
            let whole = compress(*codec, None, &good(0..300)).expect("compressed");
            for cut in [1, 4, 12] {
                let done = client.produce("t", crafted(&whole[..whole.len() - cut], 300, *codec));
                assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_RECORD, "{codec:?} cut by {cut}");
            }
        }
        let mut elsewhere = one_batch(b"value").to_vec();
        elsewhere[..8].copy_from_slice(&7_i64.to_be_bytes());
        let done = client.produce("t", elsewhere.into());
        assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_RECORD, "a base offset that is not 0");
        for (n, codec) in (0..).zip(CODECS) {
            let packed = compress(codec, None, &good(0..3)).expect("compressed");
            assert_eq!(client.append("t", crafted(&packed, 3, codec)), n * 3, "nothing else was stored");
            assert_eq!(client.append("zstd", crafted(&packed, 3, codec)), n * 3);
        }
    });
}

#[test]
fn every_record_for_which_a_batch_is_refused_is_named_with_its_reason() {
    with_broker(|client| {
        client.create_topic("compacted", &[("cleanup.policy", "compact")]);
        for codec in CODECS {
            let mut batch = BatchBuilder::new(codec);
            for n in 0..1000 {
                let key = (n % 10 != 3).then_some(&b"key"[..]);
                batch.push(NewRecord { timestamp_ms: 1, key, value: Some(b"value"), headers: &[] });
            }
            let done = client.produce("compacted", batch.build().expect("a batch"));
            assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_RECORD, "{codec:?}");
            let named: Vec<i32> = done.record_errors.iter().map(|record| record.batch_index).collect();
            assert_eq!(named, (0..100).map(|n| n * 10 + 3).collect::<Vec<_>>(), "{codec:?}");
            let reason = |record: &millstream_protocol::messages::produce::BatchIndexAndErrorMessage| {
                record.batch_index_error_message.as_deref().is_some_and(|text| text.contains("with a key"))
            };
            assert!(done.record_errors.iter().all(reason), "{codec:?}");
        }
        assert_eq!(client.append("compacted", keyed(Codec::None, &[("a", b"1")])), 0);

        client.create_topic("t", &[]);
        for codec in CODECS {
            let (now, ahead) = (now_ms(), now_ms() + 10 * DAY_MS);
            let mut batch = BatchBuilder::new(codec);
            for timestamp_ms in [now, ahead, now, ahead] {
                batch.push(NewRecord { timestamp_ms, value: Some(b"value"), ..NewRecord::default() });
            }
            let mut batch = batch.build().expect("a batch").to_vec();
            put(&mut batch, MAX_TIMESTAMP, &now.to_be_bytes());
            let done = client.produce("t", batch.into());
            assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_TIMESTAMP, "{codec:?}");
            let named: Vec<i32> = done.record_errors.iter().map(|record| record.batch_index).collect();
            assert_eq!(named, [1, 3], "{codec:?}");
        }
    });
}

#[test]
fn the_largest_timestamp_is_that_of_the_records_whatever_the_header_says() {
    with_broker(|client| {
        for (topic, configs) in [("t", &[][..]), ("gzip", &[("compression.type", "gzip")][..])] {
            client.create_topic(topic, configs);
            let mut offset = 0;
            for codec in CODECS {
                let begin = now_ms() - DAY_MS + offset * 1000;
                for wrong in [-1, 0, begin, begin + 1_000_000] {
                    let mut batch = BatchBuilder::new(codec);
                    (0..10).for_each(|n| {
                        batch.push(NewRecord {
                            timestamp_ms: begin + n,
                            value: Some(b"value"),
                            ..NewRecord::default()
                        });
                    });
                    let mut sent = batch.build().expect("a batch").to_vec();
                    put(&mut sent, MAX_TIMESTAMP, &wrong.to_be_bytes());
                    let context = format!("{wrong} in {codec:?} to {topic}");
                    assert_eq!(client.append(topic, sent.into()), offset, "{context}");
                    let (header, stored) = client.batches(topic, offset, 1 << 20).remove(0);
                    check_crc(&stored).expect("a good CRC");
                    assert_eq!(header.max_timestamp, begin + 9, "{context}");
                    assert_eq!(decode_records(&stored, 1 << 20).expect("decodes").iter().count(), 10);
                    offset += 10;
                }
                assert_eq!(client.find_offset(topic, begin + 5), (offset - 35, begin + 5), "{codec:?}");
                assert_eq!(client.find_offset(topic, -3), (offset - 31, begin + 9), "{codec:?}");
            }
        }
    });
}

#[test]
fn records_without_timestamps_are_taken_and_have_none() {
    with_broker(|client| {
        client.create_topic("t", &[]);
        for codec in CODECS {
            let mut batch = BatchBuilder::new(codec);
            (0..2).for_each(|_| batch.push(NewRecord { timestamp_ms: -1, ..NewRecord::default() }));
            let sent = batch.build().expect("a batch");
            client.append("t", sent);
        }
        assert_eq!(client.find_offset("t", 0), (-1, -1));
        let (header, _): (BatchHeader, Bytes) = client.batches("t", 0, 1 << 20).remove(0);
        assert_eq!((header.base_timestamp, header.max_timestamp), (-1, -1));
        let mut stamped = one_batch(b"value").to_vec();
        put(&mut stamped, ATTRIBUTES, &[0, 8]);
        let done = client.produce("t", stamped.into());
        assert_eq!(ErrorCode(done.error_code), ErrorCode::INVALID_TIMESTAMP, "only brokers set this type");
        let mut beyond = one_batch(b"value").to_vec();
        put(&mut beyond, BASE_TIMESTAMP, &i64::MAX.to_be_bytes());
        assert_ne!(client.produce("t", beyond.into()).error_code, 0);
    });
}

/// A batch with these timestamps whose header has another largest one.
fn understated(times: &[i64], header_ms: i64) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None);
    let record = |timestamp_ms| NewRecord { timestamp_ms, value: Some(b"value"), ..NewRecord::default() };
    times.iter().for_each(|&time| batch.push(record(time)));
    let mut batch = batch.build().expect("a batch").to_vec();
    put(&mut batch, MAX_TIMESTAMP, &header_ms.to_be_bytes());
    batch.into()
}

#[test]
fn retention_goes_by_the_records_and_by_the_time_of_the_append_where_they_have_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = now_ms();
    let broker = Broker::start_set(dir.path(), &["log.retention.check.interval.ms=50"]);
    let mut client = Client::connect(&broker);
    let kept = [("minus-one", now, -1), ("zero", now, 0), ("none", -1, -1)];
    for (topic, time, header_ms) in kept {
        client.create_topic(topic, &[]);
        client.append(topic, understated(&[time, time], header_ms));
    }
    let any = [("retention.ms", "1"), ("message.timestamp.after.max.ms", "9223372036854775807")];
    let gone = [("old", now - 8 * DAY_MS, now), ("short", -1, -1), ("ahead", now + 400 * DAY_MS, now)];
    for (n, (topic, time, header_ms)) in gone.into_iter().enumerate() {
        client.create_topic(topic, &any[usize::from(n == 0) * 2..]);
        client.append(topic, understated(&[time, time], header_ms));
    }
    let check = |client: &mut Client, end: i64| {
        for (topic, ..) in gone {
            eventually(&format!("{topic} is gone up to {end}"), || client.find_offset(topic, -2).0 == end);
        }
        for (topic, ..) in kept {
            assert_eq!(client.find_offset(topic, -2).0, 0, "{topic}, up to {end}");
        }
    };
    check(&mut client, 2);
    for (topic, time, header_ms) in gone {
        client.append(topic, understated(&[time, time, time], header_ms));
    }
    broker.stop();
    let broker = Broker::start_set(dir.path(), &["log.retention.check.interval.ms=50"]);
    check(&mut Client::connect(&broker), 5);
}
