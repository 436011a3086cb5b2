//! Batches from the outside: what is built reads back, and no bytes make the readers panic or grow.
#![allow(missing_docs)]

use bytes::Bytes;
use millstream_batch::*;
use proptest::prelude::*;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn batch(codec: Codec, values: &[Vec<u8>]) -> Bytes {
    let mut builder = BatchBuilder::new(codec).producer(7, 1, 40).base_offset(100);
    for (n, value) in values.iter().enumerate() {
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(value)), (b"h", None)];
        let key = n.to_string();
        builder.push(NewRecord {
            timestamp_ms: 1000 + n as i64,
            key: (n % 2 == 0).then_some(key.as_bytes()),
            value: (n % 3 != 2).then_some(value),
            headers: &headers,
        });
    }
    builder.build().expect("a batch")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_built_reads_back(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..40)) {
        for codec in CODECS {
            let batch = batch(codec, &values);
            check_crc(&batch).expect("a good CRC");
            validate_records(&batch, 1 << 20).expect("good records");
            let header = BatchHeader::parse(&batch).expect("a header");
            prop_assert_eq!(header.total_bytes(), batch.len());
            prop_assert_eq!(header.last_offset(), 100 + values.len() as i64 - 1);
            let decoded = decode_records(&batch, 1 << 20).expect("decodes");
            for (n, record) in decoded.iter().enumerate() {
                let record = record.expect("a record");
                prop_assert_eq!(record.offset_delta as usize, n);
                prop_assert_eq!(record.value, (n % 3 != 2).then_some(&values[n][..]));
                let headers: Vec<_> = record.headers().collect();
                prop_assert_eq!(headers, vec![(&b"h"[..], Some(&values[n][..])), (&b"h"[..], None)]);
            }
        }
    }

    #[test]
    fn another_codec_changes_nothing_but_itself(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20)) {
        for (from, to) in CODECS.iter().flat_map(|from| CODECS.iter().map(move |to| (*from, *to))) {
            let before = batch(from, &values);
            let header = BatchHeader::parse(&before).expect("a header");
            let records = decode_records(&before, 1 << 20).expect("decodes");
            let after = recompress(&header, &records, to, None).expect("compressed");
            check_crc(&after).expect("a good CRC");
            let changed = BatchHeader::parse(&after).expect("a header");
            prop_assert_eq!(changed.attributes.codec(), Ok(to));
            let (batch_length, crc, attributes) = (changed.batch_length, changed.crc, changed.attributes);
            prop_assert_eq!(changed, BatchHeader { batch_length, crc, attributes, ..header });
            let encoded = |batch: &[u8]| {
                let records = decode_records(batch, 1 << 20).expect("decodes");
                records.iter().map(|record| record.expect("a record").encoded.to_vec()).collect::<Vec<_>>()
            };
            prop_assert_eq!(encoded(&after), encoded(&before));
        }
    }

    #[test]
    fn mutated_batches_are_refused_or_read_but_never_more(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        for codec in CODECS {
            let mut bytes = batch(codec, &vec![vec![9; 100]; 20]).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // Offset, length, epoch and magic are outside of the CRC.
            if check_crc(&bytes).is_ok() {
                prop_assert!(at < 17, "the flip at {at} is not seen");
            }
            if let Ok(decoded) = decode_records(&bytes, 10_000) {
                prop_assert!(decoded.payload_bytes() <= 10_000);
                decoded.iter().for_each(drop);
            }
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for codec in CODECS {
            if let Ok(out) = decompress(codec, &bytes, 1000) {
                prop_assert!(out.len() <= 1000);
            }
        }
        split(&Bytes::from(bytes.clone())).for_each(drop);
        RecordIter::new(&bytes, 1000).for_each(drop);
    }
}

#[test]
fn a_bomb_is_stopped_at_the_bound() {
    let zeros = vec![0; 32 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = compress(codec, None, &zeros).expect("compresses");
        assert_eq!(
            decompress(codec, &bomb, 1 << 20),
            Err(BatchError::TooLarge { bytes_max: 1 << 20 }),
            "{codec:?}"
        );
        assert_eq!(decompress(codec, &bomb, zeros.len()).map(|out| out.len()), Ok(zeros.len()));
    }
}

