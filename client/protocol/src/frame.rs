//! Frames and headers: a 4-byte length, a header whose shape depends on the API and its version, a message.
//!
//! Request header v1 is key, version, correlation id and client id; v2 adds tagged fields, while the client id keeps
//! its 16-bit length. Response header v0 is the correlation id; v1 adds tagged fields. Flexible versions have v2 and
//! v1; only ApiVersions answers with v0 in every version, because the client does not know yet what the broker speaks.

use bytes::Bytes;

use crate::{ApiKey, DecodeError, EncodeError, Message, Reader, Request, Str, Writer};

/// Bytes of a frame's length.
pub const FRAME_LENGTH_BYTES: usize = 4;
/// Kafka's UNSUPPORTED_VERSION: an ApiVersions response that carries it has the shape of version 0.
const UNSUPPORTED_VERSION: i16 = 35;

/// Why a length is not a frame's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below zero.
    #[error("frame length {0} is impossible")]
    Negative(i32),
    /// More than the caller takes.
    #[error("a frame of {bytes} bytes is too large: at most {bytes_max}")]
    TooLarge {
        /// Bytes that are announced.
        bytes: usize,
        /// Most that are allowed.
        bytes_max: usize,
    },
}

/// The length that a frame begins with: how many bytes follow, when they are at most `bytes_max`.
pub fn frame_length(prefix: [u8; FRAME_LENGTH_BYTES], bytes_max: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    let bytes = usize::try_from(length).map_err(|_| FrameError::Negative(length))?;
    if bytes > bytes_max { Err(FrameError::TooLarge { bytes, bytes_max }) } else { Ok(bytes) }
}

/// What every request begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHeader {
    /// Number of the API.
    pub key: i16,
    /// Version of the request, and of its response.
    pub version: i16,
    /// What the response repeats.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<Str>,
}

impl RequestHeader {
    /// Reads the header and stops at the body. A key that is not known has the header's version 1.
    pub fn decode(r: &mut Reader) -> Result<RequestHeader, DecodeError> {
        let (key, version) = (r.i16()?, r.i16()?);
        let correlation_id = r.i32()?;
        let client_id = r.nullable_string(false)?;
        if has_tags(key, version) {
            r.skip_tagged_fields()?;
        }
        Ok(RequestHeader { key, version, correlation_id, client_id })
    }

    /// Writes the header.
    pub fn encode(&self, w: &mut Writer) -> Result<(), EncodeError> {
        request_header(w, self.key, self.version, self.correlation_id, self.client_id.as_deref())
    }
}

fn has_tags(key: i16, version: i16) -> bool {
    ApiKey::from_i16(key).is_some_and(|key| version >= key.flexible_from())
}

fn request_header(
    w: &mut Writer,
    key: i16,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<(), EncodeError> {
    w.i16(key);
    w.i16(version);
    w.i32(correlation_id);
    match client_id {
        Some(text) => w.string(text, false, "RequestHeader.ClientId")?,
        None => w.null_string(false),
    }
    if has_tags(key, version) {
        w.uvarint(0);
    }
    Ok(())
}

/// What every response begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseHeader {
    /// The request's.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of a response to a request of `version`, and stops at the body.
    pub fn decode(r: &mut Reader, key: ApiKey, version: i16) -> Result<ResponseHeader, DecodeError> {
        let correlation_id = r.i32()?;
        if response_has_tags(key, version) {
            r.skip_tagged_fields()?;
        }
        Ok(ResponseHeader { correlation_id })
    }

    /// Writes the header.
    pub fn encode(&self, w: &mut Writer, key: ApiKey, version: i16) {
        w.i32(self.correlation_id);
        if response_has_tags(key, version) {
            w.uvarint(0);
        }
    }
}

fn response_has_tags(key: ApiKey, version: i16) -> bool {
    key != ApiKey::ApiVersions && version >= key.flexible_from()
}

/// A whole request, its length in front.
pub fn encode_request_frame<R: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body: &R,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut w = Writer::frame();
    request_header(&mut w, R::KEY as i16, version, correlation_id, client_id)?;
    body.encode(&mut w, version)?;
    w.finish_frame()
}

/// A whole response, its length in front.
pub fn encode_response_frame<M: Message>(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    body: &M,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut w = Writer::frame();
    ResponseHeader { correlation_id }.encode(&mut w, key, version);
    body.encode(&mut w, version)?;
    w.finish_frame()
}

/// Reads the body that the reader stands at, and refuses bytes behind it.
pub fn decode_body<M: Message>(r: &mut Reader, version: i16) -> Result<M, DecodeError> {
    let body = M::decode(r, version)?;
    r.finish()?;
    Ok(body)
}

/// Reads a response frame, without its length, to a request of `version`: the correlation id and the body.
/// An ApiVersions response that says UNSUPPORTED_VERSION is read as version 0, as brokers send it.
pub fn decode_response<R: Request>(frame: Bytes, version: i16) -> Result<(i32, R::Response), DecodeError> {
    let mut r = Reader::new(frame);
    let header = ResponseHeader::decode(&mut r, R::KEY, version)?;
    let refused = R::KEY == ApiKey::ApiVersions && r.peek_i16() == Some(UNSUPPORTED_VERSION);
    let body = decode_body(&mut r, if refused { 0 } else { version })?;
    Ok((header.correlation_id, body))
}

/// Reads the correlation id that a response frame, without its length, begins with.
pub fn correlation_id(frame: &[u8]) -> Option<i32> {
    frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes))
}
