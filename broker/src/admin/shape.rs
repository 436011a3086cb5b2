//! Validates a JSON value against its schema, and describes what does not match.

use serde_json::{Map, Value};

/// The first mismatch between `value` and `schema`: the field, its value, and what is allowed. `definitions`
/// resolves references of the schema.
pub(super) fn misfit(value: &Value, schema: &Value, definitions: &Map<String, Value>) -> Option<String> {
    Checker { definitions }.check("", value, schema)
}

struct Checker<'a> {
    definitions: &'a Map<String, Value>,
}

impl<'a> Checker<'a> {
    /// Resolves a schema that only refers to another.
    fn resolve<'b>(&'b self, schema: &'b Value) -> &'b Value {
        let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        name.and_then(|name| self.definitions.get(name)).unwrap_or(schema)
    }

    fn check(&self, at: &str, value: &Value, schema: &Value) -> Option<String> {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            let fits = choices.iter().any(|choice| self.check(at, value, choice).is_none());
            // For an object, its field says which choice was meant.
            let meant = choices.iter().find(|choice| {
                choice["required"][0].as_str().is_some_and(|field| value.get(field).is_some())
            });
            return match (fits, meant) {
                (true, _) => None,
                (false, Some(meant)) => self.check(at, value, meant),
                (false, None) => Some(self.refuse(at, value, schema)),
            };
        }
        let has_kind = kinds(schema).any(|kind| is_of_kind(value, kind));
        let is_const = schema.get("const").is_none_or(|wanted| wanted == value);
        if !(has_kind && is_const && is_in_range(value, schema)) {
            return Some(self.refuse(at, value, schema));
        }
        match value {
            Value::Object(fields) => self.check_fields(at, fields, schema),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(n, item)| self.check(&format!("{at}[{n}]"), item, &schema["items"])),
            _ => None,
        }
    }

    fn check_fields(&self, at: &str, fields: &Map<String, Value>, schema: &Value) -> Option<String> {
        let known = schema["properties"].as_object();
        let whole = if at.is_empty() { "the body".to_string() } else { format!("'{at}'") };
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in required {
            if !fields.contains_key(name) {
                let wanted =
                    known.and_then(|known| known.get(name)).map_or(String::new(), |s| self.allowed(s));
                return Some(format!("{whole} has no '{name}'; it must be there and be {wanted}"));
            }
        }
        fields.iter().find_map(|(name, value)| {
            let inner = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            match (known.and_then(|known| known.get(name)), &schema["additionalProperties"]) {
                (Some(schema), _) => self.check(&inner, value, schema),
                (None, Value::Object(_)) => self.check(&inner, value, &schema["additionalProperties"]),
                (None, _) => {
                    let names: Vec<&str> =
                        known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                    Some(format!(
                        "{whole} has a field '{name}', which there is not; there are {}",
                        names.join(", ")
                    ))
                }
            }
        })
    }

    fn refuse(&self, at: &str, value: &Value, schema: &Value) -> String {
        let what = if at.is_empty() { "the body".to_string() } else { format!("'{at}'") };
        format!("{what} is {}; allowed is {}", shown(value), self.allowed(schema))
    }

    /// What a schema allows, in words.
    fn allowed(&self, schema: &Value) -> String {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            return choices.iter().map(|choice| self.allowed(choice)).collect::<Vec<_>>().join(" or ");
        }
        if let Some(word) = schema.get("const") {
            return word.to_string();
        }
        let words = kinds(schema).map(|kind| match kind {
            "integer" => match range(schema) {
                Some((low, high)) => format!("a whole number from {low} to {high}"),
                None => "a whole number".to_string(),
            },
            "array" => "a list".to_string(),
            "object" => match schema["required"][0].as_str() {
                Some(field) => format!("an object with \"{field}\""),
                None => "an object".to_string(),
            },
            "string" => "text".to_string(),
            "boolean" => "true or false".to_string(),
            "number" => "a number".to_string(),
            other => other.to_string(),
        });
        words.collect::<Vec<_>>().join(" or ")
    }
}

fn kinds(schema: &Value) -> impl Iterator<Item = &str> {
    let one = schema["type"].as_str();
    one.into_iter().chain(schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str))
}

fn is_of_kind(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    }
}

