//! Generates the reference of paths and values in `docs/http.md` from the table of endpoints and their
//! schemas.

use std::{fmt::Write, path::PathBuf};

use serde_json::Value;

use super::{
    endpoints::{self, Content, Endpoint, Shape},
    openapi,
};
use millstream_tests::generated;

fn link(shape: &Shape) -> String {
    format!("[{}](#{})", shape.name, shape.name.to_lowercase())
}

fn paths() -> String {
    let mut text = String::from("| request | what it does | takes | answers |\n| --- | --- | --- | --- |\n");
    for endpoint in endpoints::all() {
        let Endpoint { method, path, summary, takes, answers, .. } = &endpoint;
        let takes = takes.as_ref().map(link).unwrap_or_default();
        let answers: Vec<String> = answers
            .iter()
            .map(|answer| match &answer.content {
                Content::Json(shape) if answer.status < 300 => format!("{} {}", answer.status, link(shape)),
                _ => format!("{}: {}", answer.status, answer.when),
            })
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{method} {path}` | {summary} | {takes} | {} |", answers.join("<br>"));
    }
    text
}

fn values() -> String {
    let description = openapi::description();
    let schemas = description["components"]["schemas"].as_object().expect("schemas");
    let mut text = String::new();
    for (title, schema) in schemas {
        let about = schema["description"].as_str().unwrap_or_default();
        let _ = write!(text, "### {title}\n\n{about}\n\n");
        if let Some(fields) = schema["properties"].as_object() {
            text.push_str("| field | type | meaning |\n| --- | --- | --- |\n");
            for (field, schema) in fields {
                let meaning = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
                let _ = writeln!(text, "| `{field}` | {} | {meaning} |", kind(schema));
            }
        }
        for choice in schema["oneOf"].as_array().into_iter().flatten() {
            let meaning = choice["description"].as_str().unwrap_or_default().replace('\n', " ");
            let _ = writeln!(text, "- {}: {meaning}", shown(choice));
        }
        text.push('\n');
    }
    text
}

/// A choice as it is written in JSON.
fn shown(choice: &Value) -> String {
    match (choice["const"].as_str(), choice["required"][0].as_str()) {
        (Some(word), _) => format!("`\"{word}\"`"),
        (None, Some(field)) => format!("`{{\"{field}\": ...}}`"),
        (None, None) => "any value".to_string(),
    }
}

fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str().or(schema["allOf"][0]["$ref"].as_str()) {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", kind_of_items(&schema["items"])),
        Value::String(kind) if kind == "object" => {
            format!("object of {}", kind_of_items(&schema["additionalProperties"]))
        }
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let mut words: Vec<String> = kinds.iter().filter_map(Value::as_str).map(str::to_string).collect();
            if let Some(list) = words.iter_mut().find(|word| *word == "array") {
                *list = format!("list of {}", kind_of_items(&schema["items"]));
            }
            words.join(" or ")
        }
        _ => "any".to_string(),
    }
}

fn kind_of_items(items: &Value) -> String {
    match kind(items) {
        many if many.starts_with("list of ") => many.replace("list of", "lists of"),
        one if one.starts_with('[') => one,
        one => format!("{one}s"),
    }
}

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md")
}

#[test]
fn the_document_has_every_path_as_it_is() {
    generated::check(&document(), "paths", &paths());
}

#[test]
fn the_document_has_every_value_as_it_is() {
    generated::check(&document(), "values", &values());
}
