//! Parses a line of input as a record.

use bytes::Bytes;
use millstream_client::producer::Record;
use serde_json::{Map, Value};

use super::error::CliError;

type Headers = Vec<(String, Option<Bytes>)>;

/// How lines are parsed. `headers` are added to every record, before its own.
pub(super) enum LineFormat {
    /// The line without its line feed is the value, after an optional key and separator.
    Text { separator: Option<String>, headers: Headers },
    /// The line is a JSON object.
    Json { headers: Headers },
}

/// Why a line is not a record.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineProblem {
    #[error("not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("not a JSON object like {{\"key\": \"k\", \"value\": \"v\"}}")]
    NotAnObject,
    #[error("unknown field '{0}'; known are key, key_hex, value, value_hex, headers, timestamp_ms")]
    UnknownField(String),
    #[error("no 'value' or 'value_hex'; a record without a value says \"value\": null")]
    NoValue,
    #[error("'{0}' is not {1}")]
    Wrong(String, &'static str),
}

/// Where a record was when `consume` printed it: ignored.
const IGNORED: [&str; 3] = ["topic", "partition", "offset"];

/// A header in the form of a flag.
pub(super) fn header(pair: &str) -> Result<(String, Option<Bytes>), CliError> {
    match pair.split_once('=').filter(|(name, _)| !name.is_empty()) {
        Some((name, value)) => Ok((name.to_string(), Some(Bytes::copy_from_slice(value.as_bytes())))),
        None => Err(CliError::Flag { flag: "--header", value: pair.to_string(), allowed: "NAME=VALUE" }),
    }
}

impl LineFormat {
    /// Parses a line as a record.
    pub(super) fn record(&self, line: &[u8]) -> Result<Record, LineProblem> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match self {
            LineFormat::Text { separator, headers } => {
                let (key, value) = split(line, separator.as_deref());
                Ok(Record { key, value: Some(value), headers: headers.clone(), ..Record::default() })
            }
            LineFormat::Json { headers } => from_json(line, headers.clone()),
        }
    }
}

/// Key and value of a line.
fn split(line: &[u8], separator: Option<&str>) -> (Option<Bytes>, Bytes) {
    let copy = Bytes::copy_from_slice;
    let Some(separator) = separator.map(str::as_bytes) else { return (None, copy(line)) };
    match line.windows(separator.len()).position(|at| at == separator) {
        Some(at) => (Some(copy(&line[..at])), copy(&line[at + separator.len()..])),
        None => (None, copy(line)),
    }
}

fn from_json(line: &[u8], mut headers: Headers) -> Result<Record, LineProblem> {
    let Value::Object(mut object) = serde_json::from_slice(line)? else {
        return Err(LineProblem::NotAnObject);
    };
    IGNORED.iter().for_each(|name| drop(object.remove(*name)));
    let key = take_bytes(&mut object, "key")?.flatten();
    let value = take_bytes(&mut object, "value")?;
    if let Some(own) = object.remove("headers") {
        headers.extend(headers_of(own)?);
    }
    let timestamp_ms = match object.remove("timestamp_ms") {
        None | Some(Value::Null) => None,
        Some(time) => {
            let wrong = "a whole number of milliseconds since 1970, or -1 for none";
            let time = time.as_i64().filter(|time| *time >= -1);
            Some(time.ok_or(LineProblem::Wrong("timestamp_ms".into(), wrong))?)
        }
    };
    match object.keys().next() {
        Some(unknown) => Err(LineProblem::UnknownField(unknown.clone())),
        None => {
            let value = value.ok_or(LineProblem::NoValue)?;
            Ok(Record { key, value, headers, timestamp_ms, partition: None })
        }
    }
}

/// A field that is text, hexadecimal digits under another name, or any other JSON, which stays JSON. The
/// outer `None` is a missing field, the inner one a null.
fn take_bytes(object: &mut Map<String, Value>, name: &str) -> Result<Option<Option<Bytes>>, LineProblem> {
    let hex_name = format!("{name}_hex");
    if let Some(digits) = object.remove(&hex_name) {
        let bytes = digits.as_str().and_then(hex);
        return match bytes {
            Some(bytes) => Ok(Some(Some(bytes))),
            None => Err(LineProblem::Wrong(hex_name, "pairs of hexadecimal digits")),
        };
    }
    Ok(object.remove(name).map(|value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    }))
}

