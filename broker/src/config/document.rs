//! Generates the reference of all keys in `docs/configuration.md` from the tables.

use std::{fmt::Write, path::PathBuf};

use super::{BROKER_KEYS, BrokerConfig, Key, TOPIC_KEYS, broker_name};
use millstream_tests::generated;

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

fn shown(value: &str) -> String {
    if value.is_empty() { "empty".to_string() } else { format!("`{value}`") }
}

/// Unlimited bounds are shown as words.
fn allowed(key: &Key) -> String {
    let text = key.allowed().replace(&format!(" to {}", i64::MAX), " on");
    text.replace(&format!(" to {}", i32::MAX), " to 2³¹ - 1").replace('|', "\\|")
}

fn table(keys: &[Key], heading: &str, more: impl Fn(&Key) -> String) -> String {
    let mut text =
        format!("| key | default | allowed | {heading} | meaning |\n| --- | --- | --- | --- | --- |\n");
    for key in keys {
        let (default, allowed, more) = (shown(key.default), allowed(key), more(key));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {default} | {allowed} | {more} | {} |", key.name, key.documentation);
    }
    text
}

#[test]
fn the_document_has_every_broker_key_as_it_is() {
    let text = table(BROKER_KEYS, "changes", |key| {
        if BrokerConfig::is_changeable(key.name) { "while it runs" } else { "at start" }.to_string()
    });
    generated::check(&document(), "broker keys", &text);
}

#[test]
fn the_document_has_every_topic_key_as_it_is() {
    let text = table(TOPIC_KEYS, "the broker's default is", |key| format!("`{}`", broker_name(key.name)));
    generated::check(&document(), "topic keys", &text);
}