#[test]
fn stamps_keep_the_crc_true() {
    let mut bytes = batch(Codec::None, &[vec![1], vec![2]]).to_vec();
    stamp(&mut bytes, 5000, 9);
    check_crc(&bytes).expect("outside of the CRC");
    stamp_log_append_time(&mut bytes, 123_456);
    check_crc(&bytes).expect("computed again");
    let header = BatchHeader::parse(&bytes).expect("a header");
    assert_eq!((header.base_offset, header.leader_epoch, header.max_timestamp), (5000, 9, 123_456));
    assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppend);
}

#[test]
fn a_batch_is_given_to_another_producer() {
    let mut bytes = batch(Codec::Zstd, &[vec![1], vec![2]]).to_vec();
    stamp_producer(&mut bytes, 9, 2, 77);
    check_crc(&bytes).expect("computed again");
    let header = BatchHeader::parse(&bytes).expect("a header");
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 2, 77));
    assert_eq!(validate_records(&bytes, 1 << 20), Ok(()));
}

#[test]
fn sequences_go_from_the_largest_to_zero() {
    let bytes = batch(Codec::None, &[vec![1], vec![2], vec![3]]);
    let mut header = BatchHeader::parse(&bytes).expect("a header");
    header.base_sequence = i32::MAX - 1;
    assert_eq!(header.last_sequence(), 0);
}

#[test]
fn a_rebuilt_batch_keeps_offsets_and_drops_records() {
    for codec in CODECS {
        let whole = batch(codec, &vec![vec![5; 50]; 10]);
        let header = BatchHeader::parse(&whole).expect("a header");
        let decoded = decode_records(&whole, 1 << 20).expect("decodes");
        let kept = decoded.iter().map(|r| r.expect("a record")).filter(|r| r.offset_delta % 3 == 0);
        let less = rebuild(&header, kept).expect("rebuilds");
        check_crc(&less).expect("a good CRC");
        let after = BatchHeader::parse(&less).expect("a header");
        assert_eq!((after.base_offset, after.last_offset(), after.record_count), (100, 109, 4));
        let decoded = decode_records(&less, 1 << 20).expect("decodes");
        let deltas: Vec<_> = decoded.iter().map(|r| r.expect("a record").offset_delta).collect();
        assert_eq!(deltas, [0, 3, 6, 9]);
    }
}

/// Offset delta, timestamp, key, value and number of headers of each record.
type Row = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

fn rows(batch: &[u8]) -> Vec<Row> {
    let base = BatchHeader::parse(batch).expect("a header").base_timestamp;
    let decoded = decode_records(batch, 1 << 20).expect("decodes");
    let row = |r: Record<'_>| {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        (r.offset_delta, base + r.timestamp_delta, owned(r.key), owned(r.value), r.headers().count())
    };
    decoded.iter().map(|r| row(r.expect("a record"))).collect()
}

#[test]
fn a_delete_horizon_takes_the_base_timestamps_place_and_the_records_stay_as_they_are() {
    for codec in CODECS {
        let whole = batch(codec, &vec![vec![5; 50]; 10]);
        let header = BatchHeader::parse(&whole).expect("a header");
        let records = |batch: &Bytes, horizon| {
            let header = BatchHeader::parse(batch).expect("a header");
            let decoded = decode_records(batch, 1 << 20).expect("decodes");
            let kept: Vec<_> = decoded.iter().map(|r| r.expect("a record")).collect();
            rebuild_with_horizon(&header, kept, horizon).expect("rebuilds")
        };
        for horizon in [0, 1_700_000_000_000, i64::MAX] {
            let with = records(&whole, Some(horizon));
            check_crc(&with).expect("a good CRC");
            let after = BatchHeader::parse(&with).expect("a header");
            assert!(after.attributes.has_delete_horizon());
            assert_eq!((after.base_timestamp, after.max_timestamp), (horizon, header.max_timestamp));
            assert_eq!(after.attributes.codec(), Ok(codec));
            if horizon < i64::MAX {
                assert_eq!(rows(&with), rows(&whole), "{codec:?} {horizon}");
            }
            let without = records(&with, None);
            assert!(!BatchHeader::parse(&without).expect("a header").attributes.has_delete_horizon());
        }
    }
}

