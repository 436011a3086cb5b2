//! Requests of every API and version, as the broker decodes them: what decodes survives a round trip, and
//! takes memory in proportion to its bytes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::{memory::bounded, seeds};
use millstream_protocol::{ApiKey, Reader, RequestHeader, testing::Kind};

fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(Bytes::copy_from_slice(data));
    let Ok(header) = RequestHeader::decode(&mut reader) else { return };
    let Some(key) = ApiKey::from_i16(header.key) else { return };
    let Some(case) = seeds::case(Kind::Request, key) else { return };
    if case.versions.contains(header.version) {
        let body = reader.rest();
        bounded(seeds::memory_bytes_max(body.len()), || case.is_stable(body, header.version));
    }
});
