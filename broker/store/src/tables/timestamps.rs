//! Times in the indexes: the largest timestamp of a batch, and its age.
//!
//! Both are kept for every region, because they differ. A lookup needs the largest timestamp of the records,
//! whatever its value. Retention needs an age, also for records without timestamps or from a clock that was
//! ahead.

use std::{borrow::Cow, cmp::min};

use millstream_model::batch::{BatchHeader, TimestampType, decode_records, stamp_max_timestamp};

/// Time from which retention counts the age of a batch: its largest timestamp but at most its append time,
/// which also stands in if it has no timestamp.
pub(super) fn age_from_ms(max_timestamp: i64, appended_ms: i64) -> i64 {
    if max_timestamp < 0 { appended_ms } else { min(max_timestamp, appended_ms) }
}

/// Whether a client wrote the header's timestamps, which are those of its records.
fn may_be_wrong(header: &BatchHeader) -> bool {
    // A delete horizon replaces the base timestamp; compaction has read the records by then.
    header.record_count > 0
        && header.attributes.timestamp_type() == TimestampType::Create
        && !header.attributes.is_control()
        && !header.attributes.has_delete_horizon()
}

/// A batch whose header was not checked, and its header, with the largest timestamp of its records. Copied only if the
/// header has another.
pub(super) fn corrected<'a>(
    batch: &'a [u8],
    header: &BatchHeader,
    decompressed_bytes_max: usize,
) -> (Cow<'a, [u8]>, BatchHeader) {
    let max_timestamp = max_timestamp(batch, header, decompressed_bytes_max);
    if max_timestamp == header.max_timestamp {
        return (Cow::Borrowed(batch), *header);
    }
    let mut batch = batch.to_vec();
    stamp_max_timestamp(&mut batch, max_timestamp);
    // Nothing else that was parsed before has changed.
    let header = BatchHeader::parse(&batch).unwrap_or(*header);
    (Cow::Owned(batch), header)
}

/// The largest timestamp of the records, as far as they can be decoded; the header's where they cannot.
fn max_timestamp(batch: &[u8], header: &BatchHeader, decompressed_bytes_max: usize) -> i64 {
    if !may_be_wrong(header) {
        return header.max_timestamp;
    }
    let Ok(records) = decode_records(batch, decompressed_bytes_max) else { return header.max_timestamp };
    let time = |delta| header.base_timestamp.saturating_add(delta);
    let times = records.iter().map_while(Result::ok).map(|record| time(record.timestamp_delta));
    times.max().map_or(header.max_timestamp, |time| time.max(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_never_that_of_no_timestamp_or_of_the_future() {
        assert_eq!(age_from_ms(500, 1000), 500);
        assert_eq!(age_from_ms(0, 1000), 0);
        assert_eq!(age_from_ms(-1, 1000), 1000);
        assert_eq!(age_from_ms(i64::MIN, 1000), 1000);
        assert_eq!(age_from_ms(i64::MAX, 1000), 1000);
    }
}
