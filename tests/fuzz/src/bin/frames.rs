//! The broker's frame reader: however the bytes arrive, the frames are those of the stream, and invalid
//! lengths are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::net::{Frames, read};

/// The frames of a complete stream.
fn frames_of(mut stream: &[u8], frame_bytes_max: usize) -> Frames {
    let mut found = Frames::default();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        if length < 0 || length as usize > frame_bytes_max {
            found.refused = true;
            break;
        }
        let Some((frame, rest)) = rest.split_at_checked(length as usize) else { break };
        found.frames.push(frame.to_vec().into());
        stream = rest;
    }
    found
}

fuzz_target!(|data: &[u8]| {
    let Some((&[limit, pieces], stream)) = data.split_first_chunk::<2>() else { return };
    let frame_bytes_max = 1 << (limit % 18);
    // At most some dozens of pieces: each goes through a socket.
    let piece_bytes = 1 + usize::from(pieces) + stream.len() / 32;
    assert_eq!(read(stream.chunks(piece_bytes), frame_bytes_max), frames_of(stream, frame_bytes_max));
});
