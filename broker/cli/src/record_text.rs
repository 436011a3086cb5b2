//! Records as text: values, JSON, or by a template.

use std::str::FromStr;

use bytes::Bytes;
use millstream_client::consumer::{ConsumedRecord, TopicPartition};
use serde_json::{Value, json};

use super::when::date_text;

/// The format of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The value, followed by a line feed.
    Text,
    /// One JSON object per line.
    Json,
    /// The pieces of a template.
    Template(Vec<Piece>),
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Topic,
    Partition,
    Offset,
    TimestampMs,
    Time,
    Key,
    Value,
    Headers,
}

/// A template with an unknown field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a format is text, json, or a template with {{topic}}, {{partition}}, {{offset}}, {{timestamp_ms}}, {{time}}, {{key}}, {{value}}, {{headers}}; \\n and \\t are a new line and a tab"
)]
pub(super) struct NotAFormat;

impl FromStr for Format {
    type Err = NotAFormat;

    fn from_str(text: &str) -> Result<Format, NotAFormat> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            template if template.contains('{') => pieces(template).map(Format::Template),
            _ => Err(NotAFormat),
        }
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, NotAFormat> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, behind)) = rest.split_once('{') {
        if !text.is_empty() {
            pieces.push(Piece::Text(unescaped(text)));
        }
        let (name, behind) = behind.split_once('}').ok_or(NotAFormat)?;
        pieces.push(match name {
            "topic" => Piece::Topic,
            "partition" => Piece::Partition,
            "offset" => Piece::Offset,
            "timestamp_ms" => Piece::TimestampMs,
            "time" => Piece::Time,
            "key" => Piece::Key,
            "value" => Piece::Value,
            "headers" => Piece::Headers,
            _ => return Err(NotAFormat),
        });
        rest = behind;
    }
    pieces.push(Piece::Text(format!("{}\n", unescaped(rest))));
    Ok(pieces)
}

fn unescaped(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

impl Format {
    /// The key, a separator, and the value.
    pub(super) fn keyed(separator: &str) -> Format {
        let text = |text: &str| Piece::Text(text.to_string());
        Format::Template(vec![Piece::Key, text(separator), Piece::Value, text("\n")])
    }

    /// Appends a record to a page.
    pub(super) fn write(&self, partition: &TopicPartition, record: &ConsumedRecord, page: &mut Vec<u8>) {
        match self {
            Format::Json => {
                page.extend_from_slice(record_json(partition, record).to_string().as_bytes());
                page.push(b'\n');
            }
            Format::Text => {
                page.extend_from_slice(record.value.as_deref().unwrap_or_default());
                page.push(b'\n');
            }
            Format::Template(pieces) => pieces.iter().for_each(|piece| piece.write(partition, record, page)),
        }
    }
}

impl Piece {
    fn write(&self, partition: &TopicPartition, record: &ConsumedRecord, page: &mut Vec<u8>) {
        let mut add = |bytes: &[u8]| page.extend_from_slice(bytes);
        match self {
            Piece::Text(text) => add(text.as_bytes()),
            Piece::Topic => add(partition.topic.as_bytes()),
            Piece::Partition => add(partition.partition.to_string().as_bytes()),
            Piece::Offset => add(record.offset.to_string().as_bytes()),
            Piece::TimestampMs => add(record.timestamp_ms.to_string().as_bytes()),
            Piece::Time if record.timestamp_ms < 0 => add(b"-"),
            Piece::Time => add(date_text(record.timestamp_ms).as_bytes()),
            Piece::Key => add(record.key.as_deref().unwrap_or_default()),
            Piece::Value => add(record.value.as_deref().unwrap_or_default()),
            Piece::Headers => {
                let header = |(name, value): &(String, Option<Bytes>)| {
                    format!("{name}={}", String::from_utf8_lossy(value.as_deref().unwrap_or_default()))
                };
                add(record.headers.iter().map(header).collect::<Vec<_>>().join(",").as_bytes());
            }
        }
    }
}

fn record_json(partition: &TopicPartition, record: &ConsumedRecord) -> Value {
    let mut object = json!({
        "topic": &*partition.topic,
        "partition": partition.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
    });
    put(&mut object, "key", record.key.as_ref());
    put(&mut object, "value", record.value.as_ref());
    let headers = record.headers.iter().map(|(name, value)| {
        let mut header = json!({ "name": name });
        put(&mut header, "value", value.as_ref());
        header
    });
    object["headers"] = headers.collect();
    object
}

/// Text as text, other bytes as hexadecimal digits under another name.
fn put(object: &mut Value, name: &str, bytes: Option<&Bytes>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => object[name] = Value::Null,
        Some(Ok(text)) => object[name] = text.into(),
        Some(Err(bytes)) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object[format!("{name}_hex")] = digits.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &'static [u8]) -> ConsumedRecord {
        ConsumedRecord {
            offset: 3,
            timestamp_ms: 9,
            key: None,
            value: Some(Bytes::from_static(value)),
            headers: vec![("h".to_string(), Some(Bytes::from_static(b"x")))],
        }
    }

    #[test]
    fn bytes_that_are_not_text_come_as_digits() {
        let partition = TopicPartition { topic: "a".into(), partition: 1 };
        let text = record_json(&partition, &record(b"v"));
        assert_eq!((&text["value"], &text["key"]), (&json!("v"), &Value::Null));
        assert_eq!(text["headers"], json!([{ "name": "h", "value": "x" }]));
        let bytes = record_json(&partition, &record(&[0xff, 0x01]));
        assert_eq!((&bytes["value_hex"], bytes.get("value")), (&json!("ff01"), None));
    }

    #[test]
    fn a_template_is_filled_in() {
        let format: Format =
            r"{topic}-{partition}@{offset}\t{time} [{key}] {value} {headers}".parse().expect("a format");
        let (partition, mut line) = (TopicPartition { topic: "a".into(), partition: 1 }, Vec::new());
        format.write(&partition, &record(b"v"), &mut line);
        assert_eq!(line, b"a-1@3\t1970-01-01T00:00:00.009Z [] v h=x\n");
    }

    #[test]
    fn what_is_no_format_is_refused() {
        for wrong in ["", "xml", "{nothing}", "{value"] {
            assert_eq!(wrong.parse::<Format>(), Err(NotAFormat), "{wrong}");
        }
        assert_eq!("json".parse(), Ok(Format::Json));
    }
}
