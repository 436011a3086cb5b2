//! `millstream group`: shows consumer groups and how far they have read, moves them, and removes them.

use clap::{Args, Subcommand};
use millstream_client::{
    ErrorCode,
    admin::{Admin, GroupDescription},
};
use serde_json::json;

use super::{
    connect::{Common, Output, runtime},
    error::{CliError, Missing},
    group_reset::{self, ResetArgs},
    lag::{Reading, readings},
    output::Out,
    when::lasting,
};
use crate::clock;

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
    /// Show a group's members, what they have read, and what is left.
    ///
    /// LAG is the number of records that are left to read. BEHIND is the age of the oldest of them: now, less its
    /// timestamp; it grows while nobody reads, and is zero when nothing is left.
    Describe {
        /// Its name.
        name: String,
    },
    /// Move a group that has no members to another place in a topic.
    ///
    /// The group need not exist yet.
    Reset(ResetArgs),
    /// Remove groups that have no members, and what they have noted.
    Delete {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Does what the command line says.
pub(super) fn run(args: GroupArgs) -> Result<(), CliError> {
    let (admin, output) = (Admin::new(args.common.cluster()), args.common.output);
    runtime()?.block_on(async move {
        let mut out = Out::new();
        match args.command {
            GroupCommand::List => list(&admin, output, &mut out).await?,
            GroupCommand::Describe { name } => describe(&admin, &name, output, &mut out).await?,
            GroupCommand::Reset(args) => group_reset::reset(&admin, &args, output, &mut out).await?,
            GroupCommand::Delete { names } => {
                for name in names {
                    admin.delete_group(&name).await.map_err(|error| busy_or(&name, error))?;
                    match output {
                        Output::Table => out.line(&format!("group '{name}' deleted"))?,
                        Output::Json => out.json(&json!({ "group": name, "result": "deleted" }))?,
                    }
                }
            }
        }
        out.flush()
    })
}

/// A group that cannot be changed because it has members is told in those words.
pub(super) fn busy_or(group: &str, error: millstream_client::ClientError) -> CliError {
    match error.code() {
        Some(
            ErrorCode::NON_EMPTY_GROUP | ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::REBALANCE_IN_PROGRESS,
        ) => CliError::GroupBusy { group: group.to_string() },
        Some(ErrorCode::GROUP_ID_NOT_FOUND) => CliError::Missing(Missing::Group { name: group.to_string() }),
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
            eprintln!("there are no groups; `millstream consume TOPIC --group NAME` makes one");
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
    let group = admin.describe_group(name).await.map_err(|error| busy_or(name, error))?;
    let readings = readings(admin, &group).await?;
    // Kafka describes what is not there as dead.
    if group.state == "Dead" && readings.is_empty() {
        return Err(CliError::Missing(Missing::Group { name: name.to_string() }));
    }
    match output {
        Output::Json => describe_json(&group, &readings, out),
        Output::Table => describe_table(&group, &readings, out),
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
            "offset": reading.noted,
            "log_start_offset": reading.begin,
            "end_offset": reading.end,
            "lag": reading.records(),
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
        "lag": readings.iter().filter_map(Reading::records).sum::<i64>(),
        "lag_seconds": in_seconds(readings.iter().filter_map(|reading| reading.age_ms(now_ms)).max()),
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
            known(reading.noted),
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

/// The group in one line.
fn headline(group: &GroupDescription, readings: &[Reading], now_ms: i64) -> String {
    let (name, state, members) = (&group.name, &group.state, group.members.len());
    let lag: i64 = readings.iter().filter_map(Reading::records).sum();
    let unknown = readings.iter().filter(|reading| reading.records().is_none()).count();
    let behind = match readings.iter().filter_map(|reading| reading.age_ms(now_ms)).max() {
        Some(ms) if lag > 0 => format!(", the oldest {} old", lasting(ms)),
        _ => String::new(),
    };
    let but = match unknown {
        0 => String::new(),
        n => format!("; not counting {n} {} of which it has noted nothing", plural(n, "partition")),
    };
    format!(
        "group '{name}' is {state}: {members} {}, {lag} {} to read{behind}{but}",
        plural(members, "member"),
        plural(usize::try_from(lag).unwrap_or(0), "record"),
    )
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { what.to_string() } else { format!("{what}s") }
}

#[cfg(test)]
mod tests {
    use millstream_client::consumer::TopicPartition;

    use super::*;

    #[test]
    fn the_headline_says_how_late_a_group_is() {
        let group = GroupDescription {
            name: "g".into(),
            state: "Empty".into(),
            protocol_type: "consumer".into(),
            protocol: String::new(),
            members: Vec::new(),
        };
        let reading = |noted, oldest_ms| Reading {
            partition: TopicPartition { topic: "t".into(), partition: 0 },
            noted,
            begin: Some(0),
            end: Some(10),
            member: None,
            oldest_ms,
        };
        assert_eq!(
            headline(&group, &[reading(Some(9), Some(1_000)), reading(None, None)], 63_000),
            "group 'g' is Empty: 0 members, 1 record to read, the oldest 1m 2s old; not counting 1 partition of which it has noted nothing"
        );
        assert_eq!(
            headline(&group, &[reading(Some(10), None)], 0),
            "group 'g' is Empty: 0 members, 0 records to read"
        );
    }
}
