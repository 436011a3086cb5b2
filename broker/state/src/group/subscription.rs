//! The part of the consumers' join metadata that the coordinator reads: their topics.

use std::collections::BTreeSet;

/// The protocol type of consumers; only its metadata is read.
pub(super) const CONSUMER: &str = "consumer";

/// Most topics of one subscription that are read.
const TOPICS_MAX: usize = 100_000;

/// The topics of one member's subscription: int16 version, int32 count, int16-prefixed names, then fields of
/// later versions. `None` if the bytes are something else.
fn topics(metadata: &[u8]) -> Option<Vec<&str>> {
    let (version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok().filter(|&count| count <= TOPICS_MAX)?;
    if i16::from_be_bytes(*version) < 0 || count > rest.len() / 2 {
        return None;
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        out.push(std::str::from_utf8(name).ok()?);
        rest = after;
    }
    Some(out)
}

/// The topics that any member subscribes to; `None` if unknown, so that all count as subscribed.
pub(super) fn subscribed<'a>(metadata: impl Iterator<Item = &'a [u8]>) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for one in metadata {
        all.extend(topics(one)?.into_iter().map(str::to_string));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"\0\x03\0\0\0\x02\0\x01a\0\x02bcwhatever follows";

    #[test]
    fn topics_are_read_and_later_fields_passed_over() {
        assert_eq!(topics(TWO), Some(vec!["a", "bc"]));
        let both = subscribed([TWO, &b"\0\0\0\0\0\x01\0\x01d"[..]].into_iter());
        assert_eq!(both, Some(["a", "bc", "d"].map(String::from).into()));
    }

    #[test]
    fn bytes_that_are_no_subscription_subscribe_to_nothing_known() {
        for length in 0..11 {
            assert_eq!(topics(&TWO[..length]), None, "{length} bytes");
        }
        assert_eq!(topics(b"\0\0\x7f\xff\xff\xff"), None);
        assert_eq!(topics(b"\0\0\xff\xff\xff\xff"), None);
        assert_eq!(subscribed([TWO, &b"x"[..]].into_iter()), None);
    }
}
