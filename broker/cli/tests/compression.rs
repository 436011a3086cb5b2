//! compression.type: a topic with a codec has all its batches in that codec, and nothing else about them
//! changes.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::{
    Broker,
    client::{Client, batch_of, keyed},
};
use millstream_batch::{
    BatchBuilder, BatchHeader, Codec, HEADER_BYTES, NewRecord, check_crc, compress, decode_records,
    stamp_producer,
};
use millstream_protocol::ErrorCode;

/// compression.type and the resulting codec; `producer` keeps the producer's.
const TYPES: [(&str, Option<Codec>); 6] = [
    ("uncompressed", Some(Codec::None)),
    ("gzip", Some(Codec::Gzip)),
    ("snappy", Some(Codec::Snappy)),
    ("lz4", Some(Codec::Lz4)),
    ("zstd", Some(Codec::Zstd)),
    ("producer", None),
];
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const MIB: i32 = 1 << 20;

fn with_broker(work: impl FnOnce(&mut Client)) {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    work(&mut Client::connect(&broker));
}

/// A record's time, offset delta, key, value and headers.
type Seen = (i64, i32, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn records_of(batch: &[u8]) -> Vec<Seen> {
    let decoded = decode_records(batch, 64 << 20).expect("decodes");
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let seen = decoded.iter().map(|record| {
        let record = record.expect("a record");
        let headers = record.headers().map(|(key, value)| (key.to_vec(), owned(value))).collect();
        (record.timestamp_delta, record.offset_delta, owned(record.key), owned(record.value), headers)
    });
    seen.collect()
}

/// Records of every kind, as the `nth` batch of a producer sends them.
fn rich_batch(codec: Codec, nth: i32) -> Bytes {
    let mut batch = BatchBuilder::new(codec).producer(9_000, 3, nth * 4);
    let long = vec![b'x'; 3_000];
    let headers: [(&[u8], Option<&[u8]>); 3] = [(b"h", Some(b"1")), (b"h", None), (b"", Some(b""))];
    let mut push = |timestamp_ms: i64, key, value, headers| {
        batch.push(NewRecord { timestamp_ms: 1_700_000_000_000 + timestamp_ms, key, value, headers });
    };
    push(500, Some(b"key"), Some(&long), &headers[..0]);
    push(0, Some(b"dead"), None, &headers[..1]);
    push(900, Some(b""), Some(b""), &headers[..2]);
    push(100, Some(b"last"), Some(b"value"), &headers);
    batch.build().expect("a batch")
}

#[test]
fn a_batch_of_any_codec_is_brought_to_the_topics_and_is_else_what_it_was() {
    with_broker(|client| {
        for (name, wanted) in TYPES {
            client.create_topic(name, &[("compression.type", name)]);
            for (n, codec) in (0..).zip(CODECS) {
                let sent = rich_batch(codec, n);
                assert_eq!(client.append(name, sent.clone()), i64::from(n) * 4, "{codec:?} to {name}");
                let stored = client.batches(name, i64::from(n) * 4, MIB);
                let (header, batch) = &stored[0];
                check_crc(batch).expect("a good CRC");
                assert_eq!(header.attributes.codec(), Ok(wanted.unwrap_or(codec)), "{codec:?} to {name}");
                assert_eq!(records_of(batch), records_of(&sent), "{codec:?} to {name}");
                let before = BatchHeader::parse(&sent).expect("a header");
                // What the leader stamps, and what another codec must change.
                let expected = BatchHeader {
                    base_offset: header.base_offset,
                    leader_epoch: header.leader_epoch,
                    batch_length: header.batch_length,
                    crc: header.crc,
                    attributes: header.attributes,
                    ..before
                };
                assert_eq!(*header, expected, "{codec:?} to {name}");
                assert_eq!(header.attributes.0 & !7, before.attributes.0 & !7, "flags: {codec:?} to {name}");
                if wanted.is_none_or(|wanted| wanted == codec) {
                    assert_eq!(
                        batch[21..],
                        sent[21..],
                        "what fits already is not touched: {codec:?} to {name}"
                    );
                }
            }
        }
    });
}

#[test]
fn a_duplicate_is_found_although_it_is_compressed_anew() {
    with_broker(|client| {
        client.create_topic("t", &[("compression.type", "zstd")]);
        assert_eq!(client.append("t", rich_batch(Codec::Gzip, 0)), 0);
        assert_eq!(client.append("t", rich_batch(Codec::Gzip, 1)), 4);
        assert_eq!(client.append("t", rich_batch(Codec::Gzip, 0)), 0, "where its first copy is");
        let gap = client.produce("t", rich_batch(Codec::Gzip, 3));
        assert_eq!(ErrorCode(gap.error_code), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    });
}

#[test]
fn the_brokers_time_is_stamped_on_what_is_compressed_anew() {
    with_broker(|client| {
        let configs = [("compression.type", "lz4"), ("message.timestamp.type", "LogAppendTime")];
        client.create_topic("t", &configs);
        let done = client.produce("t", rich_batch(Codec::Zstd, 0));
        assert!(done.log_append_time_ms > 1_700_000_000_900, "{done:?}");
        let (header, batch) = client.batches("t", 0, MIB).remove(0);
        check_crc(&batch).expect("a good CRC");
        assert_eq!(header.max_timestamp, done.log_append_time_ms);
        assert_eq!(header.attributes.codec(), Ok(Codec::Lz4));
    });
}

/// Values that compress somewhat, all different.
fn values(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let value = |n: usize| format!("{n:>8} ").repeat(bytes / 9).into_bytes();
    (0..count).map(value).collect()
}

#[test]
fn large_and_small_batches_of_one_connection_keep_their_order() {
    with_broker(|client| {
        client.create_topic("t", &[("compression.type", "gzip")]);
        client.create_topic("plain", &[]);
        let large = values(100, 9_000);
        let batch = |sequence: i32| {
            let mut batch = BatchBuilder::new(Codec::None).producer(77, 0, sequence);
            let record = |value| NewRecord { timestamp_ms: 1_000, value: Some(value), ..Default::default() };
            if sequence % 101 == 0 {
                large.iter().for_each(|value| batch.push(record(value)));
            } else {
                batch.push(record(b"small"));
            }
            batch.build().expect("a batch")
        };
        // Large, small, large, small: all are in flight before the first reply is read.
        let sequences = [0, 100, 101, 201, 202, 302];
        for sequence in sequences {
            client.send_batch("t", batch(sequence));
            client.send_batch("plain", batch(sequence));
        }
        for sequence in sequences {
            for topic in ["t", "plain"] {
                let done = client.receive_produced();
                assert_eq!(ErrorCode(done.error_code), ErrorCode::NONE, "{topic} {sequence}");
                assert_eq!(done.base_offset, i64::from(sequence), "{topic}");
            }
        }
        let stored: Vec<_> = client.batches("t", 0, 8 * MIB).iter().map(|(h, _)| h.base_sequence).collect();
        assert_eq!(stored, sequences);
    });
}

/// A batch of one record that is compressed, or claims to be.
fn forged(codec: Codec, compressed: &[u8]) -> Bytes {
    let mut batch = batch_of(Codec::None, &[b"x"])[..HEADER_BYTES].to_vec();
    batch.extend_from_slice(compressed);
    let length = (batch.len() - 12) as u32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] = codec as u8;
    stamp_producer(&mut batch, -1, -1, -1);
    batch.into()
}

/// One record of this many zeros, compressed.
fn bomb(codec: Codec, value_bytes: usize) -> Bytes {
    let value = vec![0; value_bytes];
    keyed(codec, &[("k", &value)])
}

#[test]
fn a_batch_that_expands_beyond_the_bound_is_refused_and_the_broker_stays_small() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), &["memory.bytes=268435456"]);
    let mut client = Client::connect(&broker);
    client.create_topic("recompressed", &[("compression.type", "lz4"), ("max.message.bytes", "1048588")]);
    client.create_topic("compacted", &[("cleanup.policy", "compact")]);
    client.create_topic("plain", &[]);
    // The broker decompresses at most 128 MiB of a batch, and holds at most 16 MiB. Snappy does not expand as much from
    // so few bytes.
    for codec in [Codec::Gzip, Codec::Zstd] {
        let bomb = bomb(codec, 300 << 20);
        assert!(bomb.len() < MIB as usize, "{codec:?}: {}", bomb.len());
        for topic in ["recompressed", "compacted", "plain"] {
            let refused = client.produce(topic, bomb.clone());
            assert_eq!(ErrorCode(refused.error_code), ErrorCode::INVALID_RECORD, "{topic} {codec:?}");
            assert!(
                refused.error_message.is_some_and(|text| text.contains("bytes of records")),
                "{topic} {codec:?}"
            );
        }
    }
    assert_eq!(client.append("recompressed", batch_of(Codec::None, &[b"as before"])), 0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak_kib < 256 << 10, "{peak_kib} KiB");
}

