//! `millstream group reset`: resets a group's offsets.

use std::collections::BTreeMap;

use clap::Args;
use millstream_client::{
    admin::{Admin, OffsetAt},
    consumer::TopicPartition,
};
use serde_json::json;

use super::{
    candidates,
    connect::{Output, group_name},
    consume::{bounds, chosen, found},
    error::CliError,
    find,
    group::{existing, refused},
    number::number,
    output::Out,
    when::When,
};
use millstream::clock;
use millstream::console;

/// Advice for a missing group.
const MAKE: &str = "`millstream group list` shows what there is, --create makes it";

/// Which group goes where.
#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// Group name.
    #[arg(value_parser = group_name)]
    name: String,
    /// Topic name.
    #[arg(long, value_name = "NAME", add = candidates::topics())]
    topic: String,
    /// Only this partition; may be given several times.
    #[arg(long, value_name = "N", value_parser = number::<i32>(0..))]
    partition: Vec<i32>,
    #[command(flatten)]
    to: Target,
    /// Create the group if it does not exist.
    #[arg(long)]
    create: bool,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
}

/// One of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the first record.
    #[arg(long)]
    to_earliest: bool,
    /// After the last record.
    #[arg(long)]
    to_latest: bool,
    /// To this offset, limited to the partition's range.
    #[arg(long, value_name = "OFFSET", value_parser = number::<i64>(0..))]
    to_offset: Option<i64>,
    /// By N records forwards or (negative) backwards from the committed offset; without one, from the first
    /// record.
    #[arg(long, value_name = "N", value_parser = number::<i64>(..))]
    by: Option<i64>,
    /// To the first record whose timestamp is at or after this; see `consume --since`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<When>,
}

/// A partition's position, before and after.
struct Move {
    partition: TopicPartition,
    from: Option<i64>,
    to: i64,
}

/// Resets the offsets, or shows the changes.
pub(super) async fn reset(
    admin: &Admin,
    args: &ResetArgs,
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    if !args.create && existing(admin, &args.name).await?.is_none() {
        return Err(find::missing_group(admin, &args.name, MAKE).await);
    }
    let moves = moves(admin, args).await?;
    if !args.dry_run {
        let offsets: BTreeMap<TopicPartition, i64> =
            moves.iter().map(|one| (one.partition.clone(), one.to)).collect();
        if let Err(error) = admin.set_group_offsets(&args.name, &offsets).await {
            return Err(refused(admin, &args.name, error).await);
        }
    }
    match output {
        Output::Json => {
            let offsets = moves.iter().map(|one| {
                json!({
                    "topic": &*one.partition.topic,
                    "partition": one.partition.partition,
                    "from": one.from,
                    "to": one.to,
                })
            });
            out.json(&json!({
                "group": args.name,
                "result": if args.dry_run { "could be reset" } else { "reset" },
                "offsets": offsets.collect::<Vec<_>>(),
            }))
        }
        Output::Table => {
            let row = |one: &Move| {
                let from = one.from.map_or_else(|| "-".to_string(), |offset| offset.to_string());
                vec![
                    one.partition.topic.to_string(),
                    one.partition.partition.to_string(),
                    from,
                    one.to.to_string(),
                ]
            };
            out.table(&["TOPIC", "PARTITION", "FROM", "TO"], &moves.iter().map(row).collect::<Vec<_>>())?;
            if args.dry_run {
                console::note(format_args!("nothing was changed; without --dry-run it would be"));
            }
            Ok(())
        }
    }
}

async fn moves(admin: &Admin, args: &ResetArgs) -> Result<Vec<Move>, CliError> {
    let topic = find::topic(admin.cluster(), &args.topic).await?;
    let partitions = chosen(&topic, &args.partition)?;
    let committed = admin.group_offsets(&args.name).await?;
    let begins = bounds(admin, &partitions, OffsetAt::Earliest).await?;
    let ends = bounds(admin, &partitions, OffsetAt::Latest).await?;
    let since = match args.to.since.map(|since| since.resolve(clock::now_ms())) {
        Some(time) => found(admin, &partitions, OffsetAt::Time(time)).await?,
        None => BTreeMap::new(),
    };
    let one = |partition: TopicPartition| {
        let from = committed.get(&partition).copied();
        let (begin, end) = (begins[&partition], ends[&partition]);
        let to = args.to.place(from, begin, end, since.get(&partition).copied());
        Move { partition, from, to }
    };
    Ok(partitions.into_iter().map(one).collect())
}

impl Target {
    /// The new offset. `since` is that of the first record that is late enough, if there is one.
    fn place(&self, from: Option<i64>, begin: i64, end: i64, since: Option<i64>) -> i64 {
        if self.to_earliest {
            begin
        } else if self.to_latest {
            end
        } else if let Some(offset) = self.to_offset {
            offset.clamp(begin, end)
        } else if let Some(by) = self.by {
            // Without a committed offset a group starts at the first record.
            from.unwrap_or(begin).saturating_add(by).clamp(begin, end)
        } else {
            since.unwrap_or(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_never_moved_to_where_nothing_is() {
        let target =
            |to_offset, by| Target { to_earliest: false, to_latest: false, to_offset, by, since: None };
        assert_eq!(target(Some(3), None).place(None, 5, 10, None), 5);
        assert_eq!(target(Some(30), None).place(None, 5, 10, None), 10);
        assert_eq!(target(None, Some(-2)).place(Some(9), 5, 10, None), 7);
        assert_eq!(target(None, Some(-9)).place(Some(9), 5, 10, None), 5);
        assert_eq!(target(None, Some(2)).place(None, 5, 10, None), 7);
        assert_eq!(target(None, None).place(Some(9), 5, 10, Some(6)), 6);
        assert_eq!(target(None, None).place(Some(9), 5, 10, None), 10);
    }
}
