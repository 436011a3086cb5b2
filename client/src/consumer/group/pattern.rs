//! Topics by a regular expression.

use regex::Regex;

/// Topics by a regular expression over their names, which must match as a whole: `orders` is the topic `orders` alone,
/// `orders\..*` is every topic whose name begins with `orders.`, `(?!…)` and other looking around is not known. The syntax
/// is that of the [`regex`](https://docs.rs/regex/1/regex/#syntax) crate, in which most of Java's patterns mean the same;
/// matching takes time in proportion to the name, whatever the pattern.
#[derive(Clone, Debug)]
pub struct TopicPattern {
    source: String,
    whole: Regex,
}

/// A text that is no regular expression, or one that is too large.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the pattern '{pattern}' cannot be used: {reason}")]
pub struct PatternError {
    /// The text.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl TopicPattern {
    /// Topics whose whole name matches.
    pub fn new(pattern: &str) -> Result<TopicPattern, PatternError> {
        let unusable = |error: regex::Error| {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
            PatternError { pattern: pattern.to_string(), reason }
        };
        // Alone first: brackets that only fit together with ours are none.
        Regex::new(pattern).map_err(unusable)?;
        let whole = Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(unusable)?;
        Ok(TopicPattern { source: pattern.to_string(), whole })
    }

    /// Whether a topic of this name is meant.
    pub fn matches(&self, topic: &str) -> bool {
        self.whole.is_match(topic)
    }

    /// The regular expression as it was given.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_a_whole() {
        let is_meant = |pattern: &str, topic| TopicPattern::new(pattern).expect("a pattern").matches(topic);
        for (pattern, topic) in [
            ("orders", "orders"),
            (r"orders\..*", "orders.eu"),
            ("a|ab", "ab"),
            ("(?i)ORDERS", "orders"),
            ("^a$", "a"),
        ] {
            assert!(is_meant(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in
            [("orders", "orders2"), ("orders", "my-orders"), ("a|b", "ab"), ("", "a"), ("a$", "a\n")]
        {
            assert!(!is_meant(pattern, topic), "{pattern} {topic}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_the_reason() {
        for pattern in ["(", "a)|(b", "(?!a)b", "a{9999999}"] {
            let error = TopicPattern::new(pattern).expect_err("no expression");
            assert!(!error.reason.is_empty() && error.to_string().contains(pattern), "{error}");
        }
    }
}
