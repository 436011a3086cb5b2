//! `millstream consume`: prints records to standard output.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clap::Args;
use millstream_client::{
    TopicMeta,
    admin::{Admin, OffsetAt},
    consumer::{
        Chunk, ConsumedRecord, Consumer, ConsumerConfig, Event, GroupConfig, GroupConsumer, Start,
        TopicPartition,
    },
};

use super::{
    connect::{Common, Output, TopicName, group_name, runtime, separator},
    error::{CliError, Missing},
    find,
    number::number,
    printer::Printer,
    record_text::Format,
    unread_records::RecordEnd,
    when::{When, date_text},
};
use millstream::clock;
use millstream::console;

/// Without --follow: reads existing records from the beginning, and exits. With --follow: reads new records,
/// unless a start is given.
#[derive(Debug, Args)]
pub(super) struct ConsumeArgs {
    #[command(flatten)]
    topic: TopicName,
    /// Only this partition; may be given several times.
    #[arg(long, value_name = "N", value_parser = number::<i32>(0..))]
    partition: Vec<i32>,
    /// Start with the first record.
    #[arg(long, conflicts_with_all = ["offset", "since"])]
    from_beginning: bool,
    /// Start with this offset in every partition; a negative number counts from the end of each, so that -1
    /// is the last record of every partition.
    #[arg(long, value_name = "N", value_parser = number::<i64>(..), conflicts_with = "since")]
    offset: Option<i64>,
    /// Start with the first record whose timestamp is at or after this: how long ago (90s, 15m, 2h, 7d), a
    /// date in UTC (2026-01-31T18:30:00Z), or milliseconds since 1970.
    #[arg(long, value_name = "TIME", alias = "since-ms", allow_hyphen_values = true)]
    since: Option<When>,
    /// Stop after N records.
    #[arg(long, value_name = "N", visible_alias = "limit", value_parser = number::<u64>(0..))]
    max_messages: Option<u64>,
    /// Wait for more records at the end.
    #[arg(long)]
    follow: bool,
    /// Read as a member of this group: continue at its committed offsets, and commit what was read. Without
    /// --follow it exits when no record has arrived for a while.
    #[arg(long, value_name = "NAME", value_parser = group_name, conflicts_with_all = ["offset", "since", "partition"])]
    group: Option<String>,
    /// `text` (the value), `json` (one object per line, with everything; bytes that are not UTF-8 as
    /// hexadecimal digits in `key_hex` and `value_hex`), or a template like '{partition} {offset} {time}
    /// {key} {value} {headers}'.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Print the key and this text before the value.
    #[arg(long, value_name = "TEXT", value_parser = separator)]
    key_separator: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl ConsumeArgs {
    /// The print format that --output and --key-separator select.
    fn settle_format(&mut self) -> Result<(), CliError> {
        let wants_json = self.common.output == Output::Json;
        match (&self.format, self.key_separator.take()) {
            (Format::Text, None) if wants_json => self.format = Format::Json,
            (Format::Text, Some(value)) if wants_json => {
                let allowed = "not with --output json, where each record has its key";
                return Err(CliError::Flag { flag: "--key-separator", value, allowed });
            }
            (Format::Template(_), _) if wants_json => {
                let allowed = "not with a template for --format, which says what is printed";
                return Err(CliError::Flag { flag: "--output", value: "json".to_string(), allowed });
            }
            (Format::Text, Some(separator)) => self.format = Format::keyed(&separator),
            (_, None) => {}
            (_, Some(value)) => {
                let allowed = "only with --format text; the other formats have the key anyway";
                return Err(CliError::Flag { flag: "--key-separator", value, allowed });
            }
        }
        Ok(())
    }
}

/// Without --follow a group member ends after this long without a record.
const GROUP_IDLE_MAX: Duration = Duration::from_secs(5);
/// The same before it has an assignment: the group must be formed first.
const GROUP_JOIN_MAX: Duration = Duration::from_secs(30);

/// Bytes of a page, beyond which only its last record is completed.
const PAGE_BYTES: usize = 64 << 10;

/// Interval of checks whether any record is still to come, while none arrives.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Prints records until there are enough, or it is interrupted; with --follow only an interrupt ends it.
pub(super) fn run(mut args: ConsumeArgs) -> Result<(), CliError> {
    args.settle_format()?;
    let endless = args.follow && args.max_messages.is_none();
    let runtime = runtime()?;
    let done = match args.group.clone() {
        Some(group) => runtime.block_on(read_as_member(args, &group)),
        None => runtime.block_on(read(args)),
    };
    match done {
        Err(CliError::Interrupted { .. }) if endless => Ok(()),
        done => done,
    }
}

async fn read_as_member(args: ConsumeArgs, group: &str) -> Result<(), CliError> {
    let cluster = args.common.cluster();
    // A missing topic is reported at once.
    find::topic(&cluster, args.topic.name()).await?;
    let start = if args.from_beginning || !args.follow { Start::Beginning } else { Start::End };
    let config = GroupConfig { start, ..GroupConfig::new(group, [args.topic.name().to_string()]) };
    let (mut member, mut printer) = (GroupConsumer::new(cluster, config), Printer::new(true)?);
    let done = print_as_member(&args, &mut member, &mut printer).await;
    for (partition, offset) in printer.not_printed().await {
        // Other members may read it by now.
        member.seek(&partition, Start::Offset(offset));
    }
    // On every way out: what was printed is committed, and the others need not wait for this member's
    // timeout.
    let closed = printer.finish(member.close()).await;
    match done {
        Err(error) if !error.is_in_order() => Err(error),
        done => closed.map_err(CliError::from).and(done),
    }
}

async fn print_as_member(
    args: &ConsumeArgs,
    member: &mut GroupConsumer,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let mut left = Left { follow: true, messages: args.max_messages, ends: BTreeMap::new() };
    while !left.is_done() {
        // Recomputed each time: it depends on the member's current assignment.
        let idle_max = match (args.follow, member.assignment().is_empty()) {
            (true, _) => Duration::MAX,
            (false, true) => GROUP_JOIN_MAX,
            (false, false) => GROUP_IDLE_MAX,
        };
        let event = tokio::select! {
            biased;
            cut = printer.cut() => return Err(cut),
            event = tokio::time::timeout(idle_max, member.event()) => event,
        };
        let chunk = match event {
            Ok(event) => match event? {
                Event::Records(chunk) => chunk,
                _ => continue,
            },
            Err(_) => return Ok(()),
        };
        let (read_to, printed) = print(args, &chunk, &mut left, printer).await;
        member.read_up_to(&chunk.partition, read_to);
        printed?;
    }
    Ok(())
}

async fn read(args: ConsumeArgs) -> Result<(), CliError> {
    let admin = Admin::new(args.common.cluster());
    let topic = find::topic(admin.cluster(), args.topic.name()).await?;
    let partitions = chosen(&topic, &args.partition)?;
    let begin = bounds(&admin, &partitions, OffsetAt::Earliest).await?;
    let end = bounds(&admin, &partitions, OffsetAt::Latest).await?;
    let since_ms = args.since.map(|since| since.resolve(clock::now_ms()));
    let since = match since_ms {
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
    if let Some(why) = nothing_there(&args, since_ms, &starts, &end) {
        console::note(format_args!("{why}{}", if args.follow { "; waiting for what comes" } else { "" }));
    }
    let mut printer = Printer::new(false)?;
    let mut consumer = Consumer::new(admin.cluster().clone(), ConsumerConfig::default());
    let mut left = Left::new(&args, &starts, &end);
    consumer.assign(starts.into_iter().map(|(partition, offset)| (partition, Start::Offset(offset))));
    while !left.is_done() {
        let chunk = tokio::select! {
            biased;
            cut = printer.cut() => return Err(cut),
            chunk = tokio::time::timeout(LOOK_EVERY, consumer.next()) => chunk,
        };
        let Ok(chunk) = chunk else {
            // The end offset was read at the start, but its records may have been removed since.
            left.ends.retain(|partition, _| !consumer.is_drained(partition));
            continue;
        };
        print(&args, &chunk?, &mut left, &mut printer).await.1?;
    }
    Ok(())
}

/// The selected partitions; all if none is selected.
pub(super) fn chosen(topic: &TopicMeta, only: &[i32]) -> Result<Vec<TopicPartition>, CliError> {
    let name: Arc<str> = topic.name.as_str().into();
    let all: Vec<i32> = topic.partitions.iter().map(|p| p.index).collect();
    if let Some(partition) = only.iter().find(|wanted| !all.contains(wanted)) {
        let (topic, partitions, partition) = (topic.name.to_string(), all.len(), *partition);
        return Err(CliError::Missing(Missing::Partition { topic, partitions, partition }));
    }
    let chosen = all.into_iter().filter(|index| only.is_empty() || only.contains(index));
    Ok(chosen.map(|partition| TopicPartition { topic: name.clone(), partition }).collect())
}

/// This offset of every partition, 0 if unknown.
pub(super) async fn bounds(
    admin: &Admin,
    partitions: &[TopicPartition],
    at: OffsetAt,
) -> Result<BTreeMap<TopicPartition, i64>, CliError> {
    let mut bounds: BTreeMap<_, _> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    bounds.extend(found(admin, partitions, at).await?);
    Ok(bounds)
}

/// Offsets of partitions that have such a record.
pub(super) async fn found(
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

/// The start offset. `since` is that of the first record that is late enough, if there is one.
fn start(args: &ConsumeArgs, begin: i64, end: i64, since: Option<i64>) -> i64 {
    match args.offset {
        _ if args.since.is_some() => since.unwrap_or(end),
        Some(offset @ 0..) => offset.clamp(begin, end),
        Some(back) => (end + back).max(begin),
        None if args.from_beginning || !args.follow => begin,
        None => end,
    }
}

/// Why there is nothing to read at the start offset.
fn nothing_there(
    args: &ConsumeArgs,
    since_ms: Option<i64>,
    starts: &BTreeMap<TopicPartition, i64>,
    end: &BTreeMap<TopicPartition, i64>,
) -> Option<String> {
    if starts.iter().any(|(partition, start)| *start < end[partition]) {
        return None;
    }
    let topic = args.topic.name();
    match (since_ms, args.offset) {
        (Some(ms), _) => {
            Some(format!("topic '{topic}' has no record with a timestamp at or after {}", date_text(ms)))
        }
        (None, Some(offset @ 0..)) => {
            let last = end.values().max().copied().unwrap_or(0);
            Some(format!("topic '{topic}' has nothing from offset {offset} on: it ends at {last}"))
        }
        _ => None,
    }
}

/// What is left to read.
struct Left {
    follow: bool,
    messages: Option<u64>,
    /// Partitions whose end, as of the start, has not been reached.
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

    /// Whether another record is wanted.
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

/// Prints the wanted records of a chunk. Returns, even on an error, the next offset: everything before it was
/// printed.
async fn print(
    args: &ConsumeArgs,
    chunk: &Chunk,
    left: &mut Left,
    printer: &mut Printer,
) -> (i64, Result<(), CliError>) {
    let mut printed_to = chunk.records.first().map_or(chunk.next_offset, |record| record.offset);
    let mut rest = Some(chunk.records.as_slice());
    while let Some(records) = rest {
        let page = Page::of(args, chunk, records, left);
        if let Err(error) = printer.print(&chunk.partition, page.text, page.ends).await {
            return (printed_to, Err(error));
        }
        (printed_to, rest) = (page.next_offset, page.rest);
    }
    (printed_to, Ok(()))
}

/// Records ready to print.
struct Page<'a> {
    text: Vec<u8>,
    ends: Vec<RecordEnd>,
    /// The next offset after printing.
    next_offset: i64,
    /// Records of the chunk that do not fit.
    rest: Option<&'a [ConsumedRecord]>,
}

impl<'a> Page<'a> {
    fn of(args: &ConsumeArgs, chunk: &Chunk, records: &'a [ConsumedRecord], left: &mut Left) -> Page<'a> {
        let mut page =
            Page { text: Vec::new(), ends: Vec::new(), next_offset: chunk.next_offset, rest: None };
        for (at, record) in records.iter().enumerate() {
            let full = page.text.len() >= PAGE_BYTES;
            if full || !left.take_one(&chunk.partition, record.offset) {
                page.next_offset = record.offset;
                page.rest = full.then(|| &records[at..]);
                break;
            }
            args.format.write(&chunk.partition, record, &mut page.text);
            page.ends.push(RecordEnd { at: page.text.len(), offset: record.offset });
        }
        left.reached(&chunk.partition, page.next_offset);
        page
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn args(words: &[&str]) -> ConsumeArgs {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            args: ConsumeArgs,
        }
        <Program as clap::Parser>::parse_from(["consume", "a"].iter().chain(words)).args
    }

    #[test]
    fn a_chunk_is_printed_in_pages_that_say_how_far_they_go() {
        let partition = TopicPartition { topic: "a".into(), partition: 0 };
        let value = Bytes::from(vec![b'x'; PAGE_BYTES / 2]);
        let record = |offset| ConsumedRecord {
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(value.clone()),
            headers: vec![],
        };
        let records = [3, 4, 7, 8, 9].map(record).to_vec();
        let chunk = Chunk { partition, records, next_offset: 12 };
        let pages = |args: &ConsumeArgs| {
            let mut left = Left { follow: true, messages: args.max_messages, ends: BTreeMap::new() };
            let (mut pages, mut rest) = (Vec::new(), Some(chunk.records.as_slice()));
            while let Some(records) = rest {
                let page = Page::of(args, &chunk, records, &mut left);
                assert_eq!(page.ends.last().map_or(0, |end| end.at), page.text.len());
                pages.push((page.ends.len(), page.text.len(), page.next_offset));
                rest = page.rest;
            }
            pages
        };
        let (two, one) = (PAGE_BYTES + 2, PAGE_BYTES / 2 + 1);
        assert_eq!(pages(&args(&[])), [(2, two, 7), (2, two, 9), (1, one, 12)]);
        assert_eq!(pages(&args(&["--limit", "3"])), [(2, two, 7), (1, one, 8)]);
        assert_eq!(pages(&args(&["--limit", "2"])), [(2, two, 7), (0, 0, 7)]);
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
