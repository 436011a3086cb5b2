//! `millstream group`: shows consumer groups and their lag, resets and deletes them.

use clap::{Args, Subcommand};
use millstream_client::{
    ClientError, ErrorCode,
    admin::{Admin, GroupDescription},
};
use serde_json::json;

use super::{
    connect::{Common, Output, group_name, runtime},
    each::each,
    error::CliError,
    find::{self, LOOK_AT_GROUPS},
    group_reset::{self, ResetArgs},
    lag::{Reading, readings},
    output::{Out, counted},
    when::lasting,
};
use millstream::clock;
use millstream::console;

/// Kafka's name of the state of a missing group.
const DEAD: &str = "Dead";

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List groups.
    List,
    /// Describe a group with its members, committed offsets, and lag.
    ///
    /// LAG is the number of unread records. BEHIND is the age of the oldest of them: now minus its timestamp;
    /// it grows while there is no reader, and is zero when nothing is left. All partitions of each topic that
    /// the group reads are shown. Without a committed offset the position is unknown: LAG is `-`, and the
    /// first line says how many partitions its numbers do not include.
    Describe {
        /// Group name.
        #[arg(value_parser = group_name)]
        name: String,
    },
    /// Reset the offsets of a group without members in a topic.
    ///
    /// A group that does not exist is refused, because its name is probably mistyped; --create creates it.
    Reset(ResetArgs),
    /// Delete groups without members, with their committed offsets.
    ///
    /// If one of several names fails, the others are still processed, and the exit code is 1.
    Delete {
        /// Group names.
        #[arg(required = true, value_parser = group_name)]
        names: Vec<String>,
    },
}

/// Runs the command.
pub(super) fn run(args: GroupArgs) -> Result<(), CliError> {
    let (admin, output) = (Admin::new(args.common.cluster()), args.common.output);
    runtime()?.block_on(async move {
        let mut out = Out::new();
        match args.command {
            GroupCommand::List => list(&admin, output, &mut out).await?,
            GroupCommand::Describe { name } => describe(&admin, &name, output, &mut out).await?,
            GroupCommand::Reset(args) => group_reset::reset(&admin, &args, output, &mut out).await?,
            GroupCommand::Delete { names } => {
                each(&names, "group", async |name| match (admin.delete_group(name).await, output) {
                    (Ok(()), Output::Table) => out.line(&format!("group '{name}' deleted")),
                    (Ok(()), Output::Json) => out.json(&json!({ "group": name, "result": "deleted" })),
                    (Err(error), _) => Err(refused(&admin, name, error).await),
                })
                .await?;
            }
        }
        out.flush()
    })
}

/// Reports a group that cannot be changed because it has members, or does not exist.
pub(super) async fn refused(admin: &Admin, group: &str, error: ClientError) -> CliError {
    match error.code() {
        Some(
            ErrorCode::NON_EMPTY_GROUP | ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::REBALANCE_IN_PROGRESS,
        ) => CliError::GroupBusy { group: group.to_string() },
        Some(ErrorCode::GROUP_ID_NOT_FOUND) => find::missing_group(admin, group, LOOK_AT_GROUPS).await,
        _ => CliError::Client(error),
    }
}

async fn list(admin: &Admin, output: Output, out: &mut Out) -> Result<(), CliError> {
    let groups = admin.groups().await?;
    match output {
        Output::Json => {
            let all = groups.iter().map(|group| {
                json!({ "name": group.name, "protocol_type": group.protocol_type, "state": group.state })
            });
            out.json(&all.collect::<Vec<_>>())
        }
        Output::Table if groups.is_empty() => {
            console::note(format_args!(
                "there are no groups; `millstream consume TOPIC --group NAME` makes one"
            ));
            Ok(())
        }
        Output::Table => {
            let rows: Vec<Vec<String>> =
                groups.into_iter().map(|group| vec![group.name, group.state, group.protocol_type]).collect();
            out.table(&["GROUP", "STATE", "TYPE"], &rows)
        }
    }
}

async fn describe(admin: &Admin, name: &str, output: Output, out: &mut Out) -> Result<(), CliError> {
    let Some(group) = existing(admin, name).await? else {
        return Err(find::missing_group(admin, name, LOOK_AT_GROUPS).await);
    };
    let readings = readings(admin, &group).await?;
    match output {
        Output::Json => describe_json(&group, &readings, out),
        Output::Table => describe_table(&group, &readings, out),
    }
}

/// The group, if it exists.
pub(super) async fn existing(admin: &Admin, name: &str) -> Result<Option<GroupDescription>, ClientError> {
    match admin.describe_group(name).await {
        // Kafka describes a missing group as dead, and also groups with committed offsets only.
        Ok(group) if group.state == DEAD && admin.group_offsets(name).await?.is_empty() => Ok(None),
        Err(error) if error.code() == Some(ErrorCode::GROUP_ID_NOT_FOUND) => Ok(None),
        described => described.map(Some),
    }
}

fn in_seconds(ms: Option<i64>) -> Option<f64> {
    ms.map(|ms| ms as f64 / 1_000.0)
}

