//! A configuration key: name, type, default, range and documentation.

use std::collections::BTreeMap;

use crate::suggest::nearest;

/// The type of a key's value, as in Kafka's DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigKind {
    /// `true` or `false`.
    Boolean,
    /// One of a set of strings.
    String,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    Long,
    /// Floating-point number.
    Double,
    /// Comma-separated list.
    List,
}

/// The allowed values of a key.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// `true` or `false`.
    Bool,
    /// An integer in this range, inclusive.
    Number(i64, i64),
    /// The first number, or one in the range of the other two, inclusive.
    NumberOr(i64, i64, i64),
    /// A number in this range, inclusive.
    Fraction(f64, f64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these, without duplicates.
    SomeOf(&'static [&'static str]),
    /// Any text.
    Any,
}

/// A configuration key of a topic or the broker.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Kafka's name of the key.
    pub name: &'static str,
    /// Type of its value.
    pub kind: ConfigKind,
    /// The default.
    pub default: &'static str,
    /// Allowed values.
    pub range: Range,
    /// What it does and when to set it.
    pub documentation: &'static str,
}

/// A rejected configuration; no part of it took effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The key is unknown.
    #[error("unknown configuration {key}; {}", meant(near, known))]
    Unknown {
        /// The key that was given.
        key: String,
        /// Keys with a similar name.
        near: Vec<&'static str>,
        /// All keys.
        known: Vec<&'static str>,
    },
    /// The value is out of range.
    #[error("invalid value {value} for configuration {key}: {allowed}")]
    Value {
        /// The key.
        key: String,
        /// The value that was given.
        value: String,
        /// The allowed values.
        allowed: String,
    },
}

/// Lists the similar names if there are any: the full list is too long to help.
fn meant(near: &[&str], known: &[&str]) -> String {
    match near {
        [] => format!("known are: {}", known.join(", ")),
        near => format!("the nearest are {}", near.join(", ")),
    }
}

impl Key {
    /// A key with a closed set of values.
    pub(super) const fn one_of(
        name: &'static str,
        default: &'static str,
        all: &'static [&'static str],
        documentation: &'static str,
    ) -> Key {
        Key { name, kind: ConfigKind::String, default, range: Range::OneOf(all), documentation }
    }

    /// Validates a value against the key's range.
    pub fn check(&self, value: &str) -> Result<(), ConfigError> {
        let ok = match self.range {
            Range::Any => true,
            Range::Bool => matches!(value, "true" | "false"),
            Range::Number(low, high) => value.parse::<i64>().is_ok_and(|n| (low..=high).contains(&n)),
            Range::NumberOr(alone, low, high) => {
                value.parse::<i64>().is_ok_and(|n| n == alone || (low..=high).contains(&n))
            }
            Range::Fraction(low, high) => value.parse::<f64>().is_ok_and(|n| (low..=high).contains(&n)),
            Range::OneOf(all) => all.contains(&value),
            Range::SomeOf(all) => {
                let given: Vec<_> = list(value).collect();
                let mut once = given.clone();
                once.sort_unstable();
                once.dedup();
                once.len() == given.len() && given.iter().all(|item| all.contains(item))
            }
        };
        if ok { Ok(()) } else { Err(self.refuse(value)) }
    }

    fn refuse(&self, value: &str) -> ConfigError {
        ConfigError::Value { key: self.name.to_string(), value: value.to_string(), allowed: self.allowed() }
    }

    /// The allowed values in words.
    pub(super) fn allowed(&self) -> String {
        match self.range {
            Range::Any => "any text".to_string(),
            Range::Bool => "true or false".to_string(),
            Range::Number(low, high) => format!("a whole number from {low} to {high}"),
            Range::NumberOr(alone, low, high) => format!("{alone}, or a whole number from {low} to {high}"),
            Range::Fraction(low, high) => format!("a number from {low} to {high}"),
            Range::OneOf(all) => format!("one of {}", all.join(", ")),
            Range::SomeOf(all) => format!("a comma-separated list of {}, none twice", all.join(", ")),
        }
    }
}

/// The items of a comma-separated value.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Finds the key and validates the value.
pub(super) fn check(keys: &'static [Key], name: &str, value: &str) -> Result<&'static Key, ConfigError> {
    let key = find(keys, name)?;
    key.check(value)?;
    Ok(key)
}

/// Finds the key.
pub(super) fn find(keys: &'static [Key], name: &str) -> Result<&'static Key, ConfigError> {
    keys.iter().find(|key| key.name == name).ok_or_else(|| {
        let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
        ConfigError::Unknown { key: name.to_string(), near: nearest(name, known.iter().copied()), known }
    })
}

/// Values that were validated when they were set, or the defaults of their keys.
pub(super) struct Values<'a> {
    pub(super) keys: &'static [Key],
    pub(super) set: &'a BTreeMap<String, String>,
}

impl<'a> Values<'a> {
    pub(super) fn text(&self, name: &str) -> &'a str {
        match self.set.get(name) {
            Some(value) => value,
            None => find(self.keys, name).map_or("", |key| key.default),
        }
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub(super) fn fraction(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_told_with_those_that_were_probably_meant() {
        let key = |name| Key {
            name,
            kind: ConfigKind::Int,
            default: "1",
            range: Range::Number(0, 9),
            documentation: "",
        };
        let keys: &'static [Key] = vec![key("num.partitions"), key("disk.low.bytes")].leak();
        let said = |name| find(keys, name).expect_err(name).to_string();
        assert_eq!(
            said("num.partition"),
            "unknown configuration num.partition; the nearest are num.partitions"
        );
        assert_eq!(said("zzz"), "unknown configuration zzz; known are: num.partitions, disk.low.bytes");
    }
}
