//! Validation of topic names by Kafka's rules, and the text form of the cluster id.

/// Longest topic name, in characters, all of which take one byte.
const NAME_BYTES_MAX: usize = 249;

/// Internal topics that Kafka clients know by name.
const INTERNAL: [&str; 3] = ["__consumer_offsets", "__share_group_state", "__transaction_state"];

/// Why a topic name is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The name is empty.
    #[error("a topic's name cannot be empty")]
    Empty,
    /// The name is `.` or `..`, which mean directories in a path.
    #[error("a topic's name cannot be '.' or '..'")]
    Dots,
    /// The name is too long.
    #[error("a topic's name of {0} bytes is longer than {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// The name has another character.
    #[error("a topic's name has only ASCII letters, digits, '.', '_' and '-', not {0:?}")]
    Character(char),
}

/// Validates a topic name.
pub fn validate_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(TopicNameError::TooLong(name.len()));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().find(|c| !legal(*c)).map_or(Ok(()), |c| Err(TopicNameError::Character(c)))
}

/// Whether the topic is internal.
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// The normalized name that colliding names share: metrics write `.` as `_`. `None` if the name can only
/// collide with itself.
pub(super) fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

/// The text form of a cluster id, like Kafka's UUIDs: URL-safe base64 without padding.
pub fn cluster_id_text(uuid: [u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(uuid);
    // 22 characters of 6 bits; the last one has 2 bits of the id and 4 zeros.
    (0..22)
        .map(|at| {
            let six = if at < 21 { bits >> (122 - 6 * at) } else { bits << 4 };
            char::from(ALPHABET[(six & 63) as usize])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kafka_takes() {
        let longest = "a".repeat(249);
        for name in ["a", "A-b_c.9", "...", "__consumer_offsets", longest.as_str()] {
            assert_eq!(validate_topic_name(name), Ok(()), "{name}");
        }
        assert_eq!(validate_topic_name(""), Err(TopicNameError::Empty));
        assert_eq!(validate_topic_name("."), Err(TopicNameError::Dots));
        assert_eq!(validate_topic_name(".."), Err(TopicNameError::Dots));
        assert_eq!(validate_topic_name(&"a".repeat(250)), Err(TopicNameError::TooLong(250)));
        for (name, character) in [("a/b", '/'), ("a b", ' '), ("ä", 'ä'), ("a\0", '\0'), ("a:b", ':')] {
            assert_eq!(validate_topic_name(name), Err(TopicNameError::Character(character)));
        }
    }

    #[test]
    fn names_collide_that_differ_only_in_dots_and_underscores() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
        assert_eq!(collision_key("a-b"), None);
    }

    #[test]
    fn a_cluster_id_is_base64_for_urls() {
        assert_eq!(cluster_id_text([0; 16]), "A".repeat(22));
        assert_eq!(cluster_id_text([0xff; 16]), "_".repeat(21) + "w");
        let uuid =
            [0x00, 0x10, 0x83, 0x10, 0x51, 0x87, 0x20, 0x92, 0x8b, 0x30, 0xd3, 0x8f, 0x41, 0x14, 0x93, 0x51];
        assert_eq!(cluster_id_text(uuid), "ABCDEFGHIJKLMNOPQRSTUQ");
    }
}