/// Records of 6 MiB whose batch has less than 1 MiB in every codec but none: some of each value is random.
fn large_batch(codec: Codec) -> Bytes {
    let (mut batch, mut state) = (BatchBuilder::new(codec), 1_u64);
    for n in 0..60 {
        let mut value = vec![b'z'; 100 << 10];
        value[..12_000].iter_mut().for_each(|byte| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        });
        let timestamp_ms = 1_700_000_000_000 + n;
        batch.push(NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
    }
    batch.build().expect("a batch")
}

#[test]
fn a_batch_that_expands_beyond_a_share_of_memory_is_read_piece_by_piece_unless_it_is_recompressed() {
    let dir = tempfile::tempdir().expect("a directory");
    // A sixteenth of it is 4 MiB.
    let broker = Broker::start_set(dir.path(), &["memory.bytes=67108864"]);
    let mut client = Client::connect(&broker);
    client.create_topic("plain", &[]);
    client.create_topic("gzip", &[("compression.type", "gzip")]);
    for (n, codec) in (0..).zip(&CODECS[1..]) {
        let sent = large_batch(*codec);
        assert!(sent.len() < MIB as usize, "{codec:?}: {}", sent.len());
        assert_eq!(client.append("plain", sent.clone()), n * 60, "{codec:?}");
        let (_, stored) = client.batches("plain", n * 60, MIB).remove(0);
        assert_eq!(records_of(&stored), records_of(&sent), "{codec:?}");
        let time = 1_700_000_000_000 + 45;
        assert_eq!(client.find_offset("plain", time), (45, time), "{codec:?}");
        let done = client.produce("gzip", sent);
        let error = if *codec == Codec::Gzip { ErrorCode(0) } else { ErrorCode::INVALID_RECORD };
        assert_eq!(ErrorCode(done.error_code), error, "{codec:?}");
        assert!(done.error_message.is_none_or(|text| text.contains("4194304 bytes of records")), "{codec:?}");
    }
}

