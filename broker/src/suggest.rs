//! Suggestions for a misspelled name ("did you mean").

use strsim::osa_distance;

/// Most names that are suggested.
const NAMES_MAX: usize = 3;
/// Shortest part of a name that counts as an abbreviation, in characters.
const PART_SIGNS_MIN: usize = 3;
/// One in this many characters may be wrong.
const SIGNS_FOR_ONE_MISTAKE: usize = 3;

/// The names similar to `typed`, the likeliest first.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<(usize, &str)> =
        names.into_iter().filter_map(|name| Some((mistakes(typed, name)?, name))).collect();
    near.sort_unstable();
    near.into_iter().take(NAMES_MAX).map(|(_, name)| name).collect()
}

/// The number of wrong characters if `name` was meant; `None` if it is too different.
fn mistakes(typed: &str, name: &str) -> Option<usize> {
    let (typed, name) = (typed.to_lowercase(), name.to_lowercase());
    let (signs, distance) = (typed.chars().count(), osa_distance(&typed, &name));
    let is_part = signs >= PART_SIGNS_MIN && name.contains(&typed);
    (distance <= (signs / SIGNS_FOR_ONE_MISTAKE).max(1) || is_part).then_some(distance)
}

/// `'a'`, `'a' or 'b'`, `'a', 'b' or 'c'`.
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
    fn what_was_mistyped_is_found_and_what_is_something_else_is_not() {
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
    fn names_are_told_as_people_do() {
        assert_eq!(any_of(&["a"]), "'a'");
        assert_eq!(any_of(&["a", "b", "c"]), "'a', 'b' or 'c'");
    }
}