#[test]
fn an_empty_batch_covers_its_offsets_and_is_a_whole_batch() {
    for (base, next, covered) in
        [(0, 1, 1), (7, 107, 107), (1 << 40, (1 << 40) + 5, (1 << 40) + 5), (3, i64::MAX, 3 + (1i64 << 31))]
    {
        let batch = empty_batch(base, next, 4);
        check_crc(&batch).expect("a good CRC");
        let header = BatchHeader::parse(&batch).expect("a header");
        assert_eq!((header.base_offset, header.next_offset(), header.leader_epoch), (base, covered, 4));
        assert_eq!((header.record_count, header.total_bytes(), header.producer_id), (0, batch.len(), -1));
        assert_eq!(decode_records(&batch, 1 << 20).expect("decodes").iter().count(), 0);
        assert_eq!(split(&batch).count(), 1);
    }
}

#[test]
fn a_rebuilt_batch_has_the_largest_timestamp_of_what_is_left() {
    let whole = batch(Codec::Zstd, &vec![vec![5; 50]; 10]);
    let rebuilt = |batch: &[u8], keep: fn(&Record<'_>) -> bool| {
        let decoded = decode_records(batch, 1 << 20).expect("decodes");
        let kept: Vec<_> = decoded.iter().map(|r| r.expect("a record")).filter(keep).collect();
        rebuild(&BatchHeader::parse(batch).expect("a header"), kept).expect("rebuilds")
    };
    let less = rebuilt(&whole, |r| r.offset_delta < 4);
    assert_eq!(BatchHeader::parse(&less).expect("a header").max_timestamp, 1003);
    let none = rebuilt(&whole, |_| false);
    let after = BatchHeader::parse(&none).expect("a header");
    assert_eq!((none.len(), after.record_count, after.max_timestamp), (HEADER_BYTES, 0, 1009));
    assert_eq!((after.base_offset, after.last_offset(), after.producer_id), (100, 109, 7));
    check_crc(&none).expect("a good CRC");
    let mut stamped = whole.to_vec();
    stamp_log_append_time(&mut stamped, 5000);
    let less = rebuilt(&stamped, |r| r.offset_delta < 4);
    assert_eq!(BatchHeader::parse(&less).expect("a header").max_timestamp, 5000);
}

/// An LZ4 frame: flags, then blocks as they are, then what ends it.
fn lz4_frame(flags: u8, end: &[u8]) -> Vec<u8> {
    let whole = compress(Codec::Lz4, None, b"some records").expect("compresses");
    let mut frame = whole.clone();
    frame[4] = flags;
    frame.truncate(whole.len() - 4);
    frame.extend(end);
    frame
}

#[test]
fn an_lz4_frame_that_some_client_cannot_read_is_not_portable() {
    let whole = compress(Codec::Lz4, None, &vec![7; 300_000]).expect("compresses");
    assert_eq!(check_portable(Codec::Lz4, &whole), Ok(()));
    for end in 0..whole.len() {
        assert!(check_portable(Codec::Lz4, &whole[..end]).is_err(), "cut at {end} of {}", whole.len());
    }
    assert!(check_portable(Codec::Lz4, &[&whole[..], &[0]].concat()).is_err(), "bytes behind the frame");
    assert_eq!(check_portable(Codec::Lz4, &lz4_frame(0x60, &[0; 4])), Ok(()));
    assert_eq!(check_portable(Codec::Lz4, &lz4_frame(0x64, &[0; 8])), Ok(()), "a checksum behind it");
    assert!(check_portable(Codec::Lz4, &lz4_frame(0x40, &[0; 4])).is_err(), "linked blocks");
    assert!(check_portable(Codec::Lz4, &lz4_frame(0x61, &[0; 4])).is_err(), "a dictionary");
    for end in [&[0, 0, 0, 0x80][..], &[0, 0, 0, 0x80, 0, 0, 0, 0]] {
        assert!(check_portable(Codec::Lz4, &lz4_frame(0x60, end)).is_err(), "an empty block: {end:?}");
    }
    // What decompressing alone takes for the end.
    let without_end = &whole[..whole.len() - 4];
    assert_eq!(decompress(Codec::Lz4, without_end, 1 << 20).map(|out| out.len()), Ok(300_000));
}