#[test]
fn what_is_larger_than_the_topic_allows_after_recompression_is_refused() {
    with_broker(|client| {
        client.create_topic("t", &[("compression.type", "uncompressed"), ("max.message.bytes", "100000")]);
        let refused = client.produce("t", bomb(Codec::Zstd, 200_000));
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::MESSAGE_TOO_LARGE);
        assert_eq!(client.append("t", bomb(Codec::Zstd, 90_000)), 0);
    });
}

#[test]
fn records_that_cannot_be_read_are_refused() {
    with_broker(|client| {
        client.create_topic("t", &[("compression.type", "zstd")]);
        let no_records = compress(Codec::Gzip, None, b"these are no records").expect("compressed");
        let sent = [
            forged(Codec::Gzip, &no_records),
            forged(Codec::Gzip, b"this is not gzip"),
            forged(Codec::Lz4, b"nor is it LZ4"),
        ];
        for batch in sent {
            let refused = client.produce("t", batch);
            // Not as corrupt: clients would retry that forever.
            assert_eq!((ErrorCode(refused.error_code), refused.base_offset), (ErrorCode::INVALID_RECORD, -1));
            assert!(refused.error_message.is_some_and(|text| !text.is_empty()));
        }
        assert_eq!(client.append("t", batch_of(Codec::Snappy, &[b"good"])), 0);
    });
}

#[test]
fn the_brokers_compression_type_holds_for_topics_that_have_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start_set(dir.path(), &["compression.type=snappy"]);
    let mut client = Client::connect(&broker);
    client.create_topic("inherits", &[]);
    client.create_topic("says", &[("compression.type", "producer")]);
    for (topic, codec) in [("inherits", Codec::Snappy), ("says", Codec::Gzip)] {
        client.append(topic, batch_of(Codec::Gzip, &[b"a", b"b"]));
        let (header, _) = client.batches(topic, 0, MIB).remove(0);
        assert_eq!(header.attributes.codec(), Ok(codec), "{topic}");
    }
}
