//! Strings that share the frame they were read from.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// UTF-8 text, cheap to clone. One that was decoded is a slice of its frame and keeps the whole frame in memory:
/// what outlives the request takes a [`Str::detached`] copy.
///
/// Invariant: the bytes are UTF-8. No constructor takes bytes without checking them, and nothing changes them.
#[derive(Clone, Default)]
pub struct Str(Bytes);

impl Str {
    /// No text.
    pub const EMPTY: Str = Str(Bytes::new());

    /// Text of the program itself.
    pub const fn from_static(text: &'static str) -> Str {
        Str(Bytes::from_static(text.as_bytes()))
    }
    /// The text that `bytes` are, without a copy; gives the bytes back when they are not UTF-8.
    pub fn from_utf8(bytes: Bytes) -> Result<Str, Bytes> {
        if std::str::from_utf8(&bytes).is_ok() { Ok(Str(bytes)) } else { Err(bytes) }
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        // SAFETY: the type's invariant; every constructor starts from a `str` or has checked the bytes.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }
    /// The text's bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
    /// A copy that holds only its own bytes.
    pub fn detached(&self) -> Str {
        Str(Bytes::copy_from_slice(&self.0))
    }
}

impl Deref for Str {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<&'static str> for Str {
    fn from(text: &'static str) -> Str {
        Str::from_static(text)
    }
}

impl From<String> for Str {
    fn from(text: String) -> Str {
        Str(Bytes::from(text))
    }
}

impl From<&String> for Str {
    fn from(text: &String) -> Str {
        Str(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&Str> for Str {
    fn from(text: &Str) -> Str {
        text.clone()
    }
}

impl From<Str> for String {
    fn from(text: Str) -> String {
        text.as_str().to_owned()
    }
}

impl From<Str> for Bytes {
    fn from(text: Str) -> Bytes {
        text.0
    }
}

impl PartialEq for Str {
    fn eq(&self, other: &Str) -> bool {
        self.0 == other.0
    }
}

impl Eq for Str {}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Str {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialOrd for Str {
    fn partial_cmp(&self, other: &Str) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Str {
    fn cmp(&self, other: &Str) -> Ordering {
        self.as_str().cmp(other)
    }
}

/// As the text's own hash, so that maps of `Str` are searched by `&str`.
impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Str {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), out)
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), out)
    }
}
