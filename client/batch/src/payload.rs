//! The payload of a batch as it was sent, read without holding all of it.

use crate::{
    BatchError, BatchHeader, Codec, RecordHead, RecordSummary, StreamLimits, decompressor::Decompressor,
    heads::HeadReader, summary::summarize,
};

/// The records of a batch, compressed or not.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    codec: Codec,
    bytes: &'a [u8],
    limits: StreamLimits,
}

impl<'a> Payload<'a> {
    /// Records that are not compressed.
    pub fn uncompressed(bytes: &'a [u8]) -> Payload<'a> {
        let limits = StreamLimits { memory_bytes_max: usize::MAX, payload_bytes_max: usize::MAX };
        Payload { codec: Codec::None, bytes, limits }
    }

    /// Records of any codec.
    pub fn new(codec: Codec, bytes: &'a [u8], limits: StreamLimits) -> Payload<'a> {
        Payload { codec, bytes, limits }
    }

    /// Checks every record and summarizes them, like [`summarize_records`](crate::summarize_records) of
    /// the decompressed payload. LZ4 must be [portable](crate::check_portable).
    pub fn summarize(self, header: &BatchHeader) -> Result<RecordSummary, BatchError> {
        match self.codec {
            Codec::None => summarize(self.bytes, header),
            _ => summarize(self.decompressor(), header),
        }
    }

    /// The records, of which the header declares `declared`. Continues after a malformed record if its length is valid.
    pub fn heads(self, declared: i32) -> impl Iterator<Item = Result<RecordHead, BatchError>> + use<'a> {
        HeadReader::new(self.decompressor(), declared)
    }

    fn decompressor(self) -> Decompressor<'a> {
        Decompressor::new(self.codec, self.bytes, self.limits)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::{
        BatchBuilder, HEADER_BYTES, NewRecord, OFFSET_DELTA, RecordIter, check_portable, compress,
        decompress, decompressor::Chunks,
    };

    const PLENTY: StreamLimits = StreamLimits { memory_bytes_max: 8 << 20, payload_bytes_max: 64 << 20 };

    /// Hands out pieces of a few bytes.
    struct Dribble<C>(C, usize);

    impl<C: Chunks> Chunks for Dribble<C> {
        fn chunk(&mut self) -> Result<&[u8], BatchError> {
            let bytes_max = self.1;
            self.0.chunk().map(|chunk| &chunk[..chunk.len().min(bytes_max)])
        }

        fn consume(&mut self, n: usize) {
            self.0.consume(n);
        }
    }

    fn raw_snappy(input: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(input).expect("compresses")
    }

    fn lz4(input: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(input).expect("compresses");
        encoder.finish().expect("compresses")
    }

    /// Two frames or members, one behind the other.
    fn twice(input: &[u8], one: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let (first, second) = input.split_at(input.len() / 2);
        [one(first), one(second)].concat()
    }

    /// The payload as every client may compress it.
    fn compressed(payload: &[u8]) -> Vec<(Codec, Vec<u8>)> {
        let plain = |codec| (codec, compress(codec, None, payload).expect("compresses"));
        let streamed = |input: &[u8]| zstd::stream::encode_all(input, 1).expect("compresses");
        let gzip = |input: &[u8]| compress(Codec::Gzip, None, input).expect("compresses");
        let checked = FrameInfo::new().block_checksums(true).content_checksum(true);
        let sized = FrameInfo::new().content_size(Some(payload.len() as u64));
        vec![
            plain(Codec::None),
            plain(Codec::Gzip),
            plain(Codec::Snappy),
            plain(Codec::Lz4),
            plain(Codec::Zstd),
            (Codec::Gzip, twice(payload, gzip)),
            (Codec::Snappy, raw_snappy(payload)),
            (Codec::Lz4, lz4(payload, checked.block_size(BlockSize::Max64KB))),
            (Codec::Lz4, lz4(payload, sized.block_size(BlockSize::Max4MB))),
            (Codec::Zstd, streamed(payload)),
            (Codec::Zstd, twice(payload, streamed)),
        ]
    }

    /// What the whole payload's records have in common, by the code that decodes them.
    fn by_records(payload: &[u8], header: &BatchHeader) -> Result<RecordSummary, BatchError> {
        let (mut times, mut keyless) = (Vec::new(), 0);
        for (index, record) in RecordIter::new(payload, header.record_count).enumerate() {
            let record = record?;
            if record.offset_delta as usize != index {
                return Err(BatchError::Record { index, what: OFFSET_DELTA });
            }
            times.push(record.timestamp_delta);
            keyless += usize::from(record.key.is_none());
        }
        let time = |delta: Option<&i64>| {
            header.base_timestamp.checked_add(*delta.expect("a record")).ok_or(BatchError::TimestampRange)
        };
        let max_timestamp = time(times.iter().max())?.max(-1);
        Ok(RecordSummary { max_timestamp, min_timestamp: time(times.iter().min())?, keyless })
    }

    fn whole(codec: Codec, bytes: &[u8], header: &BatchHeader) -> Result<RecordSummary, BatchError> {
        check_portable(codec, bytes)?;
        by_records(&decompress(codec, bytes, 64 << 20)?, header)
    }

    /// The same, but for the words of the decompressor.
    fn comparable(result: Result<RecordSummary, BatchError>) -> Result<RecordSummary, BatchError> {
        result.map_err(|error| match error {
            BatchError::Decompress { codec, .. } => BatchError::Decompress { codec, reason: String::new() },
            other => other,
        })
    }

    type Parts = (i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

    fn payload_of(records: &[Parts]) -> (BatchHeader, Vec<u8>) {
        let mut batch = BatchBuilder::new(Codec::None);
        for (time, key, value, headers) in records {
            let all: [(&[u8], Option<&[u8]>); 3] =
                [(b"h", Some(b"1")), (b"", None), (b"name", Some(&[7; 90]))];
            let (timestamp_ms, headers) = (1_000_000 + time, &all[..*headers]);
            batch.push(NewRecord { timestamp_ms, key: key.as_deref(), value: value.as_deref(), headers });
        }
        let batch = batch.build().expect("a batch");
        (BatchHeader::parse(&batch).expect("a header"), batch[HEADER_BYTES..].to_vec())
    }

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        let small = vec(any::<u8>(), 0..20);
        let large = (0..4000_usize).prop_map(|n| vec![n as u8; n]);
        prop_oneof![Just(None), small.prop_map(Some), large.prop_map(Some)]
    }

    fn records() -> impl Strategy<Value = Vec<Parts>> {
        let time = prop_oneof![4 => 0..70_i64, 1 => -100_000..10_000_000_000_i64];
        let headers = prop_oneof![3 => Just(0_usize), 1 => 0..4_usize];
        vec((time, bytes(), bytes(), headers), 1..90)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn pieces_of_any_size_say_what_the_whole_payload_says(
            records in records(),
            inside in vec((any::<Index>(), any::<u8>()), 0..3),
            outside in vec((any::<Index>(), any::<u8>()), 0..2),
            cut in prop_oneof![6 => Just(0_usize), 1 => 0..60_usize],
            count in prop_oneof![6 => Just(0), 1 => -3..3],
            piece in prop_oneof![1..3_usize, 3..60_usize, 60..5000_usize],
        ) {
            let (header, mut payload) = payload_of(&records);
            let header = BatchHeader { record_count: header.record_count + count, ..header };
            for (at, byte) in inside {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            for (codec, mut bytes) in compressed(&payload) {
                for (at, byte) in &outside {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                bytes.truncate(bytes.len() - cut.min(bytes.len()));
                if header.record_count <= 0 {
                    prop_assert!(Payload::new(codec, &bytes, PLENTY).summarize(&header).is_err());
                    continue;
                }
                let expected = comparable(whole(codec, &bytes, &header));
                let payload = Payload::new(codec, &bytes, PLENTY);
                prop_assert_eq!(comparable(payload.summarize(&header)), expected.clone(), "{:?}", codec);
                let dribbled = summarize(Dribble(payload.decompressor(), piece), &header);
                prop_assert_eq!(comparable(dribbled), expected.clone(), "{:?} in pieces of {}", codec, piece);
                let heads: Vec<_> = payload.heads(header.record_count).collect();
                let same = HeadReader::new(Dribble(payload.decompressor(), piece), header.record_count);
                prop_assert_eq!(same.collect::<Vec<_>>(), heads.clone(), "{:?}", codec);
                let first = heads.into_iter().find_map(Result::err);
                if let Err(error @ (BatchError::Record { what: _, .. } | BatchError::RecordCount { .. })) = expected
                    && !matches!(error, BatchError::Record { what: OFFSET_DELTA, .. })
                {
                    prop_assert_eq!(first, Some(error));
                }
            }
        }
    }

    fn too_large(bytes_max: usize) -> Result<RecordSummary, BatchError> {
        Err(BatchError::TooLarge { bytes_max })
    }

    /// Records of this many KiB, of which little is random.
    fn payload_of_kib(kib: usize) -> (BatchHeader, Vec<u8>) {
        let record = |n: usize| {
            let value: Vec<u8> = (0..8192).map(|at| (at * at * n / 7 % 251) as u8 & 15).collect();
            (n as i64, None, Some(value), 0)
        };
        payload_of(&(0..kib / 8).map(record).collect::<Vec<_>>())
    }

    #[test]
    fn no_more_comes_out_than_is_allowed() {
        let (header, payload) = payload_of_kib(1024);
        for (codec, bytes) in compressed(&payload) {
            let up_to = |payload_bytes_max| {
                Payload::new(codec, &bytes, StreamLimits { payload_bytes_max, ..PLENTY }).summarize(&header)
            };
            assert!(up_to(payload.len()).is_ok(), "{codec:?}");
            if codec != Codec::None {
                assert_eq!(up_to(payload.len() - 1), too_large(payload.len() - 1), "{codec:?}");
                assert_eq!(up_to(1000), too_large(1000), "{codec:?}");
            }
        }
    }

    #[test]
    fn what_is_held_of_a_payload_is_bounded_and_the_payload_is_not() {
        const KIB: usize = 1 << 10;
        let (header, payload) = payload_of_kib(4096);
        let (small_header, small) = payload_of_kib(512);
        let limits = StreamLimits { memory_bytes_max: 1024 * KIB, ..PLENTY };
        let check = |codec, bytes: &[u8]| Payload::new(codec, bytes, limits).summarize(&header);
        let small_check = |codec, bytes: &[u8]| Payload::new(codec, bytes, limits).summarize(&small_header);
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4] {
            assert!(check(codec, &compress(codec, None, &payload).expect("compresses")).is_ok(), "{codec:?}");
        }
        let blocks = |size| FrameInfo::new().block_size(size);
        assert!(check(Codec::Lz4, &lz4(&payload, blocks(BlockSize::Max1MB))).is_ok());
        assert_eq!(check(Codec::Lz4, &lz4(&payload, blocks(BlockSize::Max4MB))), too_large(1024 * KIB));
        assert!(small_check(Codec::Lz4, &lz4(&small, blocks(BlockSize::Max4MB))).is_ok());
        assert_eq!(check(Codec::Snappy, &raw_snappy(&payload)), too_large(1024 * KIB));
        assert!(small_check(Codec::Snappy, &raw_snappy(&small)).is_ok());
        let windowed = |input: &[u8], log| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
            encoder.window_log(log).expect("a window");
            encoder.write_all(input).expect("compresses");
            encoder.finish().expect("compresses")
        };
        assert!(check(Codec::Zstd, &windowed(&payload, 20)).is_ok());
        assert_eq!(check(Codec::Zstd, &windowed(&payload, 21)), too_large(1024 * KIB));
        assert!(small_check(Codec::Zstd, &windowed(&small, 27)).is_ok());
        let behind = [windowed(&payload[..100], 20), windowed(&payload[100..], 21)].concat();
        assert_eq!(
            check(Codec::Zstd, &behind),
            too_large(1024 * KIB),
            "the second frame's window counts too"
        );
    }
}