fn describe_json(group: &GroupDescription, readings: &[Reading], out: &mut Out) -> Result<(), CliError> {
    let now_ms = clock::now_ms();
    let members = group.members.iter().map(|member| {
        let assignment =
            member.assignment.iter().map(|p| json!({ "topic": &*p.topic, "partition": p.partition }));
        json!({
            "id": member.id,
            "client_id": member.client_id,
            "host": member.host,
            "assignment": assignment.collect::<Vec<_>>(),
        })
    });
    let offsets = readings.iter().map(|reading| {
        json!({
            "topic": &*reading.partition.topic,
            "partition": reading.partition.partition,
            "offset": reading.committed,
            "log_start_offset": reading.begin,
            "end_offset": reading.end,
            "lag_records": reading.records(),
            "lag_seconds": in_seconds(reading.age_ms(now_ms)),
            "member": reading.member,
        })
    });
    out.json(&json!({
        "name": group.name,
        "state": group.state,
        "protocol_type": group.protocol_type,
        "protocol": group.protocol,
        "members": members.collect::<Vec<_>>(),
        "lag_records": readings.iter().filter_map(Reading::records).sum::<i64>(),
        "lag_seconds": in_seconds(oldest_ms(readings, now_ms)),
        "uncounted_partitions": readings.iter().filter(|reading| reading.records().is_none()).count(),
        "offsets": offsets.collect::<Vec<_>>(),
    }))
}

fn describe_table(group: &GroupDescription, readings: &[Reading], out: &mut Out) -> Result<(), CliError> {
    let now_ms = clock::now_ms();
    out.line(&headline(group, readings, now_ms))?;
    if readings.is_empty() {
        return Ok(());
    }
    let known = |n: Option<i64>| n.map_or_else(|| "-".to_string(), |n| n.to_string());
    let row = |reading: &Reading| {
        vec![
            reading.partition.topic.to_string(),
            reading.partition.partition.to_string(),
            known(reading.committed),
            known(reading.end),
            known(reading.records()),
            reading.age_ms(now_ms).map_or_else(|| "-".to_string(), lasting),
            reading.member.clone().unwrap_or_else(|| "-".to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = readings.iter().map(row).collect();
    out.line("")?;
    out.table(&["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "BEHIND", "MEMBER"], &rows)
}

/// A one-line summary.
fn headline(group: &GroupDescription, readings: &[Reading], now_ms: i64) -> String {
    let (name, state, members) = (&group.name, &group.state, group.members.len());
    let lag: i64 = readings.iter().filter_map(Reading::records).sum();
    let behind = match oldest_ms(readings, now_ms) {
        Some(ms) if lag > 0 => format!(", the oldest {} old", lasting(ms)),
        _ => String::new(),
    };
    let (members, records) = (counted(members, "member"), counted(lag, "record"));
    format!("group '{name}' is {state}: {members}, {records} to read{behind}{}", uncounted(readings))
}

/// Age of the oldest unread record; `None` if unknown, as for a group that has committed nothing yet.
fn oldest_ms(readings: &[Reading], now_ms: i64) -> Option<i64> {
    let committed: Vec<&Reading> = readings.iter().filter(|reading| reading.committed.is_some()).collect();
    match committed.is_empty() {
        true => readings.iter().all(|reading| reading.records() == Some(0)).then_some(0),
        false => committed.iter().filter_map(|reading| reading.age_ms(now_ms)).max(),
    }
}

/// What the numbers do not include, with the reason.
fn uncounted(readings: &[Reading]) -> String {
    let unknown = readings.iter().filter(|reading| reading.records().is_none());
    let (committed, new): (Vec<&Reading>, Vec<&Reading>) =
        unknown.partition(|reading| reading.committed.is_some());
    let uncounted = |which: &[&Reading], why: &str| match which.len() {
        0 => String::new(),
        n => format!("; not counting {} {why}", counted(n, "partition")),
    };
    uncounted(&new, "of which it has committed nothing") + &uncounted(&committed, "whose end is not known")
}

#[cfg(test)]
mod tests {
    use millstream_client::consumer::TopicPartition;

    use super::*;

    /// A group's position in a partition with ten records.
    fn reading(committed: Option<i64>, oldest_ms: Option<i64>) -> Reading {
        let partition = TopicPartition { topic: "t".into(), partition: 0 };
        Reading { partition, committed, begin: Some(0), end: Some(10), member: None, oldest_ms }
    }

    #[test]
    fn a_group_that_has_noted_nothing_yet_is_late_by_nobody_knows_how_much() {
        let empty = || Reading { end: Some(0), ..reading(None, None) };
        assert_eq!(oldest_ms(&[reading(None, None), empty()], 63_000), None);
        assert_eq!(oldest_ms(&[empty(), empty()], 63_000), Some(0));
        let some = [reading(Some(10), None), reading(Some(9), Some(1_000)), reading(None, None)];
        assert_eq!(oldest_ms(&some, 63_000), Some(62_000));
    }

    #[test]
    fn a_partition_whose_end_is_not_known_is_not_counted_for_that_reason() {
        let gone = Reading { begin: None, end: None, ..reading(Some(3), None) };
        assert_eq!(uncounted(&[gone]), "; not counting 1 partition whose end is not known");
    }

    #[test]
    fn the_headline_says_how_late_a_group_is() {
        let group = GroupDescription {
            name: "g".into(),
            state: "Empty".into(),
            protocol_type: "consumer".into(),
            protocol: String::new(),
            members: Vec::new(),
        };
        assert_eq!(
            headline(&group, &[reading(Some(9), Some(1_000)), reading(None, None)], 63_000),
            "group 'g' is Empty: 0 members, 1 record to read, the oldest 1m 2s old; not counting 1 partition of which it has committed nothing"
        );
        assert_eq!(
            headline(&group, &[reading(Some(10), None)], 0),
            "group 'g' is Empty: 0 members, 0 records to read"
        );
    }
}
