//! What can be wrong with bytes, and with messages.

/// Why bytes are not a message. `at` counts bytes from the reader's beginning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the field needs.
    #[error("{need} bytes are needed at byte {at}, {have} are left")]
    Truncated {
        /// Where the field begins.
        at: usize,
        /// Bytes that it needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// A length or a count that cannot be.
    #[error("length {length} at byte {at} is impossible")]
    Length {
        /// Where the length ends.
        at: usize,
        /// What it says.
        length: i64,
    },
    /// An array with more elements than there can be in what is left, or than are allowed.
    #[error("{count} elements at byte {at} are too many: at most {count_max}")]
    Elements {
        /// Where the count ends.
        at: usize,
        /// Elements that are announced.
        count: usize,
        /// Most that are possible here.
        count_max: usize,
    },
    /// More memory for a frame than its size allows.
    #[error("the elements at byte {at} take more memory than a frame of this size may")]
    Memory {
        /// Where reading stopped.
        at: usize,
    },
    /// Null where the version does not allow it.
    #[error("null at byte {at} is not allowed")]
    Null {
        /// Where the null ends.
        at: usize,
    },
    /// A varint of too many bytes, or of too large a value.
    #[error("the varint at byte {at} does not end")]
    Varint {
        /// Where it begins.
        at: usize,
    },
    /// A string that is not UTF-8.
    #[error("the string at byte {at} is not UTF-8")]
    Utf8 {
        /// Where its text begins.
        at: usize,
    },
    /// Too many tagged fields.
    #[error("{count} tagged fields at byte {at} are too many: at most {count_max}")]
    TaggedFields {
        /// Where the count ends.
        at: usize,
        /// Fields that are announced.
        count: usize,
        /// Most that are allowed.
        count_max: usize,
    },
    /// A tagged field whose content is shorter than its size says.
    #[error("tagged field {tag} leaves {left} bytes, up to byte {at}")]
    TaggedField {
        /// Where the field should have ended.
        at: usize,
        /// Its tag.
        tag: u32,
        /// Bytes that its content did not use.
        left: usize,
    },
    /// Bytes behind the message.
    #[error("{bytes} bytes follow the message at byte {at}")]
    Trailing {
        /// Where the message ends.
        at: usize,
        /// Bytes behind it.
        bytes: usize,
    },
    /// A version that the codec does not know.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version.
        version: i16,
    },
}

/// Why a message has no bytes in a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A field has a value that this version cannot carry, and that must not be dropped.
    #[error("{field} is set, version {version} does not have it")]
    NotInVersion {
        /// The struct and the field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A field is null in a version that does not allow it.
    #[error("{field} is null, version {version} does not allow it")]
    Null {
        /// The struct and the field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A string, bytes or array longer than its length can say.
    #[error("{field} has length {length}, at most {length_max} are allowed")]
    TooLong {
        /// The struct and the field.
        field: &'static str,
        /// Bytes, or elements.
        length: usize,
        /// Most that are allowed.
        length_max: usize,
    },
    /// A frame longer than its length can say.
    #[error("the frame has {bytes} bytes, at most {bytes_max} are allowed")]
    Frame {
        /// Bytes behind the length.
        bytes: usize,
        /// Most that are allowed.
        bytes_max: usize,
    },
    /// A version that the codec does not know.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version.
        version: i16,
    },
}
