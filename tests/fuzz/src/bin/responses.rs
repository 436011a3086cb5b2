//! Responses of every API and version, and messages inside bytes, as a client decodes them. Two bytes name the message,
//! one its version.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::{memory::bounded, seeds};

fuzz_target!(|data: &[u8]| {
    let Some((&[high, low, version], body)) = data.split_first_chunk::<3>() else { return };
    let Some(case) = seeds::response(u16::from_be_bytes([high, low])) else { return };
    if case.versions.contains(i16::from(version)) {
        let body = Bytes::copy_from_slice(body);
        bounded(seeds::memory_bytes_max(body.len()), || case.is_stable(body, i16::from(version)));
    }
});
