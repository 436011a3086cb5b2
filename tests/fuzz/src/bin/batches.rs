//! Record batches as the broker accepts them. The first byte says whether to correct the checksums.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_batch::{
    BatchError, BatchHeader, HEADER_BYTES, Payload, Record, StreamLimits, check_crc, check_portable,
    decode_records, rebuild, split, stamp, stamp_log_append_time, stamp_producer, summarize_records,
    validate_records,
};
use millstream_fuzz::{image, memory::bounded};

const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Decoding may hold its output twice, while it grows; a rebuilt batch is as large again, and its codec has
/// buffers.
const MEMORY_BYTES_MAX: usize = 8 * PAYLOAD_BYTES_MAX + (2 << 20);

/// Offset, timestamp, key and value of each record; an error if any is bad.
type Rows = Vec<(i32, i64, Option<Vec<u8>>, Option<Vec<u8>>)>;

fn rows(batch: &[u8], header: &BatchHeader) -> Result<Rows, BatchError> {
    let decoded = decode_records(batch, PAYLOAD_BYTES_MAX)?;
    assert!(decoded.payload_bytes() <= PAYLOAD_BYTES_MAX.max(batch.len()), "more came out than is allowed");
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let row = |record: Record<'_>| {
        record.headers().for_each(drop);
        let time = header.base_timestamp.wrapping_add(record.timestamp_delta);
        (record.offset_delta, time, owned(record.key), owned(record.value))
    };
    decoded.iter().map(|record| record.map(row)).collect()
}

/// Records that are decompressed piece by piece are the same as those that are decompressed completely.
fn read_in_pieces(batch: &[u8], header: &BatchHeader) {
    let Ok(codec) = header.attributes.codec() else { return };
    let payload = &batch[HEADER_BYTES..];
    let limits = StreamLimits { memory_bytes_max: PAYLOAD_BYTES_MAX, payload_bytes_max: PAYLOAD_BYTES_MAX };
    let pieces = bounded(MEMORY_BYTES_MAX, || Payload::new(codec, payload, limits).summarize(header));
    let whole = check_portable(codec, payload)
        .and_then(|()| decode_records(batch, PAYLOAD_BYTES_MAX))
        .and_then(|decoded| summarize_records(decoded.payload(), header));
    assert_eq!(pieces.ok(), whole.ok(), "{codec:?}");
}

/// Processing keeps an accepted batch valid.
fn use_batch(batch: &[u8], header: &BatchHeader) {
    read_in_pieces(batch, header);
    let mut stamped = batch.to_vec();
    stamp(&mut stamped, 5000, 9);
    assert_eq!(check_crc(&stamped), Ok(()), "an offset lies outside of the checksum");
    stamp_log_append_time(&mut stamped, 123_456);
    assert_eq!(check_crc(&stamped), Ok(()), "stamping makes a new checksum");
    stamp_producer(&mut stamped, 9, 2, 77);
    assert_eq!(check_crc(&stamped), Ok(()), "stamping makes a new checksum");
    if validate_records(batch, PAYLOAD_BYTES_MAX).is_err() {
        return;
    }
    let before = bounded(MEMORY_BYTES_MAX, || rows(batch, header).expect("valid"));
    let decoded = decode_records(batch, PAYLOAD_BYTES_MAX).expect("valid");
    let kept = decoded.iter().map(|record| record.expect("valid"));
    let Ok(rebuilt) = bounded(MEMORY_BYTES_MAX, || rebuild(header, kept)) else { return };
    assert_eq!(check_crc(&rebuilt), Ok(()), "what is rebuilt is a good batch");
    let after = BatchHeader::parse(&rebuilt).expect("what is rebuilt has a header");
    assert_eq!(rows(&rebuilt, &after), Ok(before), "what is rebuilt has the same records");
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, records)) = data.split_first() else { return };
    let mut records = records.to_vec();
    if mode & 1 == 1 {
        image::fix_batches(&mut records);
    }
    let records = Bytes::from(records);
    let mut bytes = 0;
    for batch in split(&records).map_while(Result::ok) {
        bytes += batch.len();
        let Ok(header) = BatchHeader::parse(&batch) else { continue };
        if check_crc(&batch).is_ok() {
            use_batch(&batch, &header);
        }
    }
    assert!(bytes <= records.len(), "more batches than bytes");
});
