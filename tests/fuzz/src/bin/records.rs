//! Compressed records as consumer and broker decode them: no input expands beyond the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_batch::{Codec, RecordIter, decompress};
use millstream_fuzz::memory::bounded;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// The output, twice while it grows, and the buffers of a codec: LZ4 has blocks of up to 8 MiB, in and out.
const MEMORY_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX + (20 << 20);

fuzz_target!(|data: &[u8]| {
    let Some((&[codec, count], input)) = data.split_first_chunk::<2>() else { return };
    let codec = CODECS[usize::from(codec) % CODECS.len()];
    // Uncompressed records are not decoded.
    let bytes_max = if codec == Codec::None { input.len() } else { PAYLOAD_BYTES_MAX };
    let Ok(payload) = bounded(MEMORY_BYTES_MAX, || decompress(codec, input, bytes_max)) else { return };
    assert!(payload.len() <= bytes_max, "more came out than is allowed");
    for record in RecordIter::new(&payload, i32::from(count)).map_while(Result::ok) {
        record.headers().for_each(drop);
    }
});
