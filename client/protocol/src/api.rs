//! The APIs, their versions, and what every message can do.

use std::fmt;

use bytes::Bytes;

use crate::{DecodeError, EncodeError, Reader, Writer};

include!(concat!(env!("OUT_DIR"), "/api_key.rs"));

impl fmt::Display for ApiKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Versions from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// First version.
    pub min: i16,
    /// Last version.
    pub max: i16,
}

impl VersionRange {
    /// Whether `version` is one of them.
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }
    /// The highest version in both, as clients choose it.
    pub fn highest_common(self, other: VersionRange) -> Option<i16> {
        let max = self.max.min(other.max);
        (max >= self.min.max(other.min)).then_some(max)
    }
}

/// A message, or a struct inside one.
pub trait Message: Sized + Default + Clone + fmt::Debug + PartialEq {
    /// Reads one in `version`; bytes behind it stay unread.
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;
    /// Writes it in `version`. A field that the version does not have is dropped when Kafka calls it ignorable or when
    /// it holds its default; else it is an error that names the field. After an error the writer's content is of no use.
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A request, and what answers it.
pub trait Request: Message {
    /// Its API.
    const KEY: ApiKey;
    /// Versions that the codec can read and write.
    const VERSIONS: VersionRange;
    /// Versions that Kafka does not call unstable.
    const STABLE_VERSIONS: VersionRange;
    /// First version with compact lengths and tagged fields; `i16::MAX` when there is none.
    const FLEXIBLE_FROM: i16;
    /// The response.
    type Response: Message;
}

/// A message that travels inside the bytes of another, behind its version.
pub trait Data: Message {
    /// Versions that the codec can read and write.
    const VERSIONS: VersionRange;
}

/// Writes the version, then the message.
pub fn encode_data<D: Data>(data: &D, version: i16) -> Result<Bytes, EncodeError> {
    let mut w = Writer::new();
    w.i16(version);
    data.encode(&mut w, version)?;
    Ok(w.finish_contiguous())
}

/// Reads the version, then the message. A version that is newer than the codec is read as the newest that it knows, and
/// what follows is not looked at: newer versions only add fields at the end.
pub fn decode_data<D: Data>(bytes: Bytes) -> Result<(i16, D), DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    let data = D::decode(&mut r, version.min(D::VERSIONS.max))?;
    Ok((version, data))
}