/// The bounds of an integer.
fn range(schema: &Value) -> Option<(i64, i64)> {
    let (low, high) = match schema["format"].as_str()? {
        "int16" => (i16::MIN.into(), i16::MAX.into()),
        "int32" => (i32::MIN.into(), i32::MAX.into()),
        "int64" => (i64::MIN, i64::MAX),
        _ => return None,
    };
    Some((schema["minimum"].as_i64().unwrap_or(low), schema["maximum"].as_i64().unwrap_or(high)))
}

fn is_in_range(value: &Value, schema: &Value) -> bool {
    let Some((low, high)) = range(schema).filter(|_| value.is_number()) else { return true };
    value.as_i64().is_some_and(|n| (low..=high).contains(&n))
}

/// A value as it was sent, if it is short.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_string(),
        Value::Array(_) => "a list".to_string(),
        Value::String(text) if text.chars().count() > 60 => "a long text".to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use schemars::{JsonSchema, generate::SchemaSettings};
    use serde_json::json;

    use super::*;
    use crate::admin::{
        groups::ResetJson,
        settings::{ConfigChangeJson, LogChangeJson},
        topics::NewTopicJson,
    };

    fn of<T: JsonSchema>(value: Value) -> String {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let schema = Value::from(generator.subschema_for::<T>());
        misfit(&value, &schema, &generator.take_definitions(true)).unwrap_or_default()
    }

    #[test]
    fn what_fits_is_let_through() {
        for body in [
            json!({ "name": "a" }),
            json!({ "name": "a", "partitions": 3, "replication_factor": null, "validate_only": true }),
            json!({ "name": "a", "config": { "retention.ms": 5, "x": "y", "z": true } }),
        ] {
            assert_eq!(of::<NewTopicJson>(body), "");
        }
        for to in [json!("earliest"), json!({ "offset": 5 }), json!({ "time_ms": -1 })] {
            assert_eq!(of::<ResetJson>(json!({ "topic": "a", "partitions": [0, 1], "to": to })), "");
        }
        assert_eq!(of::<ConfigChangeJson>(json!({})), "");
        for filter in [json!("info"), json!(null)] {
            assert_eq!(of::<LogChangeJson>(json!({ "filter": filter })), "");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_is_allowed() {
        for (body, said) in [
            (json!([]), "the body is a list; allowed is an object"),
            (json!({}), "the body has no 'name'; it must be there and be text"),
            (json!({ "name": 7 }), "'name' is 7; allowed is text"),
            (
                json!({ "name": "a", "partitions": "x" }),
                "'partitions' is \"x\"; allowed is a whole number from 1 to 100000 or null",
            ),
            (json!({ "name": "a", "partitions": 0 }), "'partitions' is 0; allowed is a whole number from 1"),
            (
                json!({ "name": "a", "replication_factor": -1 }),
                "'replication_factor' is -1; allowed is a whole number from 1",
            ),
            (
                json!({ "name": "a", "partitions": 100_001 }),
                "'partitions' is 100001; allowed is a whole number from 1 to 100000 or null",
            ),
            (json!({ "name": "a", "partitions": 1.5 }), "'partitions' is 1.5; allowed is a whole number"),
            (json!({ "name": "a", "validate_only": 1 }), "'validate_only' is 1; allowed is true or false"),
            (
                json!({ "name": "a", "parts": 1 }),
                "the body has a field 'parts', which there is not; there are ",
            ),
            (
                json!({ "name": "a", "config": { "k": [] } }),
                "'config.k' is a list; allowed is text or a number or true or false",
            ),
        ] {
            let problem = of::<NewTopicJson>(body.clone());
            assert!(problem.starts_with(said), "{body}: {problem}");
        }
        for (to, said) in [
            (
                json!("end"),
                "'to' is \"end\"; allowed is \"earliest\" or \"latest\" or an object with \"offset\"",
            ),
            (json!({ "offset": "x" }), "'to.offset' is \"x\"; allowed is a whole number"),
            (json!({ "ofset": 5 }), "'to' is an object; allowed is \"earliest\""),
        ] {
            let problem = of::<ResetJson>(json!({ "topic": "a", "to": to }));
            assert!(problem.starts_with(said), "{problem}");
        }
        let problem = of::<LogChangeJson>(json!({}));
        assert_eq!(problem, "the body has no 'filter'; it must be there and be text or null");
        let problem = of::<ResetJson>(json!({ "topic": "a", "to": "latest", "partitions": [0, "1"] }));
        assert!(problem.starts_with("'partitions[1]' is \"1\"; allowed is a whole number"), "{problem}");
    }
}
