//! "Did you mean" suggestions for unknown names.

use strsim::osa_distance;

/// Maximum suggestions.
const NAMES_MAX: usize = 3;
/// Minimum characters of a part of a name that suggests the name.
const PART_CHARS_MIN: usize = 3;
/// One typo is allowed per this many characters.
const CHARS_PER_TYPO: usize = 3;

/// The names that are similar to `typed`, best match first.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> =
        names.into_iter().filter_map(|name| Some((typos(typed, name)?, name))).collect();
    near.sort_unstable();
    near.into_iter().take(NAMES_MAX).map(|(_, name)| name).collect()
}

/// The number of typos in `typed` if `name` was meant; `None` if it is too different.
fn typos(typed: &str, name: &str) -> Option<usize> {
    let (typed, name) = (typed.to_lowercase(), name.to_lowercase());
    let (chars, distance) = (typed.chars().count(), osa_distance(&typed, &name));
    let is_part = chars >= PART_CHARS_MIN && name.contains(&typed);
    (distance <= (chars / CHARS_PER_TYPO).max(1) || is_part).then_some(distance)
}

/// Formats names as `'a'`, `'a' or 'b'`, `'a', 'b' or 'c'`.
pub fn any_of(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{}'", name.as_ref())).collect();
    match quoted.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_recognized_and_different_names_are_not_suggested() {
        let names = ["orders", "order-events", "Payments", "x", "invoices"];
        for (typed, wanted) in [
            ("ordres", &["orders"][..]),
            ("order", &["orders", "order-events"]),
            ("payments", &["Payments"]),
            ("invoice", &["invoices"]),
            ("y", &["x"]),
            ("shipments", &[]),
            ("", &["x"]),
        ] {
            assert_eq!(nearest(typed, names), wanted, "{typed}");
        }
        assert_eq!(nearest("topic-0", ["topic-4", "topic-3", "topic-2", "topic-1"]).len(), NAMES_MAX);
    }

    #[test]
    fn names_are_joined_with_commas_and_or() {
        assert_eq!(any_of(&["a"]), "'a'");
        assert_eq!(any_of(&["a", "b", "c"]), "'a', 'b' or 'c'");
    }
}
