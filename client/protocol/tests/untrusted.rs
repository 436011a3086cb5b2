//! Bytes that are no messages: whatever arrives, decoding neither panics nor takes more memory than it may.

use bytes::{Bytes, BytesMut};
use millstream_protocol::reader::{MEMORY_ALLOWANCE_BYTES, MEMORY_PER_FRAME_BYTE_MAX};
use millstream_protocol::testing::{
    CASES, Case, Rng,
    memory::{CountingAllocator, peak_of},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A short random message, so that a test can afford to spoil each of its bytes.
fn short_message(case: &Case, version: i16, rng: &mut Rng) -> Bytes {
    const BYTES_MAX: usize = 300;
    let mut shortest = (case.round_trip)(rng, version).expect("a round trip");
    for _ in 0..50 {
        let next = (case.round_trip)(rng, version).expect("a round trip");
        let better = shortest.len() > BYTES_MAX && next.len() < shortest.len();
        if better || (next.len() <= BYTES_MAX && next.len() > shortest.len()) {
            shortest = next;
        }
    }
    shortest
}

fn for_every_version(mut test: impl FnMut(&Case, i16, &mut Rng)) {
    let mut rng = Rng::new(4);
    for case in CASES {
        for version in case.versions.min..=case.versions.max {
            test(case, version, &mut rng);
        }
    }
}

#[test]
fn no_message_is_read_from_a_part_of_its_bytes() {
    for_every_version(|case, version, rng| {
        let bytes = short_message(case, version, rng);
        for end in 0..bytes.len() {
            let read = case.is_stable(bytes.slice(..end), version);
            assert!(!read, "{} version {version}: {end} of {} bytes are a message", case.name, bytes.len());
        }
    });
}

#[test]
fn a_byte_behind_a_message_is_refused() {
    for_every_version(|case, version, rng| {
        let mut bytes = BytesMut::from(short_message(case, version, rng));
        bytes.extend_from_slice(&[0]);
        assert!(!case.is_stable(bytes.freeze(), version), "{} version {version}", case.name);
    });
}

#[test]
fn a_spoiled_byte_is_harmless_wherever_it_is() {
    let (mut refused, mut taken) = (0, 0);
    for_every_version(|case, version, rng| {
        let bytes = short_message(case, version, rng);
        for at in 0..bytes.len() {
            for value in [bytes[at] ^ 0xff, bytes[at].wrapping_add(1), 0x80, rng.next_u64() as u8] {
                let mut spoiled = bytes.to_vec();
                spoiled[at] = value;
                let spoiled = Bytes::from(spoiled);
                let (is_message, peak) = peak_of(|| case.is_stable(spoiled, version));
                if is_message {
                    taken += 1
                } else {
                    refused += 1
                }
                // Decoding, encoding, and both again; a message of empty strings takes 32 bytes for each of its own.
                let peak_max = 128 * bytes.len() + 4096;
                assert!(
                    peak <= peak_max,
                    "{} version {version}: {peak} bytes for {}",
                    case.name,
                    bytes.len()
                );
            }
        }
    });
    assert!(refused > 10_000 && taken > 10_000, "{refused} refused, {taken} taken");
}

#[test]
fn random_bytes_are_harmless() {
    for_every_version(|case, version, rng| {
        for _ in 0..100 {
            let length = rng.below(200);
            // Small values are counts and lengths that lead deeper than 0x93 does.
            let small = rng.bool();
            let bytes: Bytes =
                (0..length).map(|_| if small { rng.below(4) as u8 } else { rng.next_u64() as u8 }).collect();
            case.is_stable(bytes, version);
        }
    });
}

#[test]
fn memory_is_bounded_by_the_frame_whatever_it_announces() {
    const FRAME_BYTES: usize = 256 << 10;
    let bound = FRAME_BYTES * MEMORY_PER_FRAME_BYTE_MAX + MEMORY_ALLOWANCE_BYTES;
    let mut largest = 0;
    for_every_version(|case, version, rng| {
        let start = short_message(case, version, rng);
        for fill in [0x00, 0x01, 0x02, 0x7f, 0xff] {
            // A million of something, at every byte of a message, and behind it what makes small elements.
            for count in
                [&[0xc1, 0x84, 0x3d][..], &[0x00, 0x00, 0xff, 0xff][..], &[0x7f, 0xff, 0xff, 0xff][..]]
            {
                let at = rng.below(start.len() + 1);
                let mut frame = BytesMut::from(&start[..at]);
                frame.extend_from_slice(count);
                frame.resize(FRAME_BYTES, fill);
                let frame = frame.freeze();
                let ((), peak) = peak_of(|| {
                    let _ = (case.recode)(frame, version).map(|bytes| bytes.len());
                });
                largest = largest.max(peak);
                assert!(peak <= 2 * bound, "{} version {version}: {peak} bytes, fill {fill:#x}", case.name);
            }
        }
    });
    assert!(largest > FRAME_BYTES, "no frame led to an array: the largest peak is {largest}");
}
