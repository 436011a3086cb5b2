//! `millstream consume`: records on standard output.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use millstream_client::{
    TopicMeta,
    admin::{Admin, OffsetAt},
    consumer::{
        Chunk, ConsumedRecord, Consumer, ConsumerConfig, GroupConfig, GroupConsumer, Start, TopicPartition,
    },
};
use serde_json::{Value, json};

use super::{
    connect::{Common, runtime},
    error::{CliError, Missing},
    output::Out,
};

/// The shape of records.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// The value, and what --key-separator asks for.
    Text,
    /// One JSON object in a line; bytes that are not UTF-8 come as hexadecimal digits in `key_hex` and `value_hex`.
    Json,
}

/// Without --follow: what there is, from the beginning, and then it ends. With --follow: what is written from now on,
/// unless another beginning is given.
#[derive(Debug, Args)]
pub(super) struct ConsumeArgs {
    /// The topic.
    #[arg(long, value_name = "NAME")]
    topic: String,
    /// Only this partition.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Begin with the first record that there is.
    #[arg(long, conflicts_with_all = ["offset", "since_ms"])]
    from_beginning: bool,
    /// Begin with this offset; a negative number counts from the end.
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "since_ms")]
    offset: Option<i64>,
    /// Begin with the first record whose timestamp is at or after this, in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    since_ms: Option<i64>,
    /// End after so many records.
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Wait for more at the end.
    #[arg(long)]
    follow: bool,
    /// Read as a member of this group: go on where the group was, and note what was read. Without --follow it ends when
    /// nothing came for a while.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["offset", "since_ms", "partition"])]
    group: Option<String>,
    /// The shape of records.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Print the key and this text in front of the value.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Without --follow a member of a group ends after so long without a record.
const GROUP_IDLE_MAX: Duration = Duration::from_secs(5);
/// The same before it has anything to read: the group must be formed first.
const GROUP_JOIN_MAX: Duration = Duration::from_secs(30);

/// While nothing comes it is looked so often whether there is anything left to come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Prints records until it is told to end.
pub(super) fn run(args: ConsumeArgs) -> Result<(), CliError> {
    let runtime = runtime()?;
    match args.group.clone() {
        Some(group) => runtime.block_on(read_as_member(args, &group)),
        None => runtime.block_on(read(args)),
    }
}

async fn read_as_member(args: ConsumeArgs, group: &str) -> Result<(), CliError> {
    let cluster = args.common.cluster();
    // A topic that is not there is told at once, not waited for.
    cluster.topic(&args.topic, false).await?;
    let start = if args.from_beginning || !args.follow { Start::Beginning } else { Start::End };
    let config = GroupConfig { start, ..GroupConfig::new(group, [args.topic.clone()]) };
    let mut member = GroupConsumer::new(cluster, config);
    let mut left = Left { follow: true, messages: args.max_messages, ends: BTreeMap::new() };
    let mut out = Out::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while !left.is_done() {
        let idle_max = match (args.follow, member.assignment().is_empty()) {
            (true, _) => Duration::MAX,
            (false, true) => GROUP_JOIN_MAX,
            (false, false) => GROUP_IDLE_MAX,
        };
        tokio::select! {
            chunk = next_shown(&mut member, &mut out, idle_max) => match chunk? {
                Some(chunk) => {
                    let next_offset = print(&args, &chunk, &mut left, &mut out)?;
                    member.read_up_to(&chunk.partition, next_offset);
                }
                None => break,
            },
            _ = &mut interrupted => break,
        }
    }
    out.flush()?;
    Ok(member.close().await?)
}

/// The next records; what is gathered is shown before waiting for them.
async fn next_shown(
    member: &mut GroupConsumer,
    out: &mut Out,
    idle_max: Duration,
) -> Result<Option<Chunk>, CliError> {
    if let Ok(chunk) = tokio::time::timeout(Duration::ZERO, member.next()).await {
        return Ok(Some(chunk?));
    }
    out.flush()?;
    match tokio::time::timeout(idle_max, member.next()).await {
        Ok(chunk) => Ok(Some(chunk?)),
        Err(_) => Ok(None),
    }
}

async fn read(args: ConsumeArgs) -> Result<(), CliError> {
    let admin = Admin::new(args.common.cluster());
    let topic = admin.cluster().topic(&args.topic, false).await?;
    let partitions = chosen(&topic, args.partition)?;
    let begin = bounds(&admin, &partitions, OffsetAt::Earliest).await?;
    let end = bounds(&admin, &partitions, OffsetAt::Latest).await?;
    let since = match args.since_ms {
        Some(time) => found(&admin, &partitions, OffsetAt::Time(time)).await?,
        None => BTreeMap::new(),
    };
    let starts: BTreeMap<TopicPartition, i64> = partitions
        .iter()
        .map(|partition| {
            let (begin, end) = (begin[partition], end[partition]);
            (partition.clone(), start(&args, begin, end, since.get(partition).copied()))
        })
        .collect();
    let mut consumer = Consumer::new(admin.cluster().clone(), ConsumerConfig::default());
    let mut left = Left::new(&args, &starts, &end);
    consumer.assign(starts.into_iter().map(|(partition, offset)| (partition, Start::Offset(offset))));
    let mut out = Out::new();
    while !left.is_done() {
        // What is gathered is shown before waiting for more.
        let chunk = match tokio::time::timeout(Duration::ZERO, consumer.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => {
                out.flush()?;
                match tokio::time::timeout(LOOK_EVERY, consumer.next()).await {
                    Ok(chunk) => chunk?,
                    Err(_) => {
                        // The end was there when it was asked for, but its records may be gone by now.
                        left.ends.retain(|partition, _| !consumer.is_drained(partition));
                        continue;
                    }
                }
            }
        };
        print(&args, &chunk, &mut left, &mut out)?;
    }
    out.flush()
}

