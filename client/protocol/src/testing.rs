//! Random messages for tests, and a list of all messages to walk over. Not part of what the broker is built from.

pub mod memory;

use bytes::Bytes;

use crate::{ApiKey, DecodeError, EncodeError, Message, Reader, Records, Str, Uuid, VersionRange, Writer};

include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// Random numbers from a seed (SplitMix64): the same seed gives the same messages.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// Longest random array.
const ELEMENTS_MAX: usize = 3;
/// Longest random record set: on both sides of what the writer copies.
const RECORDS_BYTES_MAX: usize = 3 * crate::COPIED_BYTES_MAX;

impl Rng {
    /// A generator.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// Either.
    pub fn bool(&mut self) -> bool {
        self.one_in(2)
    }
    /// Mostly small numbers, now and then any.
    pub fn i64(&mut self) -> i64 {
        match self.below(6) {
            0 => -1,
            1 => self.next_u64() as i64,
            2 => i64::MAX,
            3 => i64::MIN,
            _ => self.below(1000) as i64,
        }
    }
    /// See [`Rng::i64`]; its extremes become -1 and 0.
    pub fn i32(&mut self) -> i32 {
        match self.below(8) {
            0 => i32::MAX,
            1 => i32::MIN,
            _ => self.i64() as i32,
        }
    }
    /// See [`Rng::i32`].
    pub fn i16(&mut self) -> i16 {
        match self.below(8) {
            0 => i16::MAX,
            1 => i16::MIN,
            _ => self.i64() as i16,
        }
    }
    /// See [`Rng::i32`].
    pub fn i8(&mut self) -> i8 {
        self.i64() as i8
    }
    /// See [`Rng::i32`].
    pub fn u16(&mut self) -> u16 {
        self.i16() as u16
    }
    /// A number, never NaN, which is not equal to itself.
    pub fn f64(&mut self) -> f64 {
        self.i32() as f64 / 8.0
    }
    /// An id, now and then zero.
    pub fn uuid(&mut self) -> Uuid {
        if self.one_in(8) {
            return Uuid::ZERO;
        }
        let (high, low) = (self.next_u64().to_be_bytes(), self.next_u64().to_be_bytes());
        let mut out = [0; 16];
        out[..8].copy_from_slice(&high);
        out[8..].copy_from_slice(&low);
        Uuid(out)
    }
    /// Text, some of it beyond ASCII, some of it longer than a one-byte length can say.
    pub fn string(&mut self) -> Str {
        const LETTERS: [char; 8] = ['a', 'b', '.', '-', '7', 'ß', '水', '🌊'];
        let length = if self.one_in(20) { 200 } else { self.below(12) };
        Str::from((0..length).map(|_| LETTERS[self.below(LETTERS.len())]).collect::<String>())
    }
    /// Bytes of any values.
    pub fn bytes(&mut self) -> Bytes {
        let length = if self.one_in(20) { 300 } else { self.below(20) };
        (0..length).map(|_| self.next_u64() as u8).collect()
    }
    /// A record set in one piece or several; its bytes are no batches.
    pub fn records(&mut self) -> Records {
        let mut piece = || {
            let length = if self.bool() { self.below(64) } else { self.below(RECORDS_BYTES_MAX) };
            (0..length).map(|_| self.next_u64() as u8).collect::<Bytes>()
        };
        let (first, second) = (piece(), piece());
        if self.bool() { Records::One(first) } else { Records::Many(vec![first, second]) }
    }
    /// A short array.
    pub fn array<T>(&mut self, mut element: impl FnMut(&mut Rng) -> T) -> Vec<T> {
        let count = self.below(ELEMENTS_MAX + 1);
        (0..count).map(|_| element(self)).collect()
    }
}

/// What can be made at random.
pub trait Arbitrary {
    /// A value that `version` can carry in full.
    fn arbitrary(rng: &mut Rng, version: i16) -> Self;
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request's body.
    Request,
    /// A response's body.
    Response,
    /// A message inside bytes.
    Data,
}

/// Why a random message did not come back.
#[derive(Debug)]
pub enum RoundTripError {
    /// It could not be written.
    Encode(EncodeError),
    /// Its bytes could not be read.
    Decode(DecodeError),
    /// Another message came back.
    Other {
        /// What was written.
        written: String,
        /// What was read.
        read: String,
    },
}

/// One message type, as functions over bytes.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Kafka's name of the message.
    pub name: &'static str,
    /// Its API.
    pub key: Option<ApiKey>,
    /// What it is.
    pub kind: Kind,
    /// Its versions.
    pub versions: VersionRange,
    /// Writes a random message, reads it back, compares, and gives the bytes.
    pub round_trip: fn(&mut Rng, i16) -> Result<Bytes, RoundTripError>,
    /// Reads bytes to their end, and writes what was read.
    pub recode: fn(Bytes, i16) -> Result<Bytes, RoundTripError>,
    /// Reads bytes of one version and writes what was read in another.
    pub convert: fn(Bytes, i16, i16) -> Result<Bytes, RoundTripError>,
    /// Writes the message of defaults.
    pub default: fn(i16) -> Result<Bytes, EncodeError>,
}

impl Case {
    const fn of<M: Message + Arbitrary>(
        name: &'static str,
        key: Option<ApiKey>,
        kind: Kind,
        versions: VersionRange,
    ) -> Case {
        let default = |version| encode(&M::default(), version);
        let recode = |bytes, version| convert::<M>(bytes, version, version);
        Case {
            name,
            key,
            kind,
            versions,
            round_trip: round_trip::<M>,
            recode,
            convert: convert::<M>,
            default,
        }
    }

    /// Whether the bytes are a message. Panics if what they say cannot be written, or is not read and written again alike.
    pub fn is_stable(&self, bytes: Bytes, version: i16) -> bool {
        let written = match (self.recode)(bytes, version) {
            Err(RoundTripError::Decode(_)) => return false,
            other => other.unwrap_or_else(|error| panic!("{} version {version}: {error:?}", self.name)),
        };
        let again = (self.recode)(written.clone(), version);
        assert_eq!(again.expect("what was written is read"), written, "{} version {version}", self.name);
        true
    }
}

fn encode<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut w = Writer::new();
    message.encode(&mut w, version)?;
    Ok(w.finish_contiguous())
}

fn decode<M: Message>(bytes: Bytes, version: i16) -> Result<M, DecodeError> {
    crate::decode_body(&mut Reader::new(bytes), version)
}

fn round_trip<M: Message + Arbitrary>(rng: &mut Rng, version: i16) -> Result<Bytes, RoundTripError> {
    let written = M::arbitrary(rng, version);
    let bytes = encode(&written, version).map_err(RoundTripError::Encode)?;
    let read: M = decode(bytes.clone(), version).map_err(RoundTripError::Decode)?;
    if read != written {
        return Err(RoundTripError::Other { written: format!("{written:?}"), read: format!("{read:?}") });
    }
    Ok(bytes)
}

fn convert<M: Message>(bytes: Bytes, from: i16, to: i16) -> Result<Bytes, RoundTripError> {
    let message: M = decode(bytes, from).map_err(RoundTripError::Decode)?;
    encode(&message, to).map_err(RoundTripError::Encode)
}
