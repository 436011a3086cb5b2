//! Numbers on the command line.

use std::{
    fmt::Display,
    ops::{Bound, RangeBounds},
    str::FromStr,
};

/// An integer type.
pub(super) trait Whole:
    Copy + PartialOrd + PartialEq + Display + FromStr + Send + Sync + 'static
{
    const MIN: Self;
    const MAX: Self;
}

macro_rules! whole {
    ($($number:ty),*) => {
        $(impl Whole for $number {
            const MIN: Self = <$number>::MIN;
            const MAX: Self = <$number>::MAX;
        })*
    };
}

whole!(u32, u64, i32, i64);

/// The error for an invalid number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a whole number{}", range_text(low.as_ref(), high.as_ref()))]
pub(super) struct NotInRange<N: Display> {
    low: Option<N>,
    high: Option<N>,
}

fn range_text<N: Display>(low: Option<&N>, high: Option<&N>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) => format!(" from {low} on"),
        (None, Some(high)) => format!(" up to {high}"),
        (None, None) => String::new(),
    }
}

/// A parser of integers in a range, bounds included.
pub(super) fn number<N: Whole>(
    range: impl RangeBounds<N> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<N, NotInRange<N>> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse::<N>().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            // An open end of the range is the type's limit, which matters only for a value beyond it.
            let digits = text.trim_start_matches(['-', '+']);
            let beyond = !digits.is_empty()
                && digits.bytes().all(|digit| digit.is_ascii_digit())
                && text.parse::<N>().is_err()
                && (!text.starts_with('-') || N::MIN.to_string().starts_with('-'));
            let bound = |bound: Bound<&N>, of_type: N| match bound {
                Bound::Included(n) | Bound::Excluded(n) => Some(*n),
                Bound::Unbounded => beyond.then_some(of_type),
            };
            let low = bound(range.start_bound(), N::MIN);
            NotInRange { low, high: bound(range.end_bound(), N::MAX) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_number_is_told_what_is_allowed() {
        let said = |text: &str| number::<u64>(1..=86_400)(text).expect_err(text).to_string();
        for wrong in ["0", "-1", "x", "", "99999999999999999999", "1.5"] {
            assert_eq!(said(wrong), "a whole number from 1 to 86400", "{wrong}");
        }
        assert_eq!(number::<u64>(1..=86_400)("86400"), Ok(86_400));
        let said = |text: &str| number::<u64>(0..)(text).expect_err(text).to_string();
        assert_eq!(said("-1"), "a whole number from 0 on");
        assert_eq!(said("99999999999999999999"), "a whole number from 0 to 18446744073709551615");
        let said = |text: &str| number::<i64>(..)(text).expect_err(text).to_string();
        assert_eq!(said("x"), "a whole number");
        let all = "a whole number from -9223372036854775808 to 9223372036854775807";
        assert_eq!(
            (said("99999999999999999999").as_str(), said("-99999999999999999999").as_str()),
            (all, all)
        );
        assert_eq!(number::<i64>(..)("-5"), Ok(-5));
    }
}
