//! The Kafka wire format, shared by client and broker.
//!
//! Messages are declared once, in `messages/*.kmsg`; structs, decoding, encoding and defaults are derived from that
//! (`build/`), for every version. Bytes are not trusted: a count is checked against the bytes that are left before
//! anything is allocated for it, no input makes the codec panic, and what it allocates is bounded by the frame's size
//! ([`reader`]). Record sets are slices of the frame on the way in, and links of a chain on the way out.
//!
//! What is not here: record batches (`millstream-batch`), sockets, and which versions a broker serves.

mod address;
mod api;
mod error;
mod error_code;
mod frame;
pub mod messages;
pub mod reader;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod value;
mod writer;

pub use address::{Address, AddressError, AddressFault};
pub use api::{ApiKey, Data, Message, Request, VersionRange, decode_data, encode_data};
pub use error::{DecodeError, EncodeError};
pub use error_code::ErrorCode;
pub use frame::{
    FRAME_LENGTH_BYTES, FrameError, RequestHeader, ResponseHeader, correlation_id, decode_body,
    decode_response, encode_request_frame, encode_response_frame, frame_length,
};
pub use reader::Reader;
pub use text::Str;
pub use value::{Records, Uuid};
pub use writer::{COPIED_BYTES_MAX, Writer};