fn hex(digits: &str) -> Option<Bytes> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hex = digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { digits.as_bytes().chunks(2).map(pair).collect() } else { None }
}

/// An object of names and values, or a list of `{"name", "value"}`, which allows duplicate names.
fn headers_of(value: Value) -> Result<Headers, LineProblem> {
    let wrong =
        || LineProblem::Wrong("headers".into(), "an object, or a list of {\"name\": ..., \"value\": ...}");
    let mut headers = Headers::new();
    match value {
        Value::Null => {}
        Value::Object(object) => {
            for (name, value) in object {
                let mut one = Map::from_iter([("value".to_string(), value)]);
                headers.push((name, take_bytes(&mut one, "value")?.flatten()));
            }
        }
        Value::Array(list) => {
            for header in list {
                let Value::Object(mut header) = header else { return Err(wrong()) };
                let Some(Value::String(name)) = header.remove("name") else { return Err(wrong()) };
                headers.push((name, take_bytes(&mut header, "value")?.flatten()));
            }
        }
        _ => return Err(wrong()),
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_line_is_a_value_with_a_key_in_front_of_the_separator() {
        for (line, separator, key, value) in [
            ("a\n", None, None, "a"),
            ("a:b\r\n", None, None, "a:b\r"),
            ("a:b:c\n", Some(":"), Some("a"), "b:c"),
            ("a::b", Some("::"), Some("a"), "b"),
            ("none\n", Some(":"), None, "none"),
            (":v\n", Some(":"), Some(""), "v"),
            ("\n", Some(":"), None, ""),
        ] {
            let format = LineFormat::Text { separator: separator.map(str::to_string), headers: Vec::new() };
            let record = format.record(line.as_bytes()).expect("a record");
            assert_eq!(record.key.as_ref().map(text).as_deref(), key, "{line:?}");
            assert_eq!(record.value.as_ref().map(text).as_deref(), Some(value), "{line:?}");
        }
    }

    fn json(line: &str) -> Result<Record, LineProblem> {
        LineFormat::Json { headers: Vec::new() }.record(line.as_bytes())
    }

    #[test]
    fn an_object_is_a_record_and_what_consume_prints_is_one() {
        let record = json(
            r#"{"topic":"t","partition":3,"offset":9,"timestamp_ms":7,"key":"k","value":"v","headers":[{"name":"h","value":"1"},{"name":"h","value_hex":"ff"}]}"#,
        )
        .expect("a record");
        assert_eq!((record.partition, record.timestamp_ms), (None, Some(7)));
        assert_eq!(
            record.headers,
            [("h".into(), Some(Bytes::from("1"))), ("h".into(), Some(Bytes::from_static(&[0xff])))]
        );
        let record = json(r#"{"value":{"a":[1,2]},"headers":{"x":"y","z":null}}"#).expect("a record");
        assert_eq!(record.value.as_ref().map(text).as_deref(), Some(r#"{"a":[1,2]}"#));
        assert_eq!(record.headers, [("x".into(), Some(Bytes::from("y"))), ("z".into(), None)]);
        assert_eq!(json(r#"{"key":"k","value":null}"#).expect("a record").value, None);
    }

    #[test]
    fn a_line_that_is_no_record_says_why() {
        for (line, said) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[1]", "not a JSON object"),
            (r#"{"key":"k"}"#, "no 'value'"),
            (r#"{"kye":"k"}"#, "'kye'"),
            (r#"{"value_hex":"0g"}"#, "value_hex"),
            (r#"{"value_hex":"+1"}"#, "value_hex"),
            (r#"{"value":"v","headers":3}"#, "headers"),
            (r#"{"value":"v","timestamp_ms":"now"}"#, "timestamp_ms"),
            (r#"{"value":"v","timestamp_ms":-2}"#, "or -1 for none"),
        ] {
            let error = json(line).expect_err(line).to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn a_header_has_a_name() {
        assert_eq!(header("a=b=c").expect("a header"), ("a".to_string(), Some(Bytes::from("b=c"))));
        assert!(header("=b").is_err() && header("b").is_err());
    }
}