fn chosen(topic: &TopicMeta, only: Option<i32>) -> Result<Vec<TopicPartition>, CliError> {
    let name: Arc<str> = topic.name.as_str().into();
    let all = topic.partitions.iter().map(|p| p.index).filter(|index| only.is_none_or(|only| only == *index));
    let chosen: Vec<_> = all.map(|partition| TopicPartition { topic: name.clone(), partition }).collect();
    match (chosen.is_empty(), only) {
        (true, Some(partition)) => {
            let (topic, partitions) = (topic.name.clone(), topic.partitions.len());
            Err(CliError::Missing(Missing::Partition { topic, partitions, partition }))
        }
        _ => Ok(chosen),
    }
}

async fn bounds(
    admin: &Admin,
    partitions: &[TopicPartition],
    at: OffsetAt,
) -> Result<BTreeMap<TopicPartition, i64>, CliError> {
    let mut bounds: BTreeMap<_, _> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    bounds.extend(found(admin, partitions, at).await?);
    Ok(bounds)
}

/// Offsets of partitions that have such a record.
async fn found(
    admin: &Admin,
    partitions: &[TopicPartition],
    at: OffsetAt,
) -> Result<BTreeMap<TopicPartition, i64>, CliError> {
    let mut found = BTreeMap::new();
    for (partition, answer) in admin.offsets(partitions.to_vec(), at).await {
        if let Some(one) = answer? {
            found.insert(partition, one.offset);
        }
    }
    Ok(found)
}

/// The offset to begin with. `since` is that of the first record which is late enough, if there is one.
fn start(args: &ConsumeArgs, begin: i64, end: i64, since: Option<i64>) -> i64 {
    match args.offset {
        _ if args.since_ms.is_some() => since.unwrap_or(end),
        Some(offset @ 0..) => offset.clamp(begin, end),
        Some(back) => (end + back).max(begin),
        None if args.from_beginning || !args.follow => begin,
        None => end,
    }
}

/// What is still to be read.
struct Left {
    follow: bool,
    messages: Option<u64>,
    /// Partitions whose end, as it was at the start, is not reached.
    ends: BTreeMap<TopicPartition, i64>,
}

impl Left {
    fn new(
        args: &ConsumeArgs,
        starts: &BTreeMap<TopicPartition, i64>,
        end: &BTreeMap<TopicPartition, i64>,
    ) -> Left {
        let is_open =
            |partition: &TopicPartition, end: i64| starts.get(partition).is_some_and(|start| *start < end);
        let ends = end.iter().filter(|(partition, end)| is_open(partition, **end));
        let ends = ends.map(|(partition, end)| (partition.clone(), *end)).collect();
        Left { follow: args.follow, messages: args.max_messages, ends }
    }

    fn is_done(&self) -> bool {
        self.messages == Some(0) || (!self.follow && self.ends.is_empty())
    }

    /// Whether one more record is wanted.
    fn take_one(&mut self, partition: &TopicPartition, offset: i64) -> bool {
        if !self.follow && self.ends.get(partition).is_none_or(|end| offset >= *end) {
            return false;
        }
        match &mut self.messages {
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
            None => true,
        }
    }

    fn reached(&mut self, partition: &TopicPartition, next_offset: i64) {
        if self.ends.get(partition).is_some_and(|end| next_offset >= *end) {
            self.ends.remove(partition);
        }
    }
}

/// Prints what is wanted of a chunk, and gives the offset to go on with.
fn print(args: &ConsumeArgs, chunk: &Chunk, left: &mut Left, out: &mut Out) -> Result<i64, CliError> {
    for record in &chunk.records {
        if !left.take_one(&chunk.partition, record.offset) {
            left.reached(&chunk.partition, record.offset);
            return Ok(record.offset);
        }
        match args.format {
            Format::Json => out.json(&record_json(&chunk.partition, record))?,
            Format::Text => {
                if let Some(separator) = &args.key_separator {
                    out.bytes(record.key.as_deref().unwrap_or_default())?;
                    out.bytes(separator.as_bytes())?;
                }
                out.bytes(record.value.as_deref().unwrap_or_default())?;
                out.bytes(b"\n")?;
            }
        }
    }
    left.reached(&chunk.partition, chunk.next_offset);
    Ok(chunk.next_offset)
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

/// Text as text, other bytes as digits under another name.
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
    fn reading_ends_where_the_end_was_or_after_enough_records() {
        let place = TopicPartition { topic: "a".into(), partition: 0 };
        let ends = BTreeMap::from([(place.clone(), 10)]);
        let mut left = Left { follow: false, messages: None, ends: ends.clone() };
        assert!(left.take_one(&place, 9) && !left.take_one(&place, 10));
        left.reached(&place, 9);
        assert!(!left.is_done());
        left.reached(&place, 10);
        assert!(left.is_done());
        let mut left = Left { follow: true, messages: Some(1), ends };
        assert!(left.take_one(&place, 50) && !left.take_one(&place, 51) && left.is_done());
    }
}
